"""Header blocks that a connection has sent before, byte for byte.

It exists because clients that keep a connection say the same of themselves with each request: only
the first line and the body differ. What was parsed and checked once need not be again, and parsing
is a third of what a short call costs. One cache for all connections was rejected: it would keep
what strangers send, secrets among it, for longer than their connections live.

Invariants:
- A block is known once the parser has read it and all checks have passed, behind a first line that
  is as plain as those that it will be found behind: the same bytes mean the same.
- A block in which two parties could see different lines is never known: every line end in it is
  CRLF, and there are as many lines as the parser found fields.
- What is not plain is not refused here but left to the parser, which knows all the rules.
"""

from typing import NamedTuple

_VERSION = b" HTTP/1.1\r\n"  # a block begins with it
_END = b"\r\n\r\n"
_METHODS = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE"))
_IN_TARGETS = bytes(set(range(0x21, 0x7F)) - {ord("#")})

_BLOCKS_MAX = 4  # of one client they differ in Content-Length
_MISSES_MAX = 16  # in a row; then the client never says the same again, as a proxy may


class KnownBlock(NamedTuple):
    """What the parser found in a header block. Requests share it, so nobody may change it."""

    text: bytes
    headers: list[tuple[bytes, bytes]]
    fields: dict[bytes, bytes]
    body_bytes: int


Request = tuple[bytes, bytes, KnownBlock, bytes]
"""Method, target, block and body; a plain tuple, since one is made for every request."""


class KnownHeads:
    """The blocks of one connection."""

    __slots__ = ("_blocks", "_candidate", "_misses")

    def __init__(self) -> None:
        self._blocks: list[KnownBlock] = []
        self._candidate = b""  # the block that the parser is about to read
        self._misses = 0

    def find(self, data: bytes) -> Request | None:
        """The one whole request that this data is; None: the parser must read it."""
        start = data.find(_VERSION)
        method, _, target = data[:start].partition(b" ")
        if (
            start < 0
            or method not in _METHODS
            or target[:1] != b"/"
            or target.translate(None, _IN_TARGETS)
        ):
            self._candidate = b""
            return None
        for block in self._blocks:
            text = block[0]
            if data.startswith(text, start):
                body = data[start + len(text) :]
                if len(body) != block[3]:  # the rest is still to come, or there is another request
                    break
                self._misses = 0
                return method, target, block, body
        self._miss(data, start)
        return None

    def _miss(self, data: bytes, start: int) -> None:
        self._misses += 1
        end = data.find(_END, start)
        tired = self._misses > _MISSES_MAX
        self._candidate = b"" if tired or end < 0 else data[start : end + len(_END)]

    def learn(self, headers: list[tuple[bytes, bytes]], fields: dict[bytes, bytes]) -> None:
        """The parser has read a block with nothing special in it, and the connection stays open."""
        text, self._candidate = self._candidate, b""
        if not text or any(text == block.text for block in self._blocks):
            return
        lines = text.count(b"\r\n")
        if lines - 2 != len(headers) or not lines == text.count(b"\r") == text.count(b"\n"):
            return
        if len(self._blocks) >= _BLOCKS_MAX:
            self._blocks.clear()
        length = int(fields.get(b"content-length", b"0"))
        self._blocks.append(KnownBlock(text, headers, fields, length))

    def forget(self) -> None:
        """Keep nothing of a connection that is idle."""
        self._blocks.clear()
