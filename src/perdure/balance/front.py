"""Connections of clients: requests read strictly, one after the other, answers in their order.

It exists as the one place where a client's bytes are judged. A request costs a search for its end,
a match of its first line and, where its fields are those of the request before, one comparison.

Invariants:
- One exchange at a time; what comes behind it waits in `_held`, and is bounded.
- What is refused is never passed on, and nothing behind it is read.
- Every state has a timeout, enforced by `sweep`.
"""

import asyncio
from typing import cast

from perdure.balance.backends import Backend
from perdure.balance.chunks import BadChunkError, ChunkReader
from perdure.balance.exchange import Exchange
from perdure.balance.heads import (
    CHUNKED,
    REQUEST_LINE,
    AnswerHead,
    Peer,
    RequestHead,
    parse_request,
)
from perdure.balance.shared import Shared
from perdure.web.problems import CONTENT_TYPE, problem
from perdure.web.replies import CLOSE_LINE, KEEP_ALIVE_LINE, status_line
from perdure.web.request_head import RefusedError, split_target

READY_PATH = b"/-/balance/ready"

_LINGER_S = 2.0  # how long a refused client may go on sending before its connection is closed
_SAFE_TO_NAME = 503  # of our own answers, the one that says to come back
_VERSIONS = (b"1.1", b"1.0")
_SLASH, _HASH = b"/#"  # numbers, which bytes are searched for faster than for bytes

_HEAD, _BODY, _WAIT, _TUNNEL, _DONE = range(5)


