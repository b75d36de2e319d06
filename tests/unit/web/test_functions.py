"""Plain functions of an App: what they get, what they answer, and what is refused."""

import asyncio
import socket
from datetime import datetime
from typing import Annotated, Any

import httpx
import msgspec
import pytest
from starlette.requests import HTTPConnection

from perdure import (
    Actor,
    App,
    Caller,
    DefinitionError,
    DomainError,
    Limits,
    anyone,
    expose,
    owner,
    signed_in,
)
from perdure.testing import async_test
from perdure.web.server import Server


class Shelf(Actor):
    left: int = 3

    @expose
    async def take(self, count: int = 1) -> int:
        self.left -= count
        return self.left


class Line(msgspec.Struct):
    sku: str
    count: Annotated[int, msgspec.Meta(ge=1)] = 1


class SoldOut(DomainError):
    status = 409


def _client(app: Any, **headers: str) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers)


async def _by_header(connection: HTTPConnection) -> Caller | None:
    name = connection.headers.get("x-name")
    return Caller(name) if name else None


def _type(reply: httpx.Response) -> str:
    return str(reply.json()["type"]).removeprefix("urn:perdure:problem:")


@async_test
async def test_arguments_come_from_the_path_the_query_and_the_body() -> None:
    app = App(Shelf, store="memory:")

    @app.get("/quote/{sku}")
    async def quote(sku: str, count: int = 1, gift: bool = False) -> list[Any]:
        return [sku, count, gift]

    @app.put("/shelf-lines/{number}")
    async def put(number: int, lines: list[Line]) -> list[Any]:
        return [number, lines]

    @app.delete("/shelf-lines/{number}")
    async def drop(number: int, why: str) -> None:
        assert (number, why) == (7, "old")

    async with app, _client(app) as http:
        assert (await http.get("/quote/green%2Ftea?count=2&gift=true")).json() == [
            "green/tea",
            2,
            True,
        ]
        lines = [{"sku": "tea", "count": 2}]
        reply = await http.put("/shelf-lines/7", json={"lines": lines})
        assert reply.json() == [7, lines]
        assert (await http.delete("/shelf-lines/7?why=old")).json() is None
        head = await http.head("/quote/tea")
        assert (head.status_code, head.content) == (200, b"")
    assert await quote("tea") == ["tea", 1, False], "it is still the function that it was"


@async_test
async def test_what_does_not_fit_is_told_by_name() -> None:
    app = App(store="memory:")

    @app.post("/lines/{number}")
    async def add(number: int, line: Line) -> int:
        return number * line.count

    async with app, _client(app) as http:
        refused = [
            ("/lines/x", {"line": {"sku": "tea"}}, "number"),
            ("/lines/1", {"line": {"sku": "tea", "count": 0}}, "line.count"),
            ("/lines/1", {}, "line"),
            ("/lines/1", {"line": {"sku": "tea"}, "more": 1}, "more"),
        ]
        for path, body, field in refused:
            reply = await http.post(path, json=body)
            assert (reply.status_code, reply.json()["field"]) == (422, field)
        assert (await http.post("/lines/%ff", json={})).json()["field"] == "number"
        assert (await http.post("/lines/1", content=b"[" * 100_000)).status_code == 422


@async_test
async def test_a_query_has_one_meaning_or_none() -> None:
    app = App(store="memory:")

    @app.get("/span")
    async def span(start: datetime, name: str = "", end: datetime | None = None) -> str:
        return f"{start:%Y} {name}"

    async with app, _client(app) as http:
        assert (await http.get("/span?start=2026-01-31T12:00:00Z&name=a%20b")).json() == "2026 a b"
        for query, field, detail in [
            ("start=0&start=1", "start", "a query parameter came twice"),
            ("start=0&name=&name=", "name", "a query parameter came twice"),
            ("start=0&name=%FF", None, "the query is not UTF-8"),
            ("start=0&name=%ED%A0%80", None, "the query is not UTF-8"),
            ("start=253402300800", None, "year 10000 is out of range"),
            ("start=0&end=", "end", "Invalid RFC3339 encoded datetime"),
        ]:
            reply = await http.get(f"/span?{query}")
            assert (reply.status_code, _type(reply)) == (422, "bad-arguments"), query
            assert (reply.json().get("field"), reply.json()["detail"]) == (field, detail)


