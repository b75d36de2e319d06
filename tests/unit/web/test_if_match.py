"""If-Match: a change that rests on a state which is gone is refused, and none is ever lost."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from perdure import Actor, App, Limits, Log, Map, expose, interleave, read, relaxed
from perdure.base.clock import SystemClock
from perdure.cluster import frames, handshake
from perdure.runtime.place import Place
from perdure.store.memory import MemoryStore
from perdure.testing import VirtualClock, async_test, crash, running

KEY = b"a key for tests, 32 bytes long.."
GATES: list[asyncio.Event] = []  # the newest is the test's own


def page_class() -> Any:
    """A class of its own for each App: one can run in one App of a process only."""

    class Page(Actor):
        lines: list[str] = []
        notes: Map[str, str] = Map()

        @expose
        @read
        async def show(self) -> list[str]:
            return self.lines

        @expose
        async def replace(self, lines: list[str]) -> list[str]:
            self.lines = lines
            return self.lines

        @expose
        async def slow(self, lines: list[str]) -> list[str]:
            await GATES[-1].wait()
            self.lines = lines
            return self.lines

        @expose
        @interleave
        async def mixed(self, line: str) -> list[str]:
            await GATES[-1].wait()
            self.lines.append(line)
            return self.lines

        @expose
        async def note(self, name: str, text: str) -> None:
            self.notes[name] = text

        @expose
        async def drop(self) -> None:
            self.forget()

        @expose
        @relaxed(loss_max_s=60)
        async def hurry(self, line: str) -> None:
            self.lines.append(line)

        @expose
        @interleave
        @read
        async def watch(self) -> list[str]:
            await asyncio.sleep(0)
            return self.lines

    return Page


class Plain(Actor):
    """Without collections."""

    lines: list[str] = []
    times: int = 0

    @expose
    @read
    async def show(self) -> list[str]:
        return self.lines

    @expose
    async def add(self, line: str) -> int:
        self.lines.append(line)
        return len(self.lines)

    @expose
    async def replace(self, lines: list[str]) -> list[str]:
        self.lines = lines
        return self.lines


@asynccontextmanager
async def client(app: App) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        yield http


@asynccontextmanager
async def one_process(folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with App(page_class(), store=f"sqlite:{folder}/data") as app, client(app) as http:
        yield http


@asynccontextmanager
async def web_and_owner(folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    at = f"unix:{folder}/owner"
    owner, web = App(page_class(), store=f"sqlite:{folder}/data"), App(page_class())
    async with AsyncExitStack() as stack:
        await owner.start(place=Place("state", key=KEY, listen=at))
        stack.push_async_callback(owner.stop, 0)
        await web.start(place=Place("web", key=KEY, state_at=at))
        stack.push_async_callback(web.stop, 0)
        yield await stack.enter_async_context(client(web))


both = pytest.mark.parametrize("serving", [one_process, web_and_owner])


async def tag_of(http: httpx.AsyncClient, path: str = "/page/a/show") -> str:
    return (await http.get(path)).headers["etag"]


async def put(http: httpx.AsyncClient, tag: str, path: str = "/page/a/replace", **more: Any) -> Any:
    headers = {"if-match": tag, **more.pop("headers", {})}
    return await http.post(path, json=more or {"lines": ["x"]}, headers=headers)


@both
def test_a_change_is_made_on_the_state_that_was_read_only(serving: Any, tmp_path: Path) -> None:
    @async_test
    async def asking() -> None:
        async with serving(tmp_path) as http:
            first = await tag_of(http)
            done = await put(http, first)
            assert (done.status_code, done.json()) == (200, ["x"])
            assert "etag" not in done.headers  # it is no view of the state
            late = await put(http, first, lines=["late"])
            assert late.status_code == 412
            assert late.headers["content-type"] == "application/problem+json"
            problem = late.json()
            assert problem["type"] == "urn:perdure:problem:precondition-failed"
            assert problem["title"] == "The state has changed"
            assert problem["detail"].startswith("Page('a') is not in the state that was read")
            second = await tag_of(http)
            assert second != first
            for listed in (f'"other", {second}', f"W/{second}", f"{first} , {second},"):
                assert (await put(http, listed)).status_code == 200
                second = await tag_of(http)
            assert (await http.get("/page/a/show")).json() == ["x"]

    asking()


@both
def test_of_many_writers_none_loses_what_another_wrote(serving: Any, tmp_path: Path) -> None:
    writers, times = 12, 6

    async def write(http: httpx.AsyncClient, name: str) -> int:
        tries = 0
        for number in range(times):
            while True:
                tries += 1
                seen = await http.get("/page/a/show")
                if "-" not in seen.headers.get("etag", ""):
                    continue
                lines = [*seen.json(), f"{name}/{number}"]
                done = await put(http, seen.headers["etag"], lines=lines)
                if done.status_code == 200:
                    break
                assert done.status_code == 412
        return tries

    @async_test
    async def asking() -> None:
        async with serving(tmp_path) as http:
            tries = await asyncio.gather(*(write(http, f"w{one}") for one in range(writers)))
            lines = (await http.get("/page/a/show")).json()
            assert sorted(lines) == sorted(
                f"w{one}/{number}" for one in range(writers) for number in range(times)
            )
            for one in range(writers):  # each in its own order
                own = [line for line in lines if line.startswith(f"w{one}/")]
                assert own == [f"w{one}/{number}" for number in range(times)]
            assert sum(tries) > writers * times, "nobody met anybody: this test shows nothing"

    asking()


@async_test
async def test_a_read_amid_a_commit_has_a_tag_only_if_nothing_came_behind_it() -> None:
    async with running(Plain) as app, client(app) as http:
        await http.post("/plain/a/add", json={"line": "0"})

        async def add(line: str) -> Any:
            return await http.post("/plain/a/add", json={"line": line})

        async def show() -> Any:
            return await http.get("/plain/a/show")

        _, between, _, behind = await asyncio.gather(add("1"), show(), add("2"), show())
        assert app.statistics()["commits"] == 2, "they were to share a commit"
        assert between.json() == ["0", "1"]
        assert behind.json() == ["0", "1", "2"]
        assert "etag" not in between.headers
        tag = behind.headers["etag"]
        assert tag == (await show()).headers["etag"]
        assert (await put(http, tag, "/plain/a/replace")).status_code == 200


@both
def test_tags_survive_sleep_and_restart(serving: Any, tmp_path: Path) -> None:
    @async_test
    async def asking() -> None:
        async with serving(tmp_path) as http:
            await http.post("/page/a/replace", json={"lines": ["x"]})
            written, never = await tag_of(http), await tag_of(http, "/page/b/show")
        async with serving(tmp_path) as http:
            assert await tag_of(http) == written
            assert (await put(http, written, lines=["y"])).status_code == 200
            assert (await put(http, written)).status_code == 412
            assert (await put(http, never, "/page/b/replace")).status_code == 200

    asking()


@async_test
async def test_tags_survive_a_crash_and_being_put_to_sleep() -> None:
    page = page_class()
    async with running(page, limits=Limits(idle_sleep_s=0.02)) as app, client(app) as http:
        await http.post("/page/a/replace", json={"lines": ["x"]})
        tag = await tag_of(http)
        while app.awake().get("page"):
            await asyncio.sleep(0.005)
        assert (await put(http, tag, lines=["y"])).status_code == 200
        tag = await tag_of(http)
        await crash(app)
        assert (await put(http, tag)).status_code == 200


@both
def test_a_replay_gives_the_first_answer_though_the_state_has_changed(
    serving: Any, tmp_path: Path
) -> None:
    @async_test
    async def asking() -> None:
        async with serving(tmp_path) as http:
            key = {"headers": {"idempotency-key": "k1"}}
            tag = await tag_of(http)
            assert (await put(http, tag, lines=["1"], **key)).json() == ["1"]
            await http.post("/page/a/replace", json={"lines": ["2"]})
            again = await put(http, tag, lines=["1"], **key)
            assert (again.status_code, again.json()) == (200, ["1"])
            assert again.headers["idempotent-replayed"] == "true"
            assert (await http.get("/page/a/show")).json() == ["2"]
            # a refusal is not remembered: with a tag that fits the same key does it
            key = {"headers": {"idempotency-key": "k2"}}
            assert (await put(http, tag, lines=["3"], **key)).status_code == 412
            assert (await put(http, await tag_of(http), lines=["3"], **key)).json() == ["3"]

    asking()


@async_test
async def test_it_holds_with_a_key_where_the_store_has_to_be_waited_for() -> None:
    store = MemoryStore()
    store.reads_never_wait = False
    async with running(page_class(), store=store) as app, client(app) as http:
        stale = await tag_of(http)
        await http.post("/page/a/replace", json={"lines": ["1"]})
        key = {"headers": {"idempotency-key": "k"}}
        assert (await put(http, stale, lines=["2"], **key)).status_code == 412
        assert (await http.get("/page/a/show")).json() == ["1"]
        assert (await put(http, await tag_of(http), lines=["2"], **key)).json() == ["2"]
        assert (await put(http, stale, lines=["2"], **key)).json() == ["2"]


@both
def test_entries_of_collections_are_part_of_the_state(serving: Any, tmp_path: Path) -> None:
    @async_test
    async def asking() -> None:
        async with serving(tmp_path) as http:
            await http.post("/page/a/replace", json={"lines": ["x"]})
            tag = await tag_of(http)
            await http.post("/page/a/note", json={"name": "n", "text": "t"})
            assert (await put(http, tag)).status_code == 412
            assert (await put(http, await tag_of(http))).status_code == 200

    asking()


@async_test
async def test_a_read_that_is_committed_itself_gives_the_tag_of_that_commit() -> None:
    class Guest(Actor, ttl=timedelta(seconds=1000)):
        name: str = ""

        @expose
        async def call(self, name: str) -> None:
            self.name = name

        @expose
        @read
        async def show(self) -> str:
            return self.name

    clock = VirtualClock()
    async with running(Guest, clock=clock) as app, client(app) as http:
        await http.post("/guest/a/call", json={"name": "ann"})
        keyed = await http.get("/guest/a/show", headers={"idempotency-key": "k"})
        await clock.advance(200)
        noted = await http.get("/guest/a/show")  # notes that the actor is in use
        assert app.statistics()["commits"] == 3
        assert len({keyed.headers["etag"], noted.headers["etag"]}) == 2
        done = await put(http, noted.headers["etag"], "/guest/a/call", name="bob")
        assert done.status_code == 200
        keyed = await http.get("/guest/a/show", headers={"idempotency-key": "l"})
        done = await put(http, keyed.headers["etag"], "/guest/a/call", name="cid")
        assert done.status_code == 200


@pytest.mark.parametrize(
    ("method", "sent"), [("replace", {"lines": ["x"]}), ("note", {"name": "n", "text": "t"})]
)
def test_a_read_that_shares_its_own_commit_with_a_change_gives_no_tag_of_it(
    method: str, sent: dict[str, Any]
) -> None:
    @async_test
    async def asking() -> None:
        async with running(page_class()) as app, client(app) as http:
            await http.post("/page/a/replace", json={"lines": ["w"]})
            shown, changed = await asyncio.gather(
                http.get("/page/a/show", headers={"idempotency-key": "k"}),
                http.post(f"/page/a/{method}", json=sent),
            )
            assert app.statistics()["commits"] == 2, "they were to share a commit"
            assert (shown.json(), changed.status_code) == (["w"], 200)
            assert (await put(http, shown.headers["etag"])).status_code == 412

    asking()


@async_test
async def test_an_actor_that_was_forgotten_and_made_anew_is_another() -> None:
    async with running(page_class()) as app, client(app) as http:
        await http.post("/page/a/replace", json={"lines": ["x"]})
        tag = await tag_of(http)
        read_at_ms = SystemClock().wall_ms()
        while SystemClock().wall_ms() == read_at_ms:  # the clock that tags are made with
            await asyncio.sleep(0)
        await http.post("/page/a/drop")
        assert (await put(http, tag)).status_code == 412
        await http.post("/page/a/replace", json={"lines": ["x"]})
        assert (await put(http, tag)).status_code == 412


@both
def test_a_star_wants_an_actor_that_was_written(serving: Any, tmp_path: Path) -> None:
    @async_test
    async def asking() -> None:
        async with serving(tmp_path) as http:
            assert (await put(http, "*")).status_code == 412
            assert (await http.get("/page/a/show")).json() == []
            await http.post("/page/a/replace", json={"lines": ["x"]})
            assert (await put(http, "*", lines=["y"])).json() == ["y"]
            await http.post("/page/a/drop")
            assert (await put(http, "*")).status_code == 412

    asking()


@both
def test_what_fits_no_state_is_refused(serving: Any, tmp_path: Path) -> None:
    @async_test
    async def asking() -> None:
        async with serving(tmp_path) as http:
            await http.post("/page/a/replace", json={"lines": ["x"]})
            await http.post("/page/b/replace", json={"lines": ["x"]})
            tag = await tag_of(http)
            whole, state = tag.strip('"').split("-")
            other = await tag_of(http, "/page/b/show")
            for wrong in (other, f'"{whole}"', f'"{state}"', f'"{state}-{whole}"', '"-"', '""'):
                assert (await put(http, wrong)).status_code == 412, wrong
            for garbled in (state, "", "x, y", f"{tag} {tag}", f"*, {tag}"):
                reply = await put(http, garbled)
                assert (reply.status_code, reply.json()["field"]) == (422, "If-Match"), garbled
            # what the view was does not matter: the state does
            assert (await put(http, f'"{"0" * 32}-{state}"')).status_code == 200

    asking()


@both
def test_a_read_may_be_asked_on_condition_too(serving: Any, tmp_path: Path) -> None:
    @async_test
    async def asking() -> None:
        async with serving(tmp_path) as http:
            tag = await tag_of(http)
            path = "/page/a/show"
            assert (await http.get(path, headers={"if-match": tag})).status_code == 200
            assert (await http.post(path, headers={"if-match": tag})).status_code == 200
            assert (await http.get(path, headers={"if-none-match": tag})).status_code == 304
            await http.post("/page/a/replace", json={"lines": ["x"]})
            assert (await http.get(path, headers={"if-match": tag})).status_code == 412
            assert (await http.head(path, headers={"if-match": tag})).status_code == 412
            assert (await http.get(path, headers={"if-none-match": tag})).status_code == 200

    asking()


@async_test
async def test_what_no_commit_holds_has_no_tag() -> None:
    async with running(page_class()) as app, client(app) as http:
        before = await tag_of(http)
        await http.post("/page/a/hurry", json={"line": "r"})
        assert "etag" not in (await http.get("/page/a/show")).headers
        assert (await put(http, before)).status_code == 412
        await http.post("/page/a/replace", json={"lines": ["x"]})  # commits both
        assert (await put(http, await tag_of(http))).status_code == 200
        assert "etag" not in (await http.get("/page/a/watch")).headers  # it may see two states


@pytest.mark.parametrize("method", ["slow", "mixed"])
def test_nothing_comes_between_the_look_and_the_change(method: str) -> None:
    @async_test
    async def asking() -> None:
        GATES.append(gate := asyncio.Event())
        async with running(page_class()) as app, client(app) as http:
            tag = await tag_of(http)
            more: dict[str, Any] = {"lines": ["slow"]} if method == "slow" else {"line": "slow"}
            first = asyncio.create_task(put(http, tag, f"/page/a/{method}", **more))
            while not app.awake().get("page"):
                await asyncio.sleep(0)
            second = asyncio.create_task(put(http, tag, lines=["quick"]))
            for _ in range(20):
                await asyncio.sleep(0)
            assert not second.done()
            gate.set()
            assert (await first).json() == ["slow"]
            assert (await second).status_code == 412
            assert (await http.get("/page/a/show")).json() == ["slow"]

    asking()


@async_test
async def test_a_plain_function_has_no_state_to_compare() -> None:
    app = App(store="memory:")
    calls = []

    @app.post("/do")
    async def do() -> None:
        calls.append(1)

    async with app, client(app) as http:
        reply = await http.post("/do", headers={"if-match": '"x"'})
    assert (reply.status_code, reply.json()["field"]) == (422, "If-Match")
    assert not calls


def test_an_owner_of_the_version_before_never_runs_it_on_any_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would overlook If-Match. The call waits for another owner, until its deadline."""

    class Old(handshake.ServerHandshake):
        def __init__(self, *positional: Any, **named: Any) -> None:
            super().__init__(*positional, **named, versions=(1, 1))

    monkeypatch.setattr("perdure.cluster.link.ServerHandshake", Old)
    assert frames.LOOKING_VERSION > 1

    @async_test
    async def asking() -> None:
        at = f"unix:{tmp_path}/owner"
        owner = App(page_class(), store="memory:")
        web = App(page_class(), limits=Limits(call_timeout_s=0.5))
        async with AsyncExitStack() as stack:
            await owner.start(place=Place("state", key=KEY, listen=at))
            stack.push_async_callback(owner.stop, 0)
            await web.start(place=Place("web", key=KEY, state_at=at))
            stack.push_async_callback(web.stop, 0)
            http = await stack.enter_async_context(client(web))
            shown = await http.get("/page/a/show")
            assert (shown.status_code, shown.json()) == (200, [])
            assert "etag" not in shown.headers
            refused = await put(http, "*")
            assert refused.status_code == 503
            assert refused.json()["type"] == "urn:perdure:problem:unreachable"
            assert (await http.get("/page/a/show")).json() == []

    asking()


class Journal(Actor):
    """Only a log."""

    lines: Log[str] = Log()

    @expose
    async def add(self, line: str) -> int:
        return self.lines.append(line)

    @expose
    @read
    async def last(self) -> list[str]:
        return await self.lines.last()


@async_test
async def test_of_entries_that_share_a_commit_no_tag_is_given_amid_it() -> None:
    async with running(Journal) as app, client(app) as http:
        await http.post("/journal/a/add", json={"line": "0"})
        add = http.post("/journal/a/add", json={"line": "1"})
        _, amid = await asyncio.gather(add, http.get("/journal/a/last"))
        assert "etag" not in amid.headers
        assert "-" in await tag_of(http, "/journal/a/last")
