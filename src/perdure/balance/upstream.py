"""Connections to backends: kept for the next request, read strictly, written on to the client.

Invariants:
- A connection that has said anything nobody asked for, or whose last answer or request is not
  complete, is closed and never used again.
- A pool's `size` counts what is open and what is being opened; requests wait beyond its bound.
- An answer is read no faster than its client takes it.
"""

import asyncio
import time
from collections import deque
from typing import cast

from perdure.balance.backends import Backend
from perdure.balance.chunks import LAST, BadChunkError, ChunkReader, chunk
from perdure.balance.exchange import Exchange
from perdure.balance.heads import (
    CHUNKED,
    UNTIL_CLOSE,
    AnswerHead,
    BadAnswerError,
    parse_answer,
)
from perdure.balance.shared import Shared

_HEADS_KEPT_MAX = 256
_KEPT_HEAD_BYTES_MAX = 1024
_INTERIM_MAX = 16  # answers such as 103 before the final one

_HEAD, _BODY, _TUNNEL, _CLOSED = range(4)


class Upstream(asyncio.Protocol):
    """One connection to a backend."""

    __slots__ = (
        "_chunks",
        "_exchange",
        "_frames",
        "_head",
        "_held",
        "_interim",
        "_is_paused",
        "_left",
        "_phase",
        "_pool",
        "_saw_end",
        "_shared",
        "answers",
        "is_counted",
        "is_write_paused",
        "stamp_s",
        "transport",
    )

    def __init__(self, pool: "Pool", shared: Shared) -> None:
        self.transport: asyncio.Transport
        self.answers = 0  # that it has brought
        self.is_counted = False  # among the pool's open connections
        self.is_write_paused = False
        self.stamp_s = shared.now_s  # of the last byte in either direction
        self._pool = pool
        self._shared = shared
        self._exchange: Exchange | None = None
        self._phase = _HEAD
        self._held = b""
        self._interim = 0
        self._is_paused = False
        self._head: AnswerHead | None = None  # of the answer whose body is coming
        self._left = 0  # bytes of it, or CHUNKED or UNTIL_CLOSE
        self._chunks: ChunkReader | None = None
        self._frames = False  # whether the client gets it chunked
        self._saw_end = False

    # --- for exchanges

    def send(self, exchange: Exchange, data: bytes) -> None:
        """The next request, whole or its beginning."""
        self._exchange = exchange
        self._interim = 0
        if exchange.client.is_write_paused:
            self.pause_reading()
        self.stamp_s = self._shared.now_s
        self.transport.write(data)

    def write(self, data: bytes) -> None:
        """More of the request, or of what its client sends through a tunnel."""
        self.stamp_s = self._shared.now_s
        self.transport.write(data)

    def pause_reading(self) -> None:
        """The client takes no more for now."""
        if not self._is_paused and not self.transport.is_closing():
            self._is_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """The client takes more."""
        if self._is_paused and not self.transport.is_closing():
            self._is_paused = False
            self.transport.resume_reading()

    def end_tunnel(self) -> bool:
        """The client will send no more; returns whether the backend may go on."""
        if self._saw_end or not self.transport.can_write_eof():
            return False  # the tunnel is over
        self.transport.write_eof()
        return True

    def close(self) -> None:
        """Closes it behind what was written to it; the exchange will not hear of it."""
        self._exchange = None
        self._phase = _CLOSED
        self.transport.close()
        if self.transport.get_write_buffer_size():  # the backend may never take it
            loop = asyncio.get_running_loop()
            loop.call_later(self._shared.limits.write_timeout_s, self.transport.abort)

    def cut(self) -> None:
        """Closes it under whatever is going on; the exchange will not hear of it."""
        self._exchange = None
        self._phase = _CLOSED
        self.transport.abort()

    def is_silent_for(self, now_s: float) -> float:
        """Seconds without a byte in either direction."""
        if self._exchange is not None and self._exchange.client.is_write_paused:
            self.stamp_s = now_s  # it is the client that is slow, and has a bound of its own
        return now_s - self.stamp_s

    @property
    def is_usable(self) -> bool:
        """Whether another request may be sent."""
        return self._phase == _HEAD and not self._saw_end

    # --- the transport's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None:
            self.cut()  # an answer that nobody asked for must not become that of the next request
            return
        self.stamp_s = self._shared.now_s
        try:
            if self._phase == _HEAD:
                self._read_head(exchange, data)
            elif self._phase == _BODY:
                self._read_body(exchange, data)
            elif self._phase == _TUNNEL:
                exchange.client.transport.write(data)
        except (BadAnswerError, BadChunkError):
            self._fail(exchange)

    def eof_received(self) -> bool:
        self._saw_end = True
        if self._phase == _TUNNEL and self._exchange is not None:
            return self._exchange.client.end_tunnel()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        if self.is_counted:
            self._pool.left(self)
        exchange, self._exchange = self._exchange, None
        phase, self._phase = self._phase, _CLOSED
        if exchange is None:
            return
        if phase == _HEAD:
            kind = "bad-answer" if self._held else "broken-off"
            # EPIPE: it was reset after it had been ended.
            had_end = self._saw_end or isinstance(error, BrokenPipeError)
            exchange.lost(kind, was_reused=self.answers > 0, had_end=had_end)
        elif phase == _TUNNEL:
            exchange.client.close_tunnel()
        elif self._left == UNTIL_CLOSE and error is None:
            self._end_body(exchange, cast("AnswerHead", self._head))
        else:
            exchange.cut_short()

    def pause_writing(self) -> None:
        self.is_write_paused = True
        if self._exchange is not None:
            self._exchange.client.pause_reading()

    def resume_writing(self) -> None:
        self.is_write_paused = False
        if self._exchange is not None:
            self._exchange.client.resume_reading()

    # --- reading an answer

    def _read_head(self, exchange: Exchange, data: bytes) -> None:
        if self._held:
            data = self._held + data
            self._held = b""
        end = data.find(b"\r\n\r\n") + 4
        if end < 4:
            if len(data) > self._shared.limits.answer_head_bytes_max:
                raise BadAnswerError
            self._held = data
            return
        raw = data[:end]
        head = self._shared.answer_heads.get(raw)
        if head is None:
            head = self._learn(raw)
        rest = data[end:]
        status = head.status
        if status < 200:
            self._take_interim(exchange, head, rest)
            return
        length = head.length
        if exchange.is_head or status in (204, 304):
            length = 0
        if (
            length == len(rest)
            and length == head.length
            and head.keeps_alive
            and exchange.is_complete
            and status != 503
        ):
            # The plain case: all of it is here, and the connection stays.
            self._exchange = None
            self.answers += 1
            self._pool.give(self)
            exchange.status = status
            exchange.answered(head)
            exchange.client.answer(head, rest)
            return
        if status == 503 and exchange.wants_other_answer(head):
            self.cut()
            exchange.ask_another()
            return
        self._begin_body(exchange, head, length)
        self._read_body(exchange, rest)

    def _learn(self, raw: bytes) -> AnswerHead:
        """Reads a head, and keeps it: most answers of a second differ in nothing but their body."""
        head = parse_answer(raw)
        heads = self._shared.answer_heads
        if len(raw) <= _KEPT_HEAD_BYTES_MAX:
            if len(heads) >= _HEADS_KEPT_MAX:
                heads.clear()
            heads[raw] = head
        return head

    def _take_interim(self, exchange: Exchange, head: AnswerHead, rest: bytes) -> None:
        self._interim += 1
        client = exchange.client
        if head.status == 101:
            if not (exchange.head.is_websocket and head.is_websocket):
                raise BadAnswerError
            self._phase = _TUNNEL
            exchange.began(head)
            client.begin_tunnel(
                head.start + b"connection: upgrade\r\nupgrade: websocket\r\n\r\n" + rest
            )
            return
        if self._interim > _INTERIM_MAX:
            raise BadAnswerError
        if not exchange.head.is_old and (head.status != 100 or exchange.head.expects_continue):
            client.transport.write(head.start + b"\r\n")
        if rest:
            self._read_head(exchange, rest)

    def _begin_body(self, exchange: Exchange, head: AnswerHead, length: int) -> None:
        self._phase = _BODY
        self._head = head
        self._left = length
        self._chunks = ChunkReader() if length == CHUNKED else None
        is_old = exchange.head.is_old
        self._frames = length < 0 and not is_old
        start = head.start
        if self._frames or (head.length < 0 and exchange.is_head and not is_old):
            start += b"transfer-encoding: chunked\r\n" if head.status not in (204, 304) else b""
        exchange.began(head)
        exchange.client.begin_answer(start, ends_with_connection=length < 0 and is_old)

    def _read_body(self, exchange: Exchange, data: bytes) -> None:
        left = self._left
        rest = b""
        if left >= 0:
            data, rest = data[:left], data[left:]
            self._left = left - len(data)
            is_done = not self._left
        elif self._chunks is not None:
            data, rest = self._chunks.feed(data)
            is_done = self._chunks.is_done
        else:
            is_done = False
        if data:
            exchange.client.transport.write(chunk(data) if self._frames else data)
        if rest:
            self._saw_end = True  # more than an answer: not to be used again
        if is_done:
            self._end_body(exchange, cast("AnswerHead", self._head))

    def _end_body(self, exchange: Exchange, head: AnswerHead) -> None:
        self._exchange = self._head = self._chunks = None
        self.answers += 1
        stays = head.keeps_alive and exchange.is_complete and self._left != UNTIL_CLOSE
        if self._phase != _CLOSED:
            if stays and not self._saw_end:
                self._phase = _HEAD
                self._pool.give(self)
            else:
                self.cut()
        exchange.answered(head)
        exchange.client.end_answer(LAST if self._frames else b"")

    def _fail(self, exchange: Exchange) -> None:
        phase = self._phase
        self.cut()
        if phase == _HEAD:
            exchange.lost("bad-answer", was_reused=False)
        else:
            exchange.cut_short()