@async_test
async def test_a_function_calls_actors_and_its_refusals_are_problems() -> None:
    app = App(Shelf, store="memory:")

    @app.post("/take-all")
    async def take_all(keys: list[str]) -> int:
        left = sum([await Shelf.at(key).take() for key in keys])
        if left < 0:
            raise SoldOut("nothing is left")
        return left

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError("secret")

    @app.get("/unencodable")
    async def unencodable() -> Any:
        return object()

    async with app, _client(app) as http:
        assert (await http.post("/take-all", json={"keys": ["a", "b"]})).json() == 4
        reply = await http.post("/take-all", json={"keys": ["a"] * 9})
        assert (reply.status_code, _type(reply)) == (409, "sold-out")
        reply = await http.get("/broken")
        assert (reply.status_code, _type(reply)) == (500, "internal")
        assert "secret" not in reply.text
        assert _type(await http.get("/unencodable")) == "unencodable"


@async_test
async def test_the_fixed_part_wins_and_other_methods_are_405() -> None:
    app = App(store="memory:")

    @app.get("/quote/{sku}")
    async def one(sku: str) -> str:
        return sku

    @app.get("/quote/best")
    async def best() -> str:
        return "the best"

    @app.post("/quote/{sku}")
    async def post(sku: str) -> str:
        return f"posted {sku}"

    async with app, _client(app) as http:
        assert (await http.get("/quote/best")).json() == "the best"
        assert (await http.get("/quote/tea")).json() == "tea"
        assert (await http.post("/quote/tea")).json() == "posted tea"
        reply = await http.delete("/quote/tea")
        assert (reply.status_code, reply.headers["allow"]) == (405, "GET, HEAD, POST")
        for path in ("/quote/", "/quote", "/quote/tea/x", "/"):
            assert (await http.get(path)).status_code == 404, path


@async_test
async def test_access_is_checked_before_arguments() -> None:
    app = App(identify=_by_header, store="memory:")

    @app.get("/me")
    async def me(caller: Caller) -> str:
        return caller.id

    @app.get("/open", access=anyone)
    async def everyone(caller: Caller | None) -> str:
        return caller.id if caller else "guest"

    @app.get("/strict", access=anyone)
    async def strict(caller: Caller) -> str:
        return caller.id

    @app.get("/of/{key}/count", access=owner)
    async def of(key: str, count: int) -> int:
        return count

    @app.get("/rule/{key}", access=lambda caller, key: caller is not None and key == "yes")
    async def rule(key: str) -> str:
        return key

    @app.get("/signed", access=signed_in)
    async def signed(count: int) -> int:
        return count

    async with app, _client(app) as http, _client(app, **{"x-name": "ann"}) as ann:
        assert (await http.get("/me?count=nonsense")).status_code == 401
        assert (await http.get("/strict")).status_code == 401
        assert (await http.get("/signed?count=x")).status_code == 401
        assert (await http.get("/open")).json() == "guest"
        assert (await ann.get("/open")).json() == "ann"
        assert (await ann.get("/me")).json() == "ann"
        assert (await ann.get("/of/ann/count?count=2")).json() == 2
        assert (await ann.get("/of/bob/count?count=x")).status_code == 403
        assert (await ann.get("/rule/yes")).json() == "yes"
        assert (await ann.get("/rule/no")).status_code == 403
        assert (await http.get("/rule/yes")).status_code == 401


@async_test
async def test_pages_of_other_sites_may_look_but_not_change() -> None:
    app = App(store="memory:")

    @app.get("/thing")
    @app.put("/thing")
    async def thing() -> int:
        return 1

    async with app, _client(app, origin="http://evil.test") as http:
        assert (await http.get("/thing")).status_code == 200
        assert (await http.put("/thing")).status_code == 403


@async_test
async def test_a_function_ends_at_its_deadline() -> None:
    ended: list[str] = []
    app = App(store="memory:", limits=Limits(call_timeout_s=0.02))

    @app.get("/slow")
    async def slow() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    @app.get("/impatient")
    async def impatient() -> None:
        raise TimeoutError

    async with app, _client(app) as http:
        reply = await http.get("/slow")
        assert (reply.status_code, _type(reply)) == (504, "deadline")
        assert ended == ["cancelled"]
        assert (await http.get("/impatient")).status_code == 500, "that one is the function's own"


@async_test
async def test_only_so_many_run_at_once() -> None:
    gate = asyncio.Event()
    app = App(store="memory:", limits=Limits(functions_running_max=1))

    @app.get("/wait")
    async def wait() -> str:
        await gate.wait()
        return "done"

    async with app, _client(app) as http:
        first = asyncio.create_task(http.get("/wait"))
        await asyncio.sleep(0)
        while (second := await http.get("/wait")).status_code != 503:
            pass
        assert _type(second) == "overloaded"
        gate.set()
        assert (await first).json() == "done"
        assert (await http.get("/wait")).json() == "done", "the place is free again"


