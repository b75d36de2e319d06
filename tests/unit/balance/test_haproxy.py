"""The engine `haproxy`, with the real program on loopback."""

import asyncio
import contextlib
import os
import shutil
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from urllib.parse import quote

import pytest

from perdure.balance.haproxy import Haproxy
from perdure.balance.haproxy_config import HaproxyOptions
from perdure.balance.sources import Found, target_of
from perdure.base.errors import EngineError
from perdure.base.shards import SHARDS, shard_of
from perdure.testing import async_test

pytestmark = pytest.mark.skipif(
    shutil.which("haproxy") is None, reason="HAProxy is not installed: apt install haproxy"
)

KEYS = ["alice", "böb", "a/b", "a b", "a+b", "100%", "日本", "x" * 200]


class Web:
    """A server that answers with its name; and can be told not to be ready."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_ready = True
        self.heads: list[str] = []

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self.server = await loop.create_server(lambda: _Answering(self), "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"

    def answer(self, head: str) -> bytes:
        status = 200 if self.is_ready or "/-/ready" not in head else 503
        if "/-/ready" not in head:
            self.heads.append(head)
        return (
            f"HTTP/1.1 {status} X\r\ncontent-length: {len(self.name)}\r\n\r\n{self.name}".encode()
        )


class _Answering(asyncio.Protocol):
    """A connection to a server."""

    def __init__(self, web: Web) -> None:
        self.web = web

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(self.web.answer(data.decode("latin-1")))  # type: ignore[attr-defined]


class Bench:
    """HAProxy, and the servers behind it."""

    def __init__(self, **options: object) -> None:
        with socket.create_server(("127.0.0.1", 0)) as bound:
            self.port = bound.getsockname()[1]
        listen = f"127.0.0.1:{self.port}"
        self.engine = Haproxy(HaproxyOptions(listen=listen, **options))  # type: ignore[arg-type]
        self.webs: list[Web] = []
        self.running: asyncio.Task[None] | None = None

    async def add(self, name: str) -> Web:
        web = Web(name)
        await web.start()
        self.webs.append(web)
        return web

    async def take(self, *webs: Web, draining: tuple[Web, ...] = (), owners: object = None) -> None:
        """Tell HAProxy of these, and wait until it has taken it in."""
        targets = tuple(target_of(web.address, name=web.name) for web in webs)
        names = frozenset(web.name for web in draining)
        self.engine.take(Found(targets, names, owners))  # type: ignore[arg-type]
        if self.running is None:
            self.running = asyncio.create_task(self.engine.run())

        def is_told() -> bool:
            assert self.running is not None
            if self.running.done():
                self.running.result()
            told = {slot.target.name: slot for slot in self.engine.state.slots if slot.target}
            return (
                set(told) == {web.name for web in webs}
                and {name for name, slot in told.items() if slot.is_draining} == names
                and sum(one is not None for one in self.engine.state.owners)
                == sum(one is not None for one in owners or ())  # type: ignore[attr-defined]
                and self.engine._has_news.is_set() is False
            )

        await until(is_told)

    async def get(self, path: str = "/", *headers: str) -> tuple[int, str]:
        """The status and the body of an answer; 0 where nobody listens."""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except ConnectionError:
            return 0, ""
        lines = [f"GET {path} HTTP/1.1", "host: shop", "connection: close", *headers, "", ""]
        writer.write("\r\n".join(lines).encode())
        try:
            answer = (await reader.read()).decode("latin-1")
        except ConnectionError:
            return 0, ""
        finally:
            await closed(writer)
        head, _, body = answer.partition("\r\n\r\n")
        return int(head.split()[1]), body

    async def spread(self, count: int = 30) -> set[str]:
        """Who answers."""
        answers = [await self.get() for _ in range(count)]
        assert {status for status, _ in answers} == {200}
        return {body for _, body in answers}

    async def comes_to(self, names: set[str]) -> None:
        """Wait until it is these who answer: HAProxy checks who is new before it asks them."""

        async def is_so() -> bool:
            return await self.spread() == names

        await until_so(is_so)


@asynccontextmanager
async def bench(*names: str, **options: object) -> AsyncIterator[Bench]:
    made = Bench(**options)
    for name in names:
        await made.add(name)
    try:
        yield made
    finally:
        if made.running is not None:
            made.running.cancel()
            await asyncio.gather(made.running, return_exceptions=True)
        for web in made.webs:
            web.server.close()


async def closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # or the test's own time is over
        await asyncio.sleep(0.01)


async def until_so(condition: Callable[[], Awaitable[bool]]) -> None:
    while not await condition():
        await asyncio.sleep(0.02)


@async_test
async def test_requests_are_spread_over_what_there_is_and_that_changes_without_a_reload() -> None:
    async with bench("a", "b", "c") as here:
        a, b, c = here.webs
        await here.take(a, b)
        await here.comes_to({"a", "b"})
        pid = here.engine._child.pid  # type: ignore[union-attr]
        await here.take(b, c)
        await here.comes_to({"b", "c"})
        await here.take(a)
        await here.comes_to({"a"})
        assert here.engine._child.pid == pid  # type: ignore[union-attr]


@async_test
async def test_who_drains_gets_nothing_new_and_may_come_back() -> None:
    async with bench("a", "b") as here:
        a, b = here.webs
        await here.take(a, b, draining=(a,))
        await here.comes_to({"b"})
        await here.take(a, b)
        await here.comes_to({"a", "b"})
        await here.take(a, b, draining=(b,))
        await here.comes_to({"a"})


@async_test
async def test_who_is_not_ready_is_left_out_until_it_is() -> None:
    async with bench("a", "b") as here:
        a, b = here.webs
        await here.take(a, b)
        a.is_ready = False

        async def only_b() -> bool:
            return await here.spread() == {"b"}

        async def both() -> bool:
            return await here.spread() == {"a", "b"}

        await until_so(only_b)
        a.is_ready = True
        await until_so(both)


@async_test
async def test_weights_are_told() -> None:
    async with bench("a", "b", policy="round-robin") as here:
        a, b = here.webs
        heavy = (target_of(a.address, name="a", weight=3), target_of(b.address, name="b"))
        await here.take(a, b)
        here.engine.take(Found(heavy))
        await until(lambda: heavy[0] in [slot.target for slot in here.engine.state.slots])
        answers = [(await here.get())[1] for _ in range(40)]
        assert answers.count("a") == 30


@async_test
async def test_what_clients_say_of_themselves_is_not_passed_on() -> None:
    async with bench("a") as here:
        await here.take(*here.webs)
        await here.get("/", "x-forwarded-for: 6.6.6.6", "forwarded: for=6.6.6.6")
        head = here.webs[0].heads[-1].lower()
        assert "6.6.6.6" not in head
        assert "x-forwarded-for: 127.0.0.1" in head
        assert "x-forwarded-proto: http" in head


@pytest.mark.parametrize("hash_by", ["header:x-key", "cookie:k", "path:2"])
def test_one_key_always_goes_to_the_same(hash_by: str) -> None:
    @async_test
    async def body() -> None:
        async with bench("a", "b", policy="hash", hash_by=hash_by) as here:
            await here.take(*here.webs)
            seen = set()
            for key in ("k1", "k2", "k3", "k4", "k5", "k6", "k7", "k8"):
                answers = {
                    (await here.get(f"/x/{key}/y", f"x-key: {key}", f"cookie: k={key}"))[1]
                    for _ in range(4)
                }
                assert len(answers) == 1
                seen |= answers
            assert seen == {"a", "b"}

    body()


@async_test
async def test_a_haproxy_that_dies_is_started_again_as_it_was() -> None:
    async with bench("a", "b") as here:
        a, b = here.webs
        await here.take(a, b, draining=(b,))
        here.engine._child.kill()  # type: ignore[union-attr]

        async def serves() -> bool:
            return (await here.get())[0] == 200

        await until_so(serves)
        await here.comes_to({"a"})  # it is told who drains in the moment after it has started


@async_test
async def test_it_ends_with_who_started_it() -> None:
    async with bench("a") as here:
        await here.take(*here.webs)
        pid = here.engine._child.pid  # type: ignore[union-attr]
        here.running.cancel()  # type: ignore[union-attr]
        await asyncio.gather(here.running, return_exceptions=True)  # type: ignore[arg-type]
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        assert await here.get() == (0, "")


@async_test
async def test_what_cannot_be_started_says_why() -> None:
    async with bench("a") as here:
        await here.take(*here.webs)
        other = Haproxy(HaproxyOptions(listen=here.webs[0].address))  # which is taken
        other.take(Found((target_of("127.0.0.1:1"),)))
        with pytest.raises(EngineError, match="does not start"):
            await other.run()
    with pytest.raises(EngineError, match="no such-program"):
        await Haproxy(HaproxyOptions(listen=":1"), program="such-program").run()


@async_test
async def test_tcp_connections_are_passed_on_with_who_is_connected() -> None:
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if received := await reader.read(100):
            heard.put_nowait(received)
        await closed(writer)

    async with bench(mode="tcp", health_path=None, send_proxy=True) as here:
        web = await here.add("a")
        web.server.close()
        web.server = await asyncio.start_server(listen, "127.0.0.1", web.port)
        await here.take(web)
        ports = []
        while True:  # checks of health are heard too
            _, writer = await asyncio.open_connection("127.0.0.1", here.port)
            ports.append(writer.get_extra_info("sockname")[1].to_bytes(2, "big"))
            writer.write(b"hello")
            received = await heard.get()
            await closed(writer)
            if received.endswith(b"hello"):
                break
        assert received.startswith(b"\r\n\r\n\0\r\nQUIT\n\x21\x11")
        assert any(port in received for port in ports)


# -- by owner --------------------------------------------------------------------------------------


@async_test
async def test_an_actors_requests_go_to_its_owner_as_python_computes_it() -> None:
    async with bench("a", "b", by_owner=("cart",)) as here:
        owners = tuple("a" if shard % 3 else "b" for shard in range(SHARDS))
        await here.take(*here.webs, owners=owners)
        for key in KEYS:
            for method in ("/add", "/view?x=1", "/items/live"):
                answer = await here.get(f"/cart/{quote(key, safe='')}{method}")
                assert answer == (200, owners[shard_of(key)])
        assert await here.spread() == {"a", "b"}  # all else goes anywhere
        assert {(await here.get("/carts/alice/x"))[1] for _ in range(30)} == {"a", "b"}


@async_test
async def test_a_shard_without_an_owner_gets_503_and_nobody_else() -> None:
    async with bench("a", "b", by_owner=("cart",)) as here:
        shard = shard_of("alice")
        owners = tuple(None if one == shard else "a" for one in range(SHARDS))
        await here.take(*here.webs, owners=owners)
        assert await here.get("/cart/alice/add") == (503, "no owner\n")
        assert (await here.get("/cart/bob/add"))[0] == 200
        await here.take(*here.webs)  # nothing is known of owners
        assert (await here.get("/cart/bob/add"))[0] == 503
        assert (await here.get("/cart//add"))[0] == 503
        assert await here.spread() == {"a", "b"}


@async_test
async def test_an_owner_that_is_down_unready_or_gone_gets_no_stand_in() -> None:
    async with bench("a", "b", by_owner=("cart",)) as here:
        a, b = here.webs
        await here.take(a, b, owners=("a",) * SHARDS)
        a.is_ready = False

        async def only_b() -> bool:
            return await here.spread() == {"b"}

        await until_so(only_b)
        assert await here.get("/cart/alice/add") == (200, "a")  # still the one, while it answers
        a.server.close()
        assert (await here.get("/cart/alice/add"))[0] == 503
        await here.take(b)  # it is gone from the list, the map not yet new
        assert (await here.get("/cart/alice/add"))[0] == 503
        await here.take(b, owners=("b",) * SHARDS)
        assert await here.get("/cart/alice/add") == (200, "b")


@async_test
async def test_an_owner_that_drains_still_gets_its_own() -> None:
    async with bench("a", "b", by_owner=("cart",)) as here:
        a, b = here.webs
        await here.take(a, b, draining=(a,), owners=("a",) * SHARDS)
        assert await here.get("/cart/alice/add") == (200, "a")
        assert await here.spread() == {"b"}


@async_test
async def test_while_owners_and_slots_change_no_request_goes_to_the_wrong_one() -> None:
    async with bench("a", "b", "c", by_owner=("cart",)) as here:
        a, b, c = here.webs
        allowed = {"a", "b"}
        wrong: list[tuple[int, str]] = []
        answered = 0
        is_over = False

        async def ask() -> None:
            nonlocal answered
            while not is_over:
                status, body = await here.get("/cart/alice/add")
                answered += 1
                if status == 200 and body not in allowed:
                    wrong.append((status, body))

        await here.take(a, b, c, owners=("a",) * SHARDS)
        asking = asyncio.create_task(ask())
        for _ in range(10):
            await here.take(b, c, owners=("b",) * SHARDS)  # a's slot is free
            await here.take(b, c, a, owners=("a",) * SHARDS)
        is_over = True
        await asking
        assert answered > 10
        assert wrong == []


def test_the_options_say_what_haproxy_cannot() -> None:
    for options in (
        HaproxyOptions(listen=":80", by_owner=("a b",)),
        HaproxyOptions(listen=":80", health_path="/x y"),
        HaproxyOptions(listen=":80", trusted=("10.0.0.1/8",)),
        HaproxyOptions(listen=":80", policy="hash", hash_by="header:a b"),
        HaproxyOptions(listen=":80", policy="hash"),
        HaproxyOptions(listen=":80", mode="tcp", by_owner=("cart",)),
    ):

        @async_test
        async def body(options: HaproxyOptions = options) -> None:
            engine = Haproxy(options)
            engine.take(Found((target_of("127.0.0.1:1"),)))
            with pytest.raises(EngineError):
                await engine.run()

        body()
