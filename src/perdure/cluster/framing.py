"""Frames to bytes and back, for one direction of one link each; see `frames` for the format.

Invariants:
- A frame is looked at only when all of it is there, and never if it is longer than allowed.
- However the bytes are cut on their way, each is copied at most three times.
"""

import struct
from collections.abc import Callable, Iterator

import msgspec

from perdure.base.errors import LimitError, WireError
from perdure.cluster.frames import Frame

HEADER = struct.Struct(">II")  # length of the Struct, sequence number

_ROOM = bytes(HEADER.size)
_HEADER_BYTES = HEADER.size
_SEQUENCE_MASK = 0xFFFFFFFF  # a busy link gets there in half a day, and goes on with 0
_BEHIND = 0x80000000  # what is ahead by this much, modulo 2³², is behind

_unpack_header = HEADER.unpack_from
_pack_header = HEADER.pack_into
_encode_into = msgspec.msgpack.Encoder().encode_into
_decode: Callable[[bytes], Frame] = msgspec.msgpack.Decoder(Frame).decode


class FrameWriter:
    """Frames that wait for the next write."""

    def __init__(self, frame_bytes_max: int) -> None:
        self._frame_bytes_max = frame_bytes_max
        self._waiting = bytearray()
        self._sequence = 0

    def add(self, frame: Frame) -> int:
        """Returns how many bytes wait now; raises LimitError, and adds nothing, if it is too large.

        The frame is encoded into its place: a bytes object of its own for each, joined later, took
        a fifth longer for a Call.
        """
        waiting = self._waiting
        start = len(waiting)
        waiting += _ROOM
        try:
            _encode_into(frame, waiting, -1)
        except BaseException:
            del waiting[start:]
            raise
        end = len(waiting)
        length = end - start - _HEADER_BYTES
        if length > self._frame_bytes_max:
            del waiting[start:]
            raise LimitError(
                f"{type(frame).__name__} has {length:,} bytes on the wire;"
                f" Limits.frame_bytes_max is {self._frame_bytes_max:,}"
            )
        _pack_header(waiting, start, length, self._sequence)
        self._sequence = (self._sequence + 1) & _SEQUENCE_MASK
        return end

    @property
    def waiting_bytes(self) -> int:
        """How many bytes wait."""
        return len(self._waiting)

    def take(self) -> bytearray:
        """All that waits; it is the caller's from now on."""
        waiting, self._waiting = self._waiting, bytearray()
        return waiting


class FrameReader:
    """Bytes that came, as frames."""

    def __init__(self, frame_bytes_max: int) -> None:
        self.duplicates = 0  # frames that were dropped since they had come before
        self._frame_bytes_max = frame_bytes_max
        self._sequence = 0
        self._partial = bytearray()  # what begins a frame whose end is still to come
        self._wanted_bytes = 0  # it is not looked at again before there are so many

    def read(self, data: bytes) -> Iterator[Frame]:
        """The frames that these bytes complete. Raises WireError at the first thing that is not
        right; the rest must not be read then."""
        if self._partial:
            self._partial += data
            if len(self._partial) < self._wanted_bytes:
                return
            data = bytes(self._partial)
            self._partial = bytearray()
        start, end = 0, len(data)
        wanted_bytes = _HEADER_BYTES
        while end - start >= _HEADER_BYTES:
            length, sequence = _unpack_header(data, start)
            if length > self._frame_bytes_max:
                raise WireError(
                    f"a frame of {length:,} bytes; Limits.frame_bytes_max is"
                    f" {self._frame_bytes_max:,}"
                )
            body = start + _HEADER_BYTES
            if end - body < length:
                wanted_bytes += length
                break
            start = body + length
            if sequence == self._sequence:
                self._sequence = (sequence + 1) & _SEQUENCE_MASK
                yield _frame_of(data[body:start])
            elif (sequence - self._sequence) & _SEQUENCE_MASK >= _BEHIND:
                self.duplicates += 1
            else:
                raise WireError(f"frame {self._sequence} is missing: {sequence} came")
        if start < end:
            self._partial += data[start:]
            self._wanted_bytes = wanted_bytes


def _frame_of(body: bytes) -> Frame:
    try:
        return _decode(body)
    except Exception:  # of many kinds; what is in it is not told, since it may be a user's
        raise WireError(f"a frame of {len(body):,} bytes that cannot be read") from None