@async_test
async def test_a_stop_lets_functions_end_and_then_cuts_them_off() -> None:
    begun, gate = asyncio.Event(), asyncio.Event()
    app = App(store="memory:")

    @app.get("/wait")
    async def wait() -> str:
        begun.set()
        await gate.wait()
        return "done"

    async with _client(app) as http:
        await app.start()
        kept = asyncio.create_task(http.get("/wait"))
        await begun.wait()
        stopping = asyncio.create_task(app.stop())
        gate.set()
        assert (await kept).json() == "done"
        await stopping
        await app.start()
        gate.clear()
        begun.clear()
        cut = asyncio.create_task(http.get("/wait"))
        await begun.wait()
        await app.stop(drain_s=0)
        assert _type(await cut) == "stopping"


@async_test
async def test_our_own_server_serves_them_too() -> None:
    app = App(store="memory:", limits=Limits(call_body_bytes_max=100))

    @app.post("/size")
    async def size(text: str) -> int:
        return len(text)

    listening = socket.create_server(("127.0.0.1", 0))
    server = Server(app, None, app.limits)
    async with app:
        await server.start([listening])
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        async with httpx.AsyncClient(base_url=url) as http:
            assert (await http.post("/size", json={"text": "tea"})).json() == 3
            reply = await http.post("/size", json={"text": "x" * 200})
            assert (reply.status_code, _type(reply)) == (413, "body-too-large")
        await server.close()


async def _plain() -> None: ...


async def _one(sku: str) -> None: ...


async def _untyped(sku) -> None: ...  # type: ignore[no-untyped-def]


async def _spread(*skus: str) -> None: ...


async def _who(caller: Caller) -> None: ...


async def _actor(shelf: set[Line] | list[Line]) -> None: ...


def _sync() -> None: ...


@pytest.mark.parametrize(
    ("path", "function", "told"),
    [
        ("/sync", _sync, "to_thread"),
        ("/shelf/{sku}/take", _one, "actor class"),
        ("/shelf/a/{sku}", _one, "actor class"),
        ("/shelf/a/b/{sku}", _one, "actor class"),
        ("/shelf/a/b/live", _plain, "actor class"),
        ("/{sku}", _one, "begins with a parameter"),
        ("/-/live", _plain, "begins with a parameter"),
        ("quote", _plain, "is no path"),
        ("/quote?x=1", _plain, "is no path"),
        ("/quote/{sku}{more}", _one, "neither text nor"),
        ("/quote/{sku}/../x", _one, "neither text nor"),
        ("/quote/{}", _one, "neither text nor"),
        ("/quote/{sku}/{sku}", _one, "twice"),
        ("/quote/{other}", _one, "no such parameter"),
        ("/quote", _untyped, "has no type"),
        ("/quote", _spread, "no place"),
        ("/quote", _who, "identify"),
        ("/quote", _actor, "cannot be read from JSON"),
        ("/taken", _plain, "both answer"),
        ("/taken/{other}", _one, "no such parameter"),
    ],
)
def test_what_cannot_work_is_refused_at_once(path: str, function: Any, told: str) -> None:
    app = App(Shelf, store="memory:")
    app.get("/taken")(_plain)
    with pytest.raises(DefinitionError, match=told):
        app.get(path)(function)


def test_owner_needs_a_key_and_one_path_names_its_parameters_alike() -> None:
    app = App(store="memory:")
    with pytest.raises(DefinitionError, match="owner"):
        app.get("/quote/{sku}", access=owner)(_one)
    app.get("/quote/{sku}")(_one)

    async def other(name: str) -> None: ...

    with pytest.raises(DefinitionError, match="alike"):
        app.post("/quote/{name}")(other)


def test_paths_beside_an_actor_are_free() -> None:
    app = App(Shelf, store="memory:")
    for path in ("/shelf", "/shelf/{sku}", "/shelf/a/b/c", "/shelves/{sku}/take"):
        app.get(path)(_one if "{" in path else _plain)
    assert len(list(app.functions)) == 4


@async_test
async def test_nothing_is_registered_after_the_start() -> None:
    app = App(store="memory:")
    async with app:
        with pytest.raises(DefinitionError, match="before the App starts"):
            app.get("/late")
