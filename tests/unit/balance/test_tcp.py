"""TCP mode, over real sockets."""

import asyncio
import contextlib
import ipaddress
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop

from perdure.balance.backends import Backends, Rules, Target
from perdure.balance.health import HealthRules
from perdure.balance.proxy_protocol import Header, decode, encode
from perdure.balance.tcp import TcpFront, TcpOptions
from perdure.base.limits import BalanceLimits

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)
PIECE = bytes(range(256)) * 256


def on_both_loops(function: Callable[[], Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test for the loop it is run on and for Python's own, which end connections differently."""

    @pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
    def test(run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        run(function())

    return test


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while received := await reader.read(1 << 16):
        writer.write(received)
        await writer.drain()
    writer.write(b" and out")
    writer.close()


class Bench:
    """A front, the servers behind it, and connections through it."""

    def __init__(
        self,
        options: TcpOptions | None = None,
        health: HealthRules | None = None,
        **limits: float,
    ) -> None:
        self.backends = Backends("round-robin", Rules(slow_start_s=0))
        self.front = TcpFront(self.backends, BalanceLimits(**limits), options, health)
        self.targets: list[Target] = []
        self.servers: list[asyncio.Server] = []
        self.writers: list[asyncio.StreamWriter] = []

    async def start(self) -> None:
        bound, admin = (socket.create_server(("127.0.0.1", 0)) for _ in range(2))
        self.port, self.admin = bound.getsockname()[1], admin.getsockname()[1]
        await self.front.start(bound, admin)

    async def serve(self, answer: Answer = echo) -> Target:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        self.servers.append(server)
        return self.add(server.sockets[0].getsockname()[1])

    def add(self, port: int) -> Target:
        target = Target(f"b{len(self.targets)}", "127.0.0.1", port)
        self.targets.append(target)
        self.backends.update(self.targets)
        return target

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writers.append(writer)
        return reader, writer

    async def ask(self, path: str) -> tuple[int, str]:
        """What operators are told."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.admin)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        head, _, text = (await reader.read()).decode().partition("\r\n\r\n")
        writer.close()
        return int(head.split()[1]), text

    def in_flight(self) -> list[int]:
        return [backend.in_flight for backend in self.backends.all()]

    async def close(self) -> None:
        await self.front.close()
        for writer in self.writers:
            writer.close()
        for server in self.servers:
            server.close()
        await until(lambda: not self.front.pairs)


@asynccontextmanager
async def bench(
    options: TcpOptions | None = None, health: HealthRules | None = None, **limits: float
) -> AsyncIterator[Bench]:
    made = Bench(options, health, **limits)
    await made.start()
    try:
        async with asyncio.timeout(20):
            yield made
    finally:
        await made.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        return bound.getsockname()[1]


async def is_cut(reader: asyncio.StreamReader) -> bool:
    try:
        return await reader.read() == b""
    except ConnectionError:
        return True


@on_both_loops
async def test_bytes_go_both_ways_and_the_end_of_one_direction_is_passed_on() -> None:
    async with bench() as here:
        await here.serve()
        reader, writer = await here.connect()
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        assert here.in_flight() == [1]
        writer.write(b"bye")
        writer.write_eof()
        assert await reader.read() == b"bye and out"
        await until(lambda: here.in_flight() == [0] and not here.front.pairs)
        assert here.front.counts.accepted == 1


@on_both_loops
async def test_what_was_sent_before_the_end_arrives_though_it_came_before_the_backend() -> None:
    async with bench() as here:
        await here.serve()
        with socket.create_connection(("127.0.0.1", here.port)) as client:
            client.sendall(b"all at once")
            client.shutdown(socket.SHUT_WR)
            client.settimeout(10)
            received = b""
            while piece := await asyncio.to_thread(client.recv, 100):
                received += piece
        assert received == b"all at once and out"


@on_both_loops
async def test_a_backend_may_speak_first_and_end_first() -> None:
    heard = []

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 ready")
        writer.write_eof()
        heard.append(await reader.read())
        writer.close()

    async with bench() as here:
        await here.serve(greet)
        reader, writer = await here.connect()
        assert await reader.read() == b"220 ready"
        writer.write(b"still heard")
        writer.write_eof()
        await until(lambda: heard == [b"still heard"])
        await until(lambda: not here.front.pairs)


@on_both_loops
async def test_a_slow_reader_slows_the_sender_down_and_loses_nothing() -> None:
    sent = 0

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        while sent < 400:
            writer.write(PIECE)
            await writer.drain()
            sent += 1
        writer.close()

    async with bench() as here:
        await here.serve(pour)
        reader, writer = await here.connect()
        held = -1
        while held != sent:  # until nothing moves any more
            held = sent
            await asyncio.sleep(0.1)
        assert held < 400
        received = 0
        while piece := await reader.read(1 << 20):
            received += len(piece)
        assert received == 400 * len(PIECE)
        writer.close()
        await until(lambda: not here.front.pairs)


@on_both_loops
async def test_large_amounts_come_through_whole_in_both_directions_at_once() -> None:
    async with bench() as here:
        await here.serve()
        reader, writer = await here.connect()

        async def send() -> None:
            for number in range(200):
                writer.write(struct.pack("!Q", number) + PIECE)
                await writer.drain()
            writer.write_eof()

        async def receive() -> bytes:
            return await reader.read()

        _, received = await asyncio.gather(send(), receive())
        expected = b"".join(struct.pack("!Q", number) + PIECE for number in range(200))
        assert received == expected + b" and out"


@on_both_loops
async def test_a_backend_that_refuses_is_passed_over() -> None:
    async with bench() as here:
        here.add(free_port())
        here.add(free_port())
        await here.serve()
        for _ in range(3):
            reader, writer = await here.connect()
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
        assert here.in_flight() == [0, 0, 3]
        assert here.front.counts.unserved == 0


@on_both_loops
async def test_a_backend_that_does_not_answer_in_time_is_passed_over() -> None:
    with socket.socket() as full:  # whose backlog is full: connecting to it takes for ever
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(full.getsockname())
        async with bench(connect_s=0.2) as here:
            here.add(full.getsockname()[1])
            await here.serve()
            reader, writer = await here.connect()
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
            assert here.in_flight() == [0, 1]
        for filler in fillers:
            filler.close()


@on_both_loops
async def test_without_a_backend_a_connection_is_closed_and_counted() -> None:
    async with bench() as here:
        reader, _ = await here.connect()
        assert await is_cut(reader)
        here.add(free_port())
        reader, _ = await here.connect()
        assert await is_cut(reader)
        await until(lambda: here.front.counts.unserved == 2)
        assert here.in_flight() == [0]


@on_both_loops
async def test_a_connection_on_which_nothing_moves_is_cut_and_others_are_not() -> None:
    async with bench(tunnel_idle_s=1.0) as here:
        await here.serve()
        idle, _ = await here.connect()
        reader, writer = await here.connect()
        cut = asyncio.create_task(is_cut(idle))
        while not cut.done():
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
            await asyncio.sleep(0.05)
        assert await cut
        assert here.front.counts.idle == 1
        assert len(here.front.pairs) == 1


@on_both_loops
async def test_more_connections_than_allowed_are_closed_at_once() -> None:
    async with bench(connections_max=2) as here:
        await here.serve()
        for _ in range(2):
            reader, writer = await here.connect()
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
        reader, _ = await here.connect()
        assert await is_cut(reader)
        assert here.front.counts.refused == 1


@on_both_loops
async def test_a_reset_is_passed_on_as_one() -> None:
    ended: list[object] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            ended.append(await reader.read())
        except ConnectionError as error:
            ended.append(error)
        writer.close()

    async with bench() as here:
        await here.serve(listen)
        with socket.create_connection(("127.0.0.1", here.port)) as client:
            client.sendall(b"half")
            await until(lambda: here.in_flight() == [1])
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await until(lambda: bool(ended))
        assert isinstance(ended[0], ConnectionError)


@on_both_loops
async def test_a_client_that_leaves_while_a_backend_is_sought_leaves_nothing() -> None:
    async with bench() as here:
        await here.serve()
        for _ in range(50):
            with socket.create_connection(("127.0.0.1", here.port)) as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await until(lambda: not here.front.pairs and here.in_flight() == [0])
        assert len(here.front.pairs) == 0


@on_both_loops
async def test_draining_takes_no_new_connections_and_lets_the_others_end() -> None:
    async with bench() as here:
        await here.serve()
        reader, writer = await here.connect()
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        draining = asyncio.create_task(here.front.drain(0))
        await asyncio.sleep(0)
        try:
            await here.connect()
            raise AssertionError("a new connection was taken")
        except ConnectionError:
            pass
        writer.write(b"y")
        assert await reader.readexactly(1) == b"y"
        writer.write_eof()
        assert await reader.read() == b" and out"
        await draining


@on_both_loops
async def test_what_does_not_end_while_draining_is_cut() -> None:
    async with bench(drain_s=0.1) as here:
        await here.serve()
        reader, writer = await here.connect()
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        await here.front.drain(0)
        assert await is_cut(reader)


# -- seen from outside -----------------------------------------------------------------------------


@on_both_loops
async def test_a_backend_that_takes_no_connections_gets_none_until_it_does() -> None:
    health = HealthRules(path=None, interval_s=0.01)
    async with bench(health=health) as here:
        gone = here.add(free_port())
        await here.serve()
        down = here.backends.all()[0]
        await until(lambda: down.state == "down")
        for _ in range(4):
            reader, writer = await here.connect()
            writer.write_eof()
            assert await reader.read() == b" and out"
        assert here.front.counts.failures[gone.name] == 0
        server = await asyncio.start_server(echo, "127.0.0.1", gone.port)
        here.servers.append(server)
        await until(lambda: down.state == "up")


@on_both_loops
async def test_a_backend_can_be_asked_over_http_and_is_told_who_asks() -> None:
    heard: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n\0"))
        heard.append(await reader.readuntil(b"GET /up HTTP/1.1\r\n"))
        writer.write(b"HTTP/1.1 503 No\r\n\r\n")
        writer.close()

    health = HealthRules(path="/up", interval_s=0.01, sends_proxy=True)
    async with bench(health=health) as here:
        await here.serve(answer)
        await until(lambda: here.backends.all()[0].state == "down")
        assert heard[1].startswith(b"\r\nQUIT\n\x20")  # the proxy's own connection


@on_both_loops
async def test_operators_are_told_what_happened() -> None:
    async with bench() as here:
        target = await here.serve()
        here.add(free_port())
        for _ in range(2):
            reader, writer = await here.connect()
            writer.write_eof()
            await reader.read()
        await until(lambda: not here.front.pairs)
        _, text = await here.ask("/metrics")
        for line in (
            f'passed_on_total{{backend="{target.name}"}} 2',
            'backend_failures_total{backend="b1"} 1',
            'backend_state{backend="b0",state="up"} 1',
            'in_flight{backend="b0"} 0',
            "connections 0",
            "connections_total 2",
            "connections_refused_total 0",
            "connections_unserved_total 0",
            "connections_idle_total 0",
            "ejections_total 0",
        ):
            assert f"\nperdure_balance_{line}\n" in "\n" + text, text


@on_both_loops
async def test_a_front_that_drains_says_so_and_goes_on_accepting_for_its_grace() -> None:
    async with bench() as here:
        await here.serve()
        assert await here.ask("/-/balance/ready") == (200, '{"ok":true}')
        draining = asyncio.create_task(here.front.drain(0.5))
        await asyncio.sleep(0)
        assert await here.ask("/-/balance/ready") == (503, '{"ok":false}')
        reader, writer = await here.connect()
        writer.write_eof()
        assert await reader.read() == b" and out"
        await draining


@on_both_loops
async def test_a_front_that_is_replaced_stays_ready_and_lets_others_answer() -> None:
    async with bench() as here:
        await here.serve()
        draining = asyncio.create_task(here.front.drain(0.5, is_replaced=True))
        await asyncio.sleep(0)
        assert here.front.is_ready
        with pytest.raises(ConnectionError):
            await here.ask("/metrics")  # its successor has the same socket, and this one lets go
        await draining


# -- the PROXY protocol ------------------------------------------------------------------------


@on_both_loops
async def test_a_backend_is_told_who_is_connected() -> None:
    async with bench(TcpOptions(send_proxy=True)) as here:
        await here.serve()
        reader, writer = await here.connect()
        writer.write(b"hello")
        name = writer.get_extra_info("sockname")
        expected = encode(name, ("127.0.0.1", here.port)) + b"hello"
        assert await reader.readexactly(len(expected)) == expected


@on_both_loops
async def test_what_a_trusted_proxy_says_is_passed_on_however_it_is_cut() -> None:
    told = encode(("203.0.113.9", 4711), ("203.0.113.1", 443))
    async with bench(TcpOptions(send_proxy=True, trusted=LOOPBACK)) as here:
        await here.serve()
        for cut in (1, 12, 16, len(told)):
            reader, writer = await here.connect()
            writer.write(told[:cut])
            await writer.drain()
            await asyncio.sleep(0.01)
            writer.write(told[cut:] + b"hello")
            assert await reader.readexactly(len(told) + 5) == told + b"hello"


@on_both_loops
async def test_a_proxys_own_connection_is_passed_on_as_that() -> None:
    async with bench(TcpOptions(send_proxy=True, trusted=LOOPBACK)) as here:
        await here.serve()
        reader, writer = await here.connect()
        writer.write(encode(None, None) + b"x")
        name = writer.get_extra_info("sockname")
        expected = encode(name, ("127.0.0.1", here.port)) + b"x"
        assert await reader.readexactly(len(expected)) == expected


@on_both_loops
async def test_from_who_is_not_trusted_a_header_is_nothing_but_bytes() -> None:
    others = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("::/0"))
    told = encode(("203.0.113.9", 4711), ("203.0.113.1", 443))
    async with bench(TcpOptions(send_proxy=True, trusted=others)) as here:
        await here.serve()
        reader, writer = await here.connect()
        writer.write(told)
        received = await reader.readexactly(2 * len(told))
        found = decode(received)
        assert found is not None
        assert found[0] == Header(writer.get_extra_info("sockname"), ("127.0.0.1", here.port))
        assert received[found[1] :] == told


@on_both_loops
async def test_a_trusted_proxy_without_a_correct_header_is_refused() -> None:
    async with bench(TcpOptions(trusted=LOOPBACK), header_timeout_s=0.3) as here:
        await here.serve()
        for sent in (b"GET / HTTP/1.1\r\n\r\n", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff", b"\r\n"):
            reader, writer = await here.connect()
            writer.write(sent)
            assert await is_cut(reader)
        reader, writer = await here.connect()
        writer.write(b"\r\n\r\n\0")
        writer.write_eof()
        assert await is_cut(reader)
        await until(lambda: not here.front.pairs)
        assert here.in_flight() == [0]
