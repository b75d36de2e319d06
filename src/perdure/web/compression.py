"""gzip and zstd for answers that are made on the spot.

It exists in two forms that share their rules: `compressed` for the whole answer of an actor, and
`Compressing` around a mounted ASGI application, whose answers may be streams.

Invariants:
- Only who asks for it gets it, and every answer that could have been compressed says so in `Vary`.
- What is compressed already, a part of something, a stream of events, or marked `no-transform` is
  left alone.
- What a stream has sent can be read by the client at once: each block ends with a flush.
- The event loop compresses no more than INLINE_BYTES_MAX at a time; more of it in threads.

Compressing an answer that holds both a secret and something that an attacker chose tells the
attacker about the secret (BREACH). That is why an App has to ask for this.
"""

import asyncio
import zlib
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from perdure.web.negotiation import coding_of

try:
    import zstandard
except ImportError:  # gzip alone is as right, only larger
    zstandard = None  # type: ignore[assignment]

PLAIN_BYTES_MAX = 1024  # below it the saving is less than what the work costs
INLINE_BYTES_MAX = 64 << 10

_GZIP_LEVEL = 5
_ZSTD_LEVEL = 3
_GZIP_WINDOW = 16 + zlib.MAX_WBITS
_CODINGS = ("gzip",) if zstandard is None else ("zstd", "gzip")
_TYPES = (b"text/", b"application/json", b"application/javascript", b"application/xml")
_SUFFIXES = (b"+json", b"+xml")
_VARY = b"accept-encoding"

Headers = list[tuple[bytes, bytes]]


class _Compressor(Protocol):
    def compress(self, data: bytes) -> bytes: ...
    def flush(self, mode: int = ...) -> bytes: ...


def is_compressible(content_type: bytes) -> bool:
    """Whether answers of this type get smaller; never true for a stream of events."""
    kind = content_type.partition(b";")[0].strip().lower()
    if kind == b"text/event-stream":
        return False
    return kind.startswith(_TYPES) or kind.endswith(_SUFFIXES)


def compressed(body: bytes, accepted: bytes | None) -> tuple[bytes, bytes]:
    """The body as the client likes it, and the header lines that say so.

    For bodies of a compressible type and up to INLINE_BYTES_MAX.
    """
    coding = coding_of(accepted, _CODINGS)
    if coding is None:
        return body, b"vary: accept-encoding\r\n"
    compressor = _compressor(coding)
    smaller = compressor.compress(body) + compressor.flush()
    return smaller, b"vary: accept-encoding\r\ncontent-encoding: %b\r\n" % coding.encode()


class Compressing:
    """An ASGI application whose answers are compressed."""

    def __init__(self, app: Callable[[Any, Any, Any], Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            send = _Answer(scope, send).send
        await self._app(scope, receive, send)


class _Answer:
    """One answer on its way; its head waits for the first part of its body."""

    def __init__(self, scope: Any, send: Any) -> None:
        fields = [value for name, value in scope["headers"] if name == b"accept-encoding"]
        self._accepted = b",".join(fields)
        self._is_head = scope["method"] == "HEAD"
        self._send = send
        self._start: Any = None
        self._compressor: _Compressor | None = None
        self._flush_mode = 0

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            return
        if self._start is not None and message["type"] == "http.response.body":
            start, self._start = self._start, None
            await self._send(self._decide(start, message))
        if self._compressor is not None and message["type"] == "http.response.body":
            message = message | {"body": await self._work(self._compressor, message)}
        await self._send(message)

    def _decide(self, start: Any, first: Any) -> Any:
        headers: Headers = [(name.lower(), value) for name, value in start.get("headers", ())]
        fields = dict(headers)
        is_short = not first.get("more_body") and len(first.get("body", b"")) <= PLAIN_BYTES_MAX
        if not _may_change(start["status"], fields) or (is_short and not self._is_head):
            return start
        headers = _with_vary(headers)
        coding = coding_of(self._accepted, _CODINGS)
        if coding is not None and not self._is_head:
            self._compressor = _compressor(coding)
            self._flush_mode = _flush_mode(coding)
            headers = [_weakened(header) for header in headers if header[0] != b"content-length"]
            headers.append((b"content-encoding", coding.encode()))
        return start | {"headers": headers}

    async def _work(self, compressor: _Compressor, message: Any) -> bytes:
        body, is_last = message.get("body", b""), not message.get("more_body")
        if not body and not is_last:
            return b""
        flush_mode = None if is_last else self._flush_mode
        if len(body) <= INLINE_BYTES_MAX:
            return _step(compressor, body, flush_mode)
        return await asyncio.to_thread(_step, compressor, body, flush_mode)


def _step(compressor: _Compressor, body: bytes, flush_mode: int | None) -> bytes:
    data = compressor.compress(body)
    return data + (compressor.flush() if flush_mode is None else compressor.flush(flush_mode))


def _compressor(coding: str) -> _Compressor:
    if coding == "gzip":
        return zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_WINDOW)
    return zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compressobj()


def _flush_mode(coding: str) -> int:
    return zlib.Z_SYNC_FLUSH if coding == "gzip" else zstandard.COMPRESSOBJ_FLUSH_BLOCK


def _may_change(status: int, fields: dict[bytes, bytes]) -> bool:
    length = fields.get(b"content-length", b"")
    return (
        status not in (204, 206, 304)
        and b"content-encoding" not in fields
        and b"no-transform" not in fields.get(b"cache-control", b"").lower()
        and is_compressible(fields.get(b"content-type", b""))
        and not (length.isdigit() and int(length) <= PLAIN_BYTES_MAX)
    )


def _with_vary(headers: Headers) -> Headers:
    named = b",".join(value.lower() for name, value in headers if name == b"vary")
    if _VARY in [one.strip() for one in named.split(b",")] or named.strip() == b"*":
        return headers
    return [*headers, (b"vary", _VARY)]


def _weakened(header: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    """The same meaning, but not the same bytes: no strong tag any more."""
    name, value = header
    return (name, b"W/" + value) if name == b"etag" and not value.startswith(b"W/") else header