class Pool:
    """The connections to one backend."""

    def __init__(self, backend: Backend, shared: Shared) -> None:
        self._backend = backend
        self._shared = shared
        self._idle: list[Upstream] = []
        self._waiting: deque[Exchange] = deque()
        self._size = 0
        self._opening = 0  # of these; not the number of tasks, which outlive what they do
        self._tasks: set[asyncio.Task[None]] = set()

    def take(self) -> Upstream | None:
        """An open connection that nobody uses, the latest used; None when there is none."""
        idle = self._idle
        while idle:
            upstream = idle.pop()
            if upstream._phase == _HEAD and not upstream._saw_end:  # a call less than `is_usable`
                return upstream
        return None

    def wait(self, exchange: Exchange) -> bool:
        """Sends the exchange as soon as there is a connection; False when too many wait."""
        limits = self._shared.limits
        if len(self._waiting) >= limits.waiting_requests_max:
            return False
        exchange.waits_since_s = self._shared.now_s
        self._waiting.append(exchange)
        self._connect_if_needed()
        return True

    def forget(self, exchange: Exchange) -> None:
        """It waits no longer, if it did."""
        if self._waiting and exchange in self._waiting:
            self._waiting.remove(exchange)

    def give(self, upstream: Upstream) -> None:
        """A connection is free."""
        if upstream._is_paused:
            upstream.resume_reading()
        if self._waiting:
            self._waiting.popleft().send(upstream, time.monotonic())
        elif self._backend.state == "up" and not self._shared.closing:
            self._idle.append(upstream)
        else:
            upstream.cut()

    def left(self, upstream: Upstream) -> None:
        """A connection is closed."""
        self._size -= 1
        if upstream in self._idle:
            self._idle.remove(upstream)
        self._connect_if_needed()

    def sweep(self, now_s: float) -> None:
        """Closes what nobody has used for a while."""
        idle_s = self._shared.limits.backend_idle_s
        while self._idle and now_s - self._idle[0].stamp_s > idle_s:
            self._idle.pop(0).cut()

    def close_idle(self) -> None:
        """Closes what nobody uses."""
        while self._idle:
            self._idle.pop().cut()

    def close(self) -> None:
        """Opens nothing any more."""
        self.close_idle()
        for task in self._tasks:
            task.cancel()

    def _connect_if_needed(self) -> None:
        has_room = self._size < self._shared.limits.backend_connections_max
        if has_room and self._opening < len(self._waiting):
            self._size += 1
            self._opening += 1
            task = asyncio.get_running_loop().create_task(self._connect())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        target = self._backend.target
        upstream = Upstream(self, self._shared)
        try:
            async with asyncio.timeout(self._shared.limits.connect_s):
                if target.path is not None:
                    await loop.create_unix_connection(lambda: upstream, target.path)
                else:
                    await loop.create_connection(lambda: upstream, target.host, target.port)
        except (OSError, TimeoutError):
            is_open = False
        else:
            is_open = upstream.is_usable  # it may have been closed in the meantime
        self._opening -= 1
        if is_open:
            upstream.is_counted = True
            self.give(upstream)
            return
        self._size -= 1
        if self._waiting:
            self._waiting.popleft().not_connected()
