"""Frames to bytes and back: however they are cut, and whatever comes in their place."""

from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.base.errors import LimitError, WireError
from perdure.base.trail import Trail
from perdure.cluster.frames import Answer, Call, Changed, Frame, Map, Ping
from perdure.cluster.framing import HEADER, FrameReader, FrameWriter

FRAMES: list[Frame] = [
    Call(1, 29.5, "Cart", "anna", "add", b'{"sku":"apple"}', is_again=True, root=("gateway", 4)),
    Answer(1, b"x" * 300),
    Ping(),
    Changed("Cart", "anna"),
]


def written(*frames: Frame) -> bytes:
    writer = FrameWriter(1 << 20)
    for frame in frames:
        writer.add(frame)
    return bytes(writer.take())


def raw(body: bytes, sequence: int = 0) -> bytes:
    return HEADER.pack(len(body), sequence) + body


class OlderCall(msgspec.Struct, array_like=True, tag=1):
    """As processes know it that were built before there were trails."""

    id: int
    left_s: float
    actor_type: str
    key: str
    method: str
    arguments: bytes
    caller: bytes | None = None
    request_id: str | None = None
    map_version: int = 0
    is_again: bool = False
    root: tuple[str, int] | None = None
    chain: list[tuple[str, str]] = []
    standing: list[int] = []
    block: int = 0


def test_a_call_with_a_trail_is_read_by_older_processes_and_theirs_here() -> None:
    newer = Call(1, 2.0, "Cart", "anna", "add", b"{}", block=7, trail=Trail("r-1"))
    read_by_older = msgspec.msgpack.decode(msgspec.msgpack.encode(newer), type=OlderCall)
    assert (read_by_older.id, read_by_older.block) == (1, 7)
    written_by_older = msgspec.msgpack.encode(OlderCall(1, 2.0, "Cart", "anna", "add", b"{}"))
    assert msgspec.msgpack.decode(written_by_older, type=Call).trail is None


def test_frames_come_as_they_were_sent() -> None:
    assert list(FrameReader(1 << 20).read(written(*FRAMES))) == FRAMES


@pytest.mark.parametrize("size", range(1, 60))
def test_frames_may_come_in_pieces_of_any_size(size: int) -> None:
    data = written(*FRAMES)
    reader = FrameReader(1 << 20)
    frames: list[Frame] = []
    for start in range(0, len(data), size):
        frames += reader.read(data[start : start + size])
    assert frames == FRAMES


def test_a_large_frame_in_many_pieces_is_not_copied_for_each() -> None:
    """While it is incomplete, what is there is neither looked at nor copied."""
    data = written(Answer(1, b"x" * 900_000))
    reader = FrameReader(1 << 20)
    assert list(reader.read(data[:10])) == []
    kept = reader._partial
    for start in range(10, len(data) - 10, 1000):
        assert list(reader.read(data[start : min(start + 1000, len(data) - 10)])) == []
        assert reader._partial is kept
    assert list(reader.read(data[-10:])) == [Answer(1, b"x" * 900_000)]
    assert len(reader._partial) == 0


def test_a_frame_that_comes_again_is_dropped_and_counted() -> None:
    first, second = raw(msgspec.msgpack.encode(Ping())), raw(msgspec.msgpack.encode(Ping()), 1)
    reader = FrameReader(1 << 20)
    assert list(reader.read(first + first + second + first + second)) == [Ping(), Ping()]
    assert reader.duplicates == 3


def test_a_frame_that_is_missing_is_noticed_after_those_before_it() -> None:
    body = msgspec.msgpack.encode(Ping())
    reader = FrameReader(1 << 20)
    frames = reader.read(raw(body, 0) + raw(body, 2))
    assert next(frames) == Ping()
    with pytest.raises(WireError, match="frame 1 is missing: 2 came"):
        next(frames)


def test_sequence_numbers_go_round() -> None:
    writer, reader = FrameWriter(1 << 20), FrameReader(1 << 20)
    writer._sequence = reader._sequence = 0xFFFFFFFE
    for _ in range(4):
        writer.add(Ping())
    data = bytes(writer.take())
    assert len(list(reader.read(data))) == 4
    assert list(reader.read(data)) == []
    assert reader.duplicates == 4


def test_a_frame_that_is_too_large_is_not_sent_and_leaves_no_trace() -> None:
    writer = FrameWriter(100)
    writer.add(Ping())
    with pytest.raises(LimitError, match=r"Answer has 1,\d+ bytes.*frame_bytes_max is 100"):
        writer.add(Answer(1, b"x" * 1000))
    writer.add(Changed("Cart", "anna"))
    assert list(FrameReader(100).read(writer.take())) == [Ping(), Changed("Cart", "anna")]


def test_a_frame_that_cannot_be_encoded_leaves_no_trace() -> None:
    writer = FrameWriter(100)
    with pytest.raises(TypeError):
        writer.add(Map(1, [object()], b""))
    writer.add(Ping())
    assert list(FrameReader(100).read(writer.take())) == [Ping()]


def test_a_frame_that_is_too_large_is_refused_at_its_header() -> None:
    with pytest.raises(WireError, match="a frame of 101 bytes"):
        list(FrameReader(100).read(HEADER.pack(101, 0)))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc0",
        b"\x91\x63",  # a kind that there is not
        b"\x92\x02\x01",  # an answer without a body
        b"\x93\x02\xa1x\xc4\x00",  # an id that is no number
        b"\x93\x06\xa2\xff\xff\xa1k",  # a text that is none
        b"\x94\x05\x01\xdd\xff\xff\xff\xff",  # a list said to have 4 billion values
        b"\x94\x05\x01" + b"\x91" * 50_000 + b"\xc0",  # lists in lists
        b"\x91\x0a\xc0",  # more than one value
    ],
)
def test_a_malformed_frame_is_an_error_that_does_not_tell_its_content(body: bytes) -> None:
    with pytest.raises(WireError, match=rf"^a frame of {len(body):,} bytes that cannot be read$"):
        list(FrameReader(1 << 20).read(raw(body)))


@given(st.binary(max_size=100), st.booleans())
def test_random_bytes_are_frames_or_a_wire_error(data: bytes, framed: bool) -> None:
    reader = FrameReader(1000)
    try:
        frames = list(reader.read(raw(data) if framed else data))
    except WireError:
        return
    assert all(isinstance(frame, msgspec.Struct) for frame in frames)
    assert frames or not framed


@given(st.data())
def test_a_changed_stream_gives_a_beginning_of_the_frames_or_other_content(
    data: st.DataObject,
) -> None:
    """Bytes may be wrong; what comes out are whole frames, in order, and no foreign exception."""
    stream = bytearray(written(*FRAMES))
    place = data.draw(st.integers(0, len(stream) - 1))
    stream[place] = data.draw(st.integers(0, 255))
    reader, frames = FrameReader(1 << 20), []
    with suppress(WireError):
        frames.extend(reader.read(bytes(stream)))  # which keeps what came before an error
    untouched = [one for one, end in zip(FRAMES, ends(), strict=True) if end <= place]
    assert frames[: len(untouched)] == untouched


def ends() -> list[int]:
    return [len(written(*FRAMES[: count + 1])) for count in range(len(FRAMES))]
