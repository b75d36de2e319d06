"""Chunked bodies, taken apart strictly and put together again.

It exists so that chunk extensions, trailers and anything sloppy end here: what leaves is framed by
us. A pure state machine, without a socket.

Invariants:
- Sizes are hexadecimal digits alone, lines end in CRLF; everything else raises BadChunkError.
- Nothing behind the last chunk's empty line is consumed.
- What waits to be understood is shorter than `_LINE_BYTES_MAX`.
"""

import re

LAST = b"0\r\n\r\n"

_LINE_BYTES_MAX = 4096  # of a size with its extensions, or a trailer
_TRAILER_BYTES_MAX = 16 << 10
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?")
_TRAILER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*")

_SIZE_LINE, _DATA, _DATA_END, _TRAILERS, _DONE = range(5)


class BadChunkError(Exception):
    """Raised when a body is not chunked as it should be."""


def chunk(data: bytes) -> bytes:
    """Frames data that is not empty."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class ChunkReader:
    """Takes one chunked body apart."""

    __slots__ = ("_held", "_left", "_phase", "_trailer_bytes")

    def __init__(self) -> None:
        self._held = b""
        self._left = 0
        self._phase = _SIZE_LINE
        self._trailer_bytes = 0

    @property
    def is_done(self) -> bool:
        """Whether the end of the body was read."""
        return self._phase == _DONE

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Returns the content in `data`, and what lies behind the body's end."""
        if self._held:
            data = self._held + data
            self._held = b""
        content: list[bytes] = []
        at = 0
        while self._phase != _DONE and at < len(data):
            if self._phase == _DATA:
                piece = data[at : at + self._left]
                content.append(piece)
                at += len(piece)
                self._left -= len(piece)
                if not self._left:
                    self._phase = _DATA_END
                continue
            end = data.find(b"\r\n", at)
            if end < 0:
                self._hold(data[at:])
                return b"".join(content), b""
            self._take_line(data[at:end])
            at = end + 2
        return b"".join(content), data[at:]

    def _hold(self, rest: bytes) -> None:
        too_long = len(rest) > (1 if self._phase == _DATA_END else _LINE_BYTES_MAX)
        if too_long or b"\n" in rest:
            raise BadChunkError
        self._held = rest

    def _take_line(self, line: bytes) -> None:
        if self._phase == _SIZE_LINE:
            size = _SIZE.fullmatch(line)
            if size is None or len(line) > _LINE_BYTES_MAX:
                raise BadChunkError
            self._left = int(size[1], 16)
            self._phase = _DATA if self._left else _TRAILERS
        elif self._phase == _DATA_END:
            if line:
                raise BadChunkError
            self._phase = _SIZE_LINE
        elif not line:
            self._phase = _DONE
        else:
            self._trailer_bytes += len(line)
            if not _TRAILER.fullmatch(line) or self._trailer_bytes > _TRAILER_BYTES_MAX:
                raise BadChunkError
