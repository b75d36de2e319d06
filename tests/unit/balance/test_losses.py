"""Requests that are lost on their way: which are sent again, and which must not be."""

import asyncio
import socket
from collections.abc import Coroutine
from typing import Any, Self

import pytest
import uvloop
from tests.unit.balance.scripted import balancing, ok, say, until

from perdure.balance.backends import Backends, Rules, Target
from perdure.balance.health import HealthRules
from perdure.balance.server import Balancer
from perdure.balance.shared import Shared
from perdure.balance.sources import DnsSource, follow, into
from perdure.base.clock import SystemClock
from perdure.base.limits import BalanceLimits

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
RULES = Rules(slow_start_s=0)


def on_both_loops(function: Any) -> Any:
    """A test for the loop it is run on and for Python's own, which end connections differently."""

    @pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
    def test(run: Any) -> None:
        run(function())

    return test


class Hand:
    """A backend that a test plays itself, with plain sockets."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        self.port = self.listener.getsockname()[1]
        self.connections: list[socket.socket] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for one in (self.listener, *self.connections):
            one.close()

    async def accept(self) -> socket.socket:
        connection, _ = await asyncio.get_running_loop().sock_accept(self.listener)
        self.connections.append(connection)
        return connection

    async def read(self, connection: socket.socket, wanted: bytes) -> bytes:
        seen = b""
        async with asyncio.timeout(5):
            while wanted not in seen:
                piece = await asyncio.get_running_loop().sock_recv(connection, 65_536)
                assert piece, "the balancer has closed it"
                seen += piece
        return seen


class At:
    """A balancer in front of hands."""

    def __init__(self, *ports: int, limits: BalanceLimits | None = None) -> None:
        self.backends = Backends("round-robin", RULES)
        self.backends.update([Target(f"b{port}", "127.0.0.1", port) for port in ports])
        self.shared = Shared(self.backends, limits or BalanceLimits())
        self.balancer = Balancer(self.shared)

    async def __aenter__(self) -> Self:
        bound = socket.create_server(("127.0.0.1", 0))
        await self.balancer.start(bound)
        self.reader, self.writer = await asyncio.open_connection(*bound.getsockname()[:2])
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        await self.balancer.close()

    async def answer(self) -> bytes:
        async with asyncio.timeout(5):
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
            return head + await self.reader.readexactly(length)

    def say_now(self, raw: bytes) -> None:
        """The request is there before the loop looks at any other socket."""
        (client,) = self.shared.clients
        client.data_received(raw)


@on_both_loops
async def test_what_meets_a_connection_just_closed_is_sent_again() -> None:
    with Hand() as hand:
        async with At(hand.port) as here:
            here.writer.write(GET)
            connection = await hand.accept()
            for raw in (GET, POST, CHUNKED):
                await hand.read(connection, b"\r\n\r\n")
                connection.send(ok(b"one"))
                assert (await here.answer()).endswith(b"one")
                connection.close()  # nobody was using it
                here.say_now(raw)
                connection = await hand.accept()
                seen = await hand.read(connection, b"\r\n\r\n")
                assert raw is GET or b"hi" in seen
                connection.send(ok(b"other"))
                assert (await here.answer()).endswith(b"other")
                here.writer.write(GET)
    assert here.shared.budget.retries_total == 3


@on_both_loops
async def test_what_was_read_and_then_lost_is_not_sent_again() -> None:
    with Hand() as hand:
        async with At(hand.port) as here:
            here.writer.write(GET)
            first = await hand.accept()
            await hand.read(first, b"\r\n\r\n")
            first.send(ok(b"first"))
            await here.answer()
            here.writer.write(POST)
            await hand.read(first, b"hi")
            first.close()  # in order, but for the answer
            told = await here.answer()
            assert told.startswith(b"HTTP/1.1 502 ")
    assert here.shared.budget.retries_total == 0


@on_both_loops
async def test_bytes_that_nobody_asked_for_end_a_connection() -> None:
    with Hand() as hand:
        async with At(hand.port) as here:
            here.writer.write(GET)
            first = await hand.accept()
            await hand.read(first, b"\r\n\r\n")
            first.send(ok(b"first"))
            assert (await here.answer()).endswith(b"first")
            first.send(ok(b"poison"))
            assert await asyncio.get_running_loop().sock_recv(first, 1) == b""  # cut, in time
            here.writer.write(GET)
            second = await hand.accept()
            await hand.read(second, b"\r\n\r\n")
            second.send(ok(b"second"))
            assert (await here.answer()).endswith(b"second")


def has_arrived(connection: socket.socket) -> bool:
    try:
        return bool(connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except BlockingIOError:
        return False


@on_both_loops
async def test_what_was_reset_before_it_was_read_is_not_sent_again() -> None:
    with Hand() as hand:
        async with At(hand.port) as here:
            here.writer.write(POST)
            first = await hand.accept()
            await until(lambda: has_arrived(first))
            first.close()  # unread: a reset, which proves nothing
            assert (await here.answer()).startswith(b"HTTP/1.1 502 ")


def run(body: Coroutine[Any, Any, None]) -> None:
    uvloop.run(body)


def test_a_websocket_whose_handshake_was_lost_is_opened_elsewhere() -> None:
    upgrade = GET[:-2] + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    agreed = b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhello"

    async def body() -> None:
        async with balancing(say(b"", times=1), say(agreed, times=1), rules=RULES) as (front, _):
            for _ in range(4):
                assert (await front.ask(upgrade, ends=False)).endswith(b"hello")

    run(body())


def test_one_backend_that_lives_is_found_among_many_that_do_not() -> None:
    async def body() -> None:
        async with balancing(*[say(ok())] * 7, rules=RULES) as (front, backends):
            for dead in backends[:6]:
                await dead.close()
            assert (await front.ask(POST)).startswith(b"HTTP/1.1 200 ")

    run(body())


def test_a_frozen_backend_loses_what_may_be_repeated_and_keeps_the_rest() -> None:
    async def body() -> None:
        thawed = asyncio.Event()

        async def frozen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            await thawed.wait()
            writer.write(ok(b"/".join(head.split(b" ")[:1])))

        health = HealthRules(path="/up", interval_s=0.02, timeout_s=0.5)
        async with balancing(frozen, say(ok(b"other")), health=health, rules=RULES) as (front, _):
            backends = front.shared.backends
            one, other = backends.all()
            backends.drain(other.target.name)
            raws = [raw.replace(b": a", b": a\r\nConnection: close") for raw in (GET, POST)]
            get, post = [asyncio.create_task(front.ask(raw, ends=False)) for raw in raws]
            await until(lambda: one.in_flight == 2)
            backends.undrain(other.target.name)
            assert (await get).endswith(b"other")
            assert one.state == "down"
            assert not post.done()
            thawed.set()
            assert (await post).endswith(b"POST")

    run(body())


@pytest.mark.parametrize(
    ("given", "kept"), [(b"", False), (b"abc-1", True), (b"a b", False), (b"x" * 200, False)]
)
def test_a_request_has_an_id_and_its_trace_is_passed_on(given: bytes, kept: bool) -> None:
    async def body() -> None:
        async with balancing(say(ok())) as (front, (backend,)):
            lines = b"traceparent: 00-1234-5678-01\r\ntracestate: a=b\r\n"
            lines += b"X-Request-Id: %b\r\n" % given if given else b""
            await front.ask((GET[:-2] + lines + b"\r\n") * 2)
            heads = backend.seen.split(b"\r\n\r\n")[:2]
            ids = [
                line.partition(b": ")[2]
                for head in heads
                for line in head.split(b"\r\n")
                if line.startswith(b"x-request-id: ")
            ]
            assert backend.seen.count(b"traceparent: 00-1234-5678-01\r\n") == 2
            assert backend.seen.count(b"tracestate: a=b\r\n") == 2
            assert len(ids) == 2
            if kept:
                assert ids == [given, given]
            else:
                assert len(set(ids)) == 2
                assert all(len(one) > 16 and one != given for one in ids)

    run(body())


def test_who_says_503_is_believed_at_once() -> None:
    async def body() -> None:
        said = [b"200 OK", b"200 OK", b"503 Going", b"200 OK"]

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 %b\r\ncontent-length: 0\r\n\r\n" % said.pop(0))

        async with balancing(answer, health=HealthRules(path="/up", interval_s=0.02)) as (front, _):
            states = []
            front.shared.backends.watch(lambda one: states.append(one.state))
            await until(lambda: not said)
            assert states[:1] == ["down"]  # though only one check in between said so

    run(body())


def test_a_balancer_that_is_replaced_stays_ready() -> None:
    async def body() -> None:
        ready = b"GET /-/balance/ready HTTP/1.1\r\nHost: a\r\n\r\n"
        for is_replaced, status in ((True, b"200"), (False, b"503")):
            async with balancing(say(ok())) as (front, _):
                stopping = front.balancer.drain(0.3, is_replaced=is_replaced)
                draining = asyncio.create_task(stopping)
                await until(lambda: front.shared.closing)
                assert (await front.ask(ready))[9:12] == status
                await draining

    run(body())


def test_backends_change_in_dns_under_load(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = ["127.0.0.1"]
    counted = {"127.0.0.1": 0, "127.0.0.2": 0}

    async def resolve(host: str, port: int, **_: object) -> list[tuple[Any, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in hosts]

    writers: list[asyncio.StreamWriter] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        host = writer.get_extra_info("sockname")[0]
        while await reader.readline():
            await reader.readuntil(b"\r\n\r\n")
            counted[host] += 1
            writer.write(ok(host.encode()))

    async def body() -> None:
        monkeypatch.setattr(DnsSource, "every_s", 0.02)
        first = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = first.sockets[0].getsockname()[1]
        second = await asyncio.start_server(answer, "127.0.0.2", port)
        async with At() as here:
            loop = asyncio.get_running_loop()
            monkeypatch.setattr(loop, "getaddrinfo", resolve)
            source = follow(DnsSource(f"shop.test:{port}"), into(here.backends), SystemClock())
            following = asyncio.create_task(source)
            await until(lambda: here.backends.has_any)
            for wanted in (["127.0.0.2"], ["127.0.0.1", "127.0.0.2"], ["127.0.0.1"]):
                hosts[:] = wanted
                before = dict(counted)

                def is_followed(wanted: list[str] = wanted, before: Any = before) -> bool:
                    return all(counted[host] > before[host] for host in wanted)

                while not is_followed():
                    here.writer.write(POST)  # all on one connection, which nothing drops
                    assert (await here.answer()).startswith(b"HTTP/1.1 200 ")
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            assert here.shared.metrics.connections_total == 1
        for server in (first, second):
            server.close()
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0.01)

    asyncio.run(body())
