"""The simulated network does what TCP does, and breaks as told."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from perdure.cluster.framing import HEADER
from perdure.testing.simulation.loop import SeededLoop
from perdure.testing.simulation.mangler import Mangler
from perdure.testing.simulation.network import SimulatedNetwork
from perdure.testing.simulation.process import SimulatedProcess
from perdure.testing.simulation.trace import Trace

AT = "tcp:b:1"


class _End(asyncio.Protocol):
    """One end that remembers."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.got = b""
        self.lost: list[Exception | None] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.got += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)


class _Two:
    """Two processes on two hosts, with one connection from a to b."""

    def __init__(self, loop: SeededLoop) -> None:
        self.network = SimulatedNetwork(loop, Trace(loop))
        self.a, self.b = SimulatedProcess(loop, "a.1"), SimulatedProcess(loop, "b.1")
        self.near, self.far = _End(), _End()

    async def connect(self) -> None:
        await self.b.spawn(self.network.of(self.b).listen(AT, lambda: self.far))  # type: ignore[arg-type]
        await self.a.spawn(self.network.of(self.a).connect(AT, lambda: self.near))
        await asyncio.sleep(0.1)


def _with_two(test: Callable[[_Two], Awaitable[None]], seed: int = 0) -> None:
    loop = SeededLoop(seed)

    async def main() -> None:
        two = _Two(loop)
        await two.connect()
        await test(two)

    loop.run(main())
    assert not loop.failures


@pytest.mark.parametrize("seed", range(5))
def test_bytes_arrive_in_order_whatever_the_pieces(seed: int) -> None:
    async def test(two: _Two) -> None:
        sent = b""
        for number in range(200):
            data = b"%d." % number * 3
            sent += data
            two.near.transport.write(data)
        await asyncio.sleep(5)
        assert two.far.got == sent

    _with_two(test, seed)


def test_what_was_sent_while_the_way_was_cut_arrives_when_it_is_mended() -> None:
    async def test(two: _Two) -> None:
        two.network.cut("a", "b")
        two.near.transport.write(b"hello")
        two.far.transport.write(b"and back")
        await asyncio.sleep(30)
        assert (two.far.got, two.near.got) == (b"", b"and back")
        two.network.mend("a", "b")
        await asyncio.sleep(1)
        assert two.far.got == b"hello"
        assert not two.near.lost

    _with_two(test)


def test_who_closes_in_order_is_seen_after_all_it_sent() -> None:
    async def test(two: _Two) -> None:
        two.near.transport.write(b"last words")
        two.near.transport.close()
        await asyncio.sleep(1)
        assert two.far.got == b"last words"
        assert two.far.lost == two.near.lost == [None]

    _with_two(test)


def test_an_abort_is_told_to_the_other_end() -> None:
    async def test(two: _Two) -> None:
        two.near.transport.abort()
        await asyncio.sleep(1)
        assert isinstance(two.far.lost[0], ConnectionResetError)

    _with_two(test)


def test_the_connections_of_a_killed_process_close_and_its_address_refuses() -> None:
    async def test(two: _Two) -> None:
        two.b.kill()
        await asyncio.sleep(1)
        assert two.near.lost == [None]
        with pytest.raises(ConnectionRefusedError):
            await two.a.spawn(two.network.of(two.a).connect(AT, _End))

    _with_two(test)


def test_a_machine_without_power_says_nothing_and_answers_nobody() -> None:
    async def test(two: _Two) -> None:
        two.network.take_down("b")
        two.b.kill()
        two.near.transport.write(b"are you there?")
        await asyncio.sleep(10)
        assert not two.near.lost
        with pytest.raises(TimeoutError):
            await two.a.spawn(two.network.of(two.a).connect(AT, _End))
        two.network.put_up("b")
        await asyncio.sleep(1)
        assert two.near.lost

    _with_two(test)


def test_a_frozen_process_finds_what_came_meanwhile() -> None:
    async def test(two: _Two) -> None:
        two.b.freeze()
        two.near.transport.write(b"wake up")
        await asyncio.sleep(5)
        assert two.far.got == b""
        two.b.thaw()
        await asyncio.sleep(1)
        assert two.far.got == b"wake up"

    _with_two(test)


def test_a_reader_that_pauses_stops_its_writer_in_the_end() -> None:
    async def test(two: _Two) -> None:
        two.network.cut("a", "b")
        paused: list[str] = []
        two.near.pause_writing = lambda: paused.append("pause")  # type: ignore[method-assign]
        two.near.resume_writing = lambda: paused.append("resume")  # type: ignore[method-assign]
        for _ in range(30):
            two.near.transport.write(bytes(100_000))
        assert paused == ["pause"]
        two.network.mend("a", "b")
        await asyncio.sleep(1)
        assert paused == ["pause", "resume"]
        assert len(two.far.got) == 3_000_000

    _with_two(test)


def test_groups_are_parted_both_ways_and_joined_again() -> None:
    loop = SeededLoop(0)
    network = SimulatedNetwork(loop, Trace(loop))
    network.part(["a"], ["b", "c"])
    assert network.is_cut("a", "b")
    assert network.is_cut("c", "a")
    assert not network.is_cut("b", "c")
    network.mend_all()
    assert not network.is_cut("a", "b")
    loop.close()


def test_the_mangler_leaves_the_handshake_alone_and_frames_whole() -> None:
    loop = SeededLoop(1)
    mangler, trace = Mangler(loop.random, messages=1), Trace(loop)
    hello = b"\x00\x05hello"
    frames = [HEADER.pack(4, number) + b"%04d" % number for number in range(500)]
    stream = hello + b"".join(frames)
    out = b"".join(
        mangler.mangle(stream[at : at + 7], 0.3, trace) for at in range(0, len(stream), 7)
    )
    assert out.startswith(hello)
    rest = out[len(hello) :]
    arrived = [rest[at : at + len(frames[0])] for at in range(0, len(rest), len(frames[0]))]
    assert set(arrived) <= set(frames)
    assert len(set(arrived)) < len(frames)  # some were lost
    assert len(arrived) > len(set(arrived))  # some came twice
    assert {"frame twice", "frame out of order", "frame lost"} == set(trace.faults)
    loop.close()
