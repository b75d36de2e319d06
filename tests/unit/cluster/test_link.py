"""One link: batches, bounds, signs of life, and ends of every kind."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.cluster.wiring import (
    FakeTransport,
    LoneLink,
    Recorder,
    caught_logs,
    identity,
    joined,
    new_link,
    passes,
)

from perdure.base.errors import (
    HandshakeError,
    LimitError,
    OverloadedError,
    UnreachableError,
    WireError,
)
from perdure.base.limits import Limits
from perdure.cluster.frames import VERSION, Answer, Changed, Frame, Ping, Pong
from perdure.cluster.framing import HEADER, FrameReader
from perdure.cluster.link import Link
from perdure.testing import VirtualClock, async_test


def sent(link: LoneLink) -> list[Frame]:
    """All frames that left."""
    return list(FrameReader(1 << 30).read(b"".join(link.transport.writes)))


@async_test
async def test_two_ends_open_and_talk() -> None:
    one, other = Recorder(), Recorder()
    other.on_frame = lambda link, frame: link.send(Answer(1, b"2"))
    clock = VirtualClock()
    dialling = new_link(one, dials=True, clock=clock, incarnation=1)
    dialled = new_link(other, dials=False, clock=clock)
    joined(dialling, dialled)
    await passes()
    assert one.opened_links == [dialling]
    assert other.opened_links == [dialled]
    assert (dialling.peer, dialled.peer) == (identity(0), identity(1))
    assert (dialling.version, dialled.version) == (VERSION, VERSION)
    dialling.send(Changed("Cart", "anna"))
    await passes()
    assert other.frames == [Changed("Cart", "anna")]
    assert one.frames == [Answer(1, b"2")]
    dialling.close()
    await passes()
    assert (one.errors, other.errors) == ([None], [None])
    assert not dialling.is_open
    assert not dialled.is_open
    assert all(alarm._callback is None for alarm in clock._alarms)


@async_test
async def test_another_key_opens_neither_end() -> None:
    one, other = Recorder(), Recorder()
    ends = joined(
        new_link(one, dials=True, key=b"a wrong key that is long enough"),
        new_link(other, dials=False),
    )
    await passes()
    assert one.opened_links + other.opened_links == []
    assert [type(error) for error in one.errors + other.errors] == [HandshakeError] * 2
    assert len(b"".join(ends[1].writes)) == 34


@async_test
async def test_frames_of_one_pass_leave_with_one_write() -> None:
    lone = LoneLink()
    scheduled = len(asyncio.get_running_loop()._ready)  # type: ignore[attr-defined]
    for number in range(100):
        lone.link.send(Answer(number, b"1"))
    assert lone.transport.writes == []
    assert len(asyncio.get_running_loop()._ready) == scheduled + 1  # type: ignore[attr-defined]
    await passes(3)  # one more while more comes
    assert len(lone.transport.writes) == 1
    lone.link.send(Answer(100, b"1"))
    await passes(1)
    assert len(lone.transport.writes) == 2
    assert sent(lone) == [Answer(number, b"1") for number in range(101)]


@async_test
async def test_frames_to_answer_those_of_one_read_leave_with_one_write() -> None:
    lone = LoneLink()
    lone.handler.on_frame = lambda link, frame: link.send(frame)
    lone.link.data_received(b"".join(lone.frame(Answer(n, b"1")) for n in range(50)))
    await passes(3)  # one more while more comes
    assert len(lone.transport.writes) == 1
    assert len(sent(lone)) == 50


@async_test
async def test_much_is_written_before_the_pass_ends() -> None:
    """What waits for the end of a pass is bounded, too."""
    lone = LoneLink()
    for number in range(10):
        lone.link.send(Answer(number, bytes(100_000)))
    assert len(lone.transport.writes) == 3
    await passes(3)
    assert len(sent(lone)) == 10


@async_test
async def test_a_frame_too_large_leaves_the_link_open() -> None:
    lone = LoneLink(limits=Limits(frame_bytes_max=1000))
    with pytest.raises(LimitError):
        lone.link.send(Answer(1, bytes(1000)))
    lone.link.send(Answer(2, b"1"))
    await passes(1)
    assert sent(lone) == [Answer(2, b"1")]


@async_test
async def test_a_peer_that_does_not_read_is_given_up() -> None:
    lone = LoneLink(limits=Limits(link_bytes_max=10_000))
    lone.link.pause_writing()
    assert lone.link.is_congested
    lone.transport.buffered_bytes = 10_000
    lone.link.send(Answer(1, b"1"))
    await passes(1)
    assert lone.link.is_open
    lone.transport.buffered_bytes = 10_001
    lone.link.send(Answer(2, b"1"))
    await passes(2)
    assert lone.transport.is_aborted
    assert [type(error) for error in lone.handler.errors] == [OverloadedError]


@async_test
async def test_a_peer_that_reads_again_is_congested_no_longer() -> None:
    lone = LoneLink()
    lone.link.pause_writing()
    lone.link.resume_writing()
    assert not lone.link.is_congested


@async_test
async def test_a_frame_that_comes_twice_is_heard_once() -> None:
    lone = LoneLink()
    frame = lone.frame(Changed("Cart", "anna"))
    lone.link.data_received(frame + frame)
    assert lone.handler.frames == [Changed("Cart", "anna")]
    assert lone.link.duplicates == 1
    assert lone.link.is_open


@async_test
async def test_a_gap_closes_the_link_and_nothing_behind_it_is_heard() -> None:
    lone = LoneLink()
    first = lone.frame(Changed("Cart", "anna"))
    lone.frame(Changed("Cart", "lost"))
    third = lone.frame(Changed("Cart", "carl"))
    lone.link.data_received(first + third)
    lone.link.data_received(third)
    await passes(2)
    assert lone.handler.frames == [Changed("Cart", "anna")]
    assert [type(error) for error in lone.handler.errors] == [WireError]
    assert lone.transport.is_aborted


@async_test
async def test_a_malformed_frame_closes_the_link_with_one_line_of_log() -> None:
    lone = LoneLink()
    with caught_logs() as records:
        lone.link.data_received(HEADER.pack(6, 0) + b"secret" + lone.frame(Ping()))
        await passes(2)
    assert [type(error) for error in lone.handler.errors] == [WireError]
    assert lone.handler.frames == []
    assert [record.getMessage() for record in records] == ["link closed"]
    assert "secret" not in str(records[0].__dict__)


@given(st.lists(st.binary(max_size=60), max_size=8))
def test_no_bytes_raise_out_of_an_open_link(pieces: list[bytes]) -> None:
    async def feed() -> None:
        lone = LoneLink(limits=Limits(frame_bytes_max=1000))
        for piece in pieces:
            lone.link.data_received(piece)
        await passes(2)
        assert lone.link.is_open or [type(error) for error in lone.handler.errors] == [WireError]

    with caught_logs():
        asyncio.run(feed())


@given(st.lists(st.binary(max_size=60), max_size=8), st.booleans())
def test_no_bytes_raise_out_of_a_link_that_is_not_open(pieces: list[bytes], dials: bool) -> None:
    async def feed() -> None:
        handler, link = fresh(dials=dials)
        for piece in pieces:
            link.data_received(piece)
        await passes(2)
        assert handler.opened_links == []
        assert not link.is_open

    with caught_logs():
        asyncio.run(feed())


@async_test
async def test_a_handler_that_raises_closes_the_link_loudly() -> None:
    lone = LoneLink()
    problem = RuntimeError("bug")

    def fail(link: Link, frame: Frame) -> None:
        raise problem

    lone.handler.on_frame = fail
    with caught_logs() as records:
        lone.link.data_received(lone.frame(Changed("Cart", "a")) + lone.frame(Changed("Cart", "b")))
        await passes(2)
    assert lone.handler.frames == [Changed("Cart", "a")]
    assert lone.handler.errors == [problem]
    assert records[0].exc_info is not None


@async_test
async def test_a_handler_that_raises_at_the_opening_closes_the_link() -> None:
    class Failing(Recorder):
        def opened(self, link: Link) -> None:
            raise problem

    problem = RuntimeError("bug")
    one, other = Failing(), Recorder()
    with caught_logs() as records:
        joined(new_link(one, dials=True), new_link(other, dials=False))
        await passes()
    assert one.errors == [problem]
    assert records[0].exc_info is not None


@async_test
async def test_what_was_sent_before_a_close_still_leaves() -> None:
    lone = LoneLink()
    lone.link.send(Answer(1, b"1"))
    lone.link.close()
    assert sent(lone) == [Answer(1, b"1")]
    await passes(2)
    assert lone.handler.errors == [None]


@async_test
async def test_a_close_from_within_a_frame_lets_no_other_frame_through() -> None:
    lone = LoneLink()
    lone.handler.on_frame = lambda link, frame: link.close()
    lone.link.data_received(lone.frame(Changed("Cart", "a")) + lone.frame(Changed("Cart", "b")))
    assert len(lone.handler.frames) == 1
    await passes(2)
    assert lone.handler.errors == [None]


@async_test
async def test_closed_is_told_once_and_later() -> None:
    lone = LoneLink()
    lone.link.close(UnreachableError("enough"))
    lone.link.close()
    assert lone.handler.errors == []
    await passes(3)
    assert [str(error) for error in lone.handler.errors] == ["enough"]
    lone.link.send(Ping())
    await passes(2)
    assert lone.transport.writes == []


@async_test
async def test_a_link_closed_before_its_connection_is_made_ends_with_it() -> None:
    handler = Recorder()
    link = new_link(handler, dials=True)
    link.close()
    other = Recorder()
    joined(link, new_link(other, dials=False))
    await passes()
    assert handler.opened_links + other.opened_links == []
    assert len(handler.errors) == 1


# --- time


@async_test
async def test_a_handshake_has_a_deadline() -> None:
    clock = VirtualClock()
    for dials in (True, False):
        handler, link = fresh(dials=dials, clock=clock)
        await clock.advance(4.9)
        assert handler.errors == []
        link.data_received(b"\0")  # to say a little is not enough
        await clock.advance(0.2)
        assert [type(error) for error in handler.errors] == [HandshakeError]


@async_test
async def test_a_silent_peer_is_asked_and_then_given_up() -> None:
    clock = VirtualClock()
    lone = LoneLink(clock=clock)
    await clock.advance(0.9)
    assert sent(lone) == []
    await clock.advance(0.2)
    assert sent(lone) == [Ping()]
    await clock.advance(1.8)
    assert sent(lone) == [Ping(), Ping()]
    assert lone.link.is_open
    await clock.advance(0.2)
    assert [type(error) for error in lone.handler.errors] == [UnreachableError]
    assert lone.transport.is_aborted


@async_test
async def test_a_peer_that_is_heard_is_not_asked() -> None:
    clock = VirtualClock()
    lone = LoneLink(clock=clock)
    for _ in range(10):
        await clock.advance(0.9)
        lone.link.data_received(lone.frame(Changed("Cart", "anna")))
    assert sent(lone) == []
    await clock.advance(1.1)
    assert sent(lone) == [Ping()]


@async_test
async def test_two_idle_ends_keep_each_other_alive() -> None:
    clock = VirtualClock()
    one, other = Recorder(), Recorder()
    ends = joined(new_link(one, dials=True, clock=clock), new_link(other, dials=False, clock=clock))
    await clock.advance(60)
    assert one.errors + other.errors == []
    assert one.frames + other.frames == []  # pings are the links' own matter
    assert 60 <= len(ends[0].writes) + len(ends[1].writes) <= 250


@async_test
async def test_a_ping_is_answered_at_once() -> None:
    lone = LoneLink()
    lone.link.data_received(lone.frame(Ping()))
    await passes(1)
    assert sent(lone) == [Pong()]
    assert lone.handler.frames == []


@async_test
async def test_who_was_held_up_itself_blames_no_one() -> None:
    """After ten seconds in which this process did not run, the timer may come before the bytes."""
    clock = VirtualClock()
    lone = LoneLink(clock=clock)
    clock._now_ms += 10_000
    await clock.advance(0)
    assert lone.link.is_open
    assert sent(lone) == [Ping()]
    await clock.advance(2.1)
    assert not lone.link.is_open


@async_test
async def test_a_close_does_not_wait_for_ever_for_a_peer_that_does_not_read() -> None:
    clock = VirtualClock()
    lone = LoneLink(clock=clock)
    lone.transport.buffered_bytes = 5000
    lone.link.close()
    await clock.advance(2.9)
    assert not lone.transport.is_aborted
    await clock.advance(0.2)
    assert lone.transport.is_aborted
    assert lone.handler.errors == [None]


@async_test
async def test_a_link_has_one_timer_whatever_comes_over_it() -> None:
    clock = VirtualClock()
    lone = LoneLink(clock=clock)
    before = len(clock._alarms)
    for number in range(100):
        lone.link.data_received(lone.frame(Answer(number, b"1")))
        lone.link.send(Answer(number, b"1"))
    await passes(1)
    assert len(clock._alarms) == before


def fresh(*, dials: bool, clock: VirtualClock | None = None) -> tuple[Recorder, Link]:
    """An end with a connection on which nothing has come yet."""
    handler = Recorder()
    link = new_link(handler, dials=dials, clock=clock)
    transport = FakeTransport(link)
    link.connection_made(transport)
    return handler, link