class ClientConnection(asyncio.Protocol):
    """One client connection."""

    __slots__ = (
        "_body_bytes",
        "_buffered_bytes",
        "_chunks",
        "_exchange",
        "_head",
        "_held",
        "_is_paused",
        "_left",
        "_phase",
        "_progress_s",
        "_saw_end",
        "_shared",
        "_stamp_s",
        "_stays",
        "_was_used",
        "is_write_paused",
        "peer",
        "transport",
    )

    def __init__(self, shared: Shared) -> None:
        self.transport: asyncio.Transport
        self.is_write_paused = False
        self._shared = shared
        self._exchange: Exchange | None = None
        self._phase = _HEAD
        self._held = b""
        self._head: RequestHead | None = None  # of the last request; the next is often the same
        self.peer = Peer("", "http")
        self._left = 0  # bytes of the body that have not come
        self._body_bytes = 0
        self._chunks: ChunkReader | None = None
        self._stays = True  # whether the connection outlives the exchange
        self._was_used = False
        self._saw_end = False  # the client sends no more, and still wants its answers
        self._is_paused = False
        self._stamp_s = shared.now_s
        self._buffered_bytes = 0
        self._progress_s = shared.now_s

    # --- the transport's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        shared = self._shared
        self.transport = cast("asyncio.Transport", transport)
        if len(shared.clients) >= shared.limits.connections_max:
            self._phase = _DONE
            self.transport.abort()
            return
        shared.clients.add(self)
        shared.metrics.connections_total += 1
        name = transport.get_extra_info("peername")
        address = name[0] if isinstance(name, tuple) else ""
        is_secure = transport.get_extra_info("sslcontext") is not None
        is_trusted = shared.is_trusted is not None and shared.is_trusted(address)
        self.peer = Peer(address, "https" if is_secure else "http", is_trusted, shared.via)

    def data_received(self, data: bytes) -> None:
        phase = self._phase
        if phase == _HEAD:
            if self._held:
                data = self._held + data
            self._read(data)
        elif phase == _BODY:
            self._stamp_s = self._shared.now_s
            self._read(data)
        elif phase == _WAIT:
            self._hold(data)
        elif phase == _TUNNEL:
            upstream = cast("Exchange", self._exchange).upstream
            if upstream is not None:
                upstream.write(data)

    def eof_received(self) -> bool:
        exchange = self._exchange
        if self._phase in (_BODY, _DONE) or self.peer.scheme == "https":
            return False
        if exchange is None and not self._held:
            return False
        self._saw_end = True
        if self._phase == _TUNNEL and exchange is not None and exchange.upstream is not None:
            return exchange.upstream.end_tunnel()
        return self._phase != _HEAD or b"\r\n\r\n" in self._held

    def connection_lost(self, error: Exception | None) -> None:
        was_tunnel = self._phase == _TUNNEL
        self._phase = _DONE
        self._shared.clients.discard(self)
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.abandon(gently=was_tunnel and error is None)

    def pause_writing(self) -> None:
        self.is_write_paused = True
        if self._exchange is not None and self._exchange.upstream is not None:
            self._exchange.upstream.pause_reading()

    def resume_writing(self) -> None:
        self.is_write_paused = False
        if self._exchange is not None and self._exchange.upstream is not None:
            self._exchange.upstream.resume_reading()

    def pause_reading(self) -> None:
        """The backend takes no more for now."""
        if not self._is_paused and not self.transport.is_closing():
            self._is_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """The backend takes more."""
        if self._is_paused and not self.transport.is_closing():
            self._is_paused = False
            self._stamp_s = self._shared.now_s
            self.transport.resume_reading()

    # --- answers

    def answer(self, head: AnswerHead, body: bytes) -> None:
        """Writes a whole answer with a length, and goes on."""
        asked = self._head
        assert asked is not None
        if self._stays and not self._shared.closing and not asked.is_old:
            self.transport.write(head.whole + body if body else head.whole)
        else:
            self.begin_answer(head.start, ends_with_connection=False)
            if body:
                self.transport.write(body)
        self._go_on()

    def begin_answer(self, start: bytes, *, ends_with_connection: bool) -> None:
        """Writes the head of an answer; its body is written to the transport."""
        if ends_with_connection or self._phase == _BODY or self._shared.closing:
            self._stays = False
        if not self._stays:
            start += CLOSE_LINE
        elif self._head is not None and self._head.is_old:
            start += KEEP_ALIVE_LINE
        self.transport.write(start + b"\r\n")

    def end_answer(self, last: bytes) -> None:
        """Writes the end of an answer, if it has one, and goes on."""
        if last:
            self.transport.write(last)
        self._go_on()

    def answer_problem(self, status: int, kind: str, title: str) -> None:
        """Answers with a problem of the balancer's own, and goes on."""
        extra = b"retry-after: 1\r\n" if status == _SAFE_TO_NAME else b""
        is_head = self._exchange is not None and self._exchange.is_head
        self._write_own(status, problem(status, kind, title), CONTENT_TYPE, extra, is_head=is_head)

    def abort(self) -> None:
        """Cuts the connection, so that nobody takes half an answer for a whole one."""
        self._phase = _DONE
        self.transport.abort()

    def begin_tunnel(self, data: bytes) -> None:
        """From now on both sides say what they like."""
        self._phase = _TUNNEL
        self.transport.write(data)
        held, self._held = self._held, b""
        if held:
            self.data_received(held)
        self.resume_reading()

    def end_tunnel(self) -> bool:
        """The backend will send no more; returns whether the client may go on."""
        if self._saw_end or self.peer.scheme == "https" or not self.transport.can_write_eof():
            return False  # the tunnel is over
        self.transport.write_eof()
        return True

    def close_tunnel(self) -> None:
        """The backend is gone."""
        self._phase = _DONE
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.upstream = None
            exchange.abandon()
        self.transport.close()

    # --- the sweeper and the graceful stop

    def sweep(self, now_s: float) -> None:
        """Enforces the timeouts; a stamp may be a sweep older than what it stamps."""
        limits = self._shared.limits
        phase = self._phase
        age_s = now_s - self._stamp_s
        if self._is_stuck(now_s):
            self.transport.abort()
        elif phase == _HEAD:
            if self._held:
                if age_s > limits.header_timeout_s:
                    self._refuse(RefusedError(408))
            elif age_s > (limits.idle_timeout_s if self._was_used else limits.header_timeout_s):
                self.transport.close()
        elif phase == _DONE:
            if age_s > _LINGER_S and not self.transport.get_write_buffer_size():
                self.transport.abort()
        elif phase == _BODY and not self._is_paused and age_s > limits.body_timeout_s:
            self._refuse(RefusedError(408))
        elif self._exchange is not None:
            if phase == _TUNNEL:
                upstream = self._exchange.upstream
                if upstream is not None and now_s - upstream.stamp_s > limits.tunnel_idle_s:
                    self.transport.close()
            else:
                self._exchange.time_out(now_s)

    def leave_silent(self, backend: Backend) -> None:
        """Has its request asked of another, if this backend has it and that is harmless."""
        if self._exchange is not None:
            self._exchange.leave_silent(backend)

    def drain(self) -> None:
        """Closes if nothing is under way."""
        if self._phase == _HEAD and not self._held:
            self._phase = _DONE
            self.transport.close()

    # --- reading

    def _read(self, data: bytes) -> None:
        try:
            if self._phase == _HEAD:
                self._read_head(data)
            else:
                self._read_body(cast("Exchange", self._exchange), data)
        except RefusedError as refusal:
            self._refuse(refusal)
        except BadChunkError:
            self._refuse(RefusedError(400, "the body is not chunked as it should be"))

    def _read_head(self, data: bytes) -> None:
        end = data.find(b"\r\n\r\n") + 4
        if end < 4:
            self._wait_for_head(data)
            return
        line = REQUEST_LINE.match(data)
        if line is None:
            # One empty line before a request is to be ignored (RFC 9112, 2.2); two are noise.
            if data[:2] == b"\r\n" and data[2:4] != b"\r\n":
                self._read_head(data[2:])
                return
            raise _refusal_of_line(data)
        method, target, version = line.groups()
        raw = data[line.end() : end]
        head = self._head
        if head is None or raw != head.raw:
            head = self._learn(version, raw)
        if target[0] != _SLASH or _HASH in target:
            target = _origin_form(method, target, head)
        elif len(target) > self._shared.limits.target_bytes_max:
            raise RefusedError(414)
        if method == b"CONNECT":
            raise RefusedError(501, "this is not a proxy")
        self._held = b""
        self._stays = head.keeps_alive
        self._was_used = True
        self._begin(Exchange(self._shared, self, method, target, head), data[end:])

    def _begin(self, exchange: Exchange, rest: bytes) -> None:
        self._exchange = exchange
        shared = self._shared
        shared.budget.requests += 1
        length = exchange.head.length
        if not length:
            self._phase = _WAIT
            if rest:
                self._hold(rest)
        else:
            if length > shared.limits.body_bytes_max:
                raise RefusedError(413)
            self._phase = _BODY
            self._stamp_s = shared.now_s
            self._body_bytes = 0
            self._left = length
            self._chunks = ChunkReader() if length == CHUNKED else None
            if rest:
                self._read_body(exchange, rest)
        if exchange.target == READY_PATH:
            self._say_ready()
        elif self._exchange is exchange:
            exchange.start()

    def _read_body(self, exchange: Exchange, data: bytes) -> None:
        if self._chunks is None:
            rest = data[self._left :]
            data = data[: self._left]
            self._left -= len(data)
            is_done = not self._left
        else:
            data, rest = self._chunks.feed(data)
            is_done = self._chunks.is_done
            self._body_bytes += len(data)
            if self._body_bytes > self._shared.limits.body_bytes_max:
                raise RefusedError(413)
        if data and not exchange.feed(data):
            self.pause_reading()
        if is_done:
            self._phase = _WAIT
            exchange.complete()
            if rest:
                self._hold(rest)

    def _wait_for_head(self, data: bytes) -> None:
        if self._saw_end:
            self._end()
            return
        if not self._held:
            self._stamp_s = self._shared.now_s
        limits = self._shared.limits
        if len(data) > limits.header_bytes_max + limits.target_bytes_max:
            raise RefusedError(431)
        self._held = data

    def _learn(self, version: bytes, raw: bytes) -> RequestHead:
        if version not in _VERSIONS:
            raise RefusedError(505)
        if len(raw) > self._shared.limits.header_bytes_max:
            raise RefusedError(431)
        self._head = parse_request(raw, self.peer)
        return self._head

    def _hold(self, data: bytes) -> None:
        self._held += data
        if len(self._held) > self._shared.limits.pipelined_bytes_max:
            self.pause_reading()

    # --- endings

    def _go_on(self) -> None:
        self._exchange = None
        self._stamp_s = self._shared.now_s
        if not self._stays or self._phase == _BODY or (self._saw_end and not self._held):
            self._end()
            return
        self._phase = _HEAD
        if self._is_paused:
            self.resume_reading()
        if self._held:
            # Not at once: many requests in one read, each refused, would be a deep recursion.
            asyncio.get_running_loop().call_soon(self._read_held)

    def _read_held(self) -> None:
        if self._phase == _HEAD and self._held:
            self._read(self._held)

    def _refuse(self, refusal: RefusedError) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.abandon()
            if exchange.is_answering:
                self.abort()
                return
        self._stays = False
        self._shared.metrics.refused(refusal.status)
        self._write_own(refusal.status, refusal.body(), CONTENT_TYPE, is_head=False)

    def _say_ready(self) -> None:
        is_ready = self._shared.is_ready
        body = b'{"ok":true}' if is_ready else b'{"ok":false}'
        is_head = cast("Exchange", self._exchange).is_head
        self._write_own(200 if is_ready else 503, body, b"application/json", is_head=is_head)

    def _write_own(
        self, status: int, body: bytes, content_type: bytes, extra: bytes = b"", *, is_head: bool
    ) -> None:
        start = b"%bcontent-type: %b\r\ncontent-length: %d\r\n%b" % (
            status_line(status),
            content_type,
            len(body),
            extra,
        )
        self.begin_answer(start, ends_with_connection=False)
        if not is_head:
            self.transport.write(body)
        self._go_on()

    def _end(self) -> None:
        """Closes behind the last answer.

        Where the client may still be sending, closing at once would answer it with a reset, which
        can destroy the answer before it is read (RFC 9112, 9.6).
        """
        self._phase = _DONE
        self._held = b""
        if self.peer.scheme == "https" or not self.transport.can_write_eof():
            self.transport.close()
            return
        self.transport.write_eof()
        self.resume_reading()

    def _is_stuck(self, now_s: float) -> bool:
        """Whether the client took nothing of what waits for it for write_timeout_s."""
        buffered_bytes = self.transport.get_write_buffer_size()
        if not buffered_bytes or buffered_bytes < self._buffered_bytes or not self._buffered_bytes:
            self._progress_s = now_s
        self._buffered_bytes = buffered_bytes
        return now_s - self._progress_s > self._shared.limits.write_timeout_s


def _origin_form(method: bytes, target: bytes, head: RequestHead) -> bytes:
    path, query = split_target(method, target, head.fields.get(b"host"))
    return b"%b?%b" % (path, query) if query else path


def _refusal_of_line(data: bytes) -> RefusedError:
    line = data[: data.find(b"\r\n")]
    version = line.rpartition(b" ")[2]
    if version[:5] == b"HTTP/" and version[5:] not in _VERSIONS and version[5:].count(b".") == 1:
        return RefusedError(505)
    return RefusedError(400, "the request line is malformed")
