"""The requests of one connection that are not answered yet, in their order.

It exists apart from the parser because it is another idea: there bytes become requests, here
answers become bytes, whoever is ready first.

Invariants:
- Replies leave in the order of their requests; only the first of `_pipeline` may write.
- `_arriving` is the exchange whose body is still incomplete, and always the last of `_pipeline`.
- After phase DONE nothing that arrives is parsed, and the connection ends with the last reply.
- Reading is paused while too many wait, or one of them has no room for its body; only then are
  there bytes that were read and not yet parsed (`_held`).
"""

from collections import deque
from typing import Any, cast

from perdure.runtime.live import Subscription
from perdure.web.asgi import scope_of
from perdure.web.event_stream import EventStream
from perdure.web.exchange import Exchange
from perdure.web.replies import CONTINUE
from perdure.web.shared import Shared
from perdure.web.transport import ClientTransport

IDLE, HEAD, BODY, IGNORED_UPGRADE, DONE = range(5)
"""What a connection is reading: nothing, a head, a body, one after a refused upgrade, or nothing
any more."""


class Pipeline(ClientTransport):
    """The base of the HTTP protocol, which reads."""

    def __init__(self, shared: Shared) -> None:
        super().__init__(shared)
        self.dates = shared.dates
        self.replies = shared.replies
        self._edge = shared.edge
        self._depth_max = shared.limits.pipeline_depth_max
        self._pipeline: deque[Exchange] = deque()
        self._arriving: Exchange | None = None
        self._phase = IDLE
        # of the head's begin, of a reply, or up to where the body is on time
        self._stamp_s = shared.dates.now_s
        self._held = b""  # read and not yet parsed
        self._is_biting = False
        self._is_paused = False
        self._is_lingering = False
        self._owes_continue = False

    def answer(self, exchange: Exchange, data: bytes) -> None:
        """Writes the whole reply, or the rest of it, when all earlier replies are written."""
        if self._edge is not None:
            self._edge.log(exchange, len(data))
        pipeline = self._pipeline
        if pipeline[0] is not exchange:
            exchange.ready = data
            return
        pipeline.popleft()
        self._stamp_s = self.dates.now_s
        self.transport.write(data)
        if pipeline or self._is_paused or self._phase == DONE:
            self._advance()

    def keeps_alive(self, exchange: Exchange) -> bool:
        """Says whether the connection stays open after this reply; False ends its reading."""
        if exchange is self._arriving:
            # The client may be sending a body for long, or, after Expect, not at all.
            self._is_lingering = True
            self._phase = DONE
            return False
        if not exchange.keep_alive:
            self._phase = DONE
            self._drop_behind(exchange)
            return False
        if self.dates.closing and self._is_last_read(exchange):
            self._phase = DONE
            return False
        return True

    def scope_of(self, exchange: Exchange) -> dict[str, Any]:
        """Returns the request as an ASGI http scope."""
        return scope_of(self.shared, exchange, self.server)

    def stream(self, exchange: Exchange, subscription: Subscription) -> None:
        """Becomes an event stream when all earlier replies are written."""
        exchange.call = EventStream(self, exchange, subscription)
        exchange.keep_alive = False
        self._phase = DONE
        self._drop_behind(exchange)
        if self._pipeline[0] is exchange:
            exchange.call.start()

    def resume_if_possible(self) -> None:
        """Goes on reading when none of the reasons to pause is left."""
        if not self._is_paused or not self._may_read():
            return
        self._is_paused = False
        if self._held:
            self._feed_in_bites()
        if not self._is_paused and not self.transport.is_closing():
            self.transport.resume_reading()

    def send_continue(self, exchange: Exchange) -> None:
        """Asks the client for the body it holds back, unless that has been done."""
        if self._owes_continue and exchange is self._arriving:
            self._owes_continue = False
            self.transport.write(CONTINUE)

    def _advance(self) -> None:
        pipeline = self._pipeline
        ready = []
        while pipeline and pipeline[0].ready is not None:
            ready.append(cast("bytes", pipeline.popleft().ready))
        if ready:
            self.transport.write(b"".join(ready))
        if self.is_write_paused:
            self.shared.unread.note(self.transport)
        if pipeline:
            self._begin_first()
        elif self._phase == DONE:
            self._end()
            return
        self.resume_if_possible()

    def _begin_first(self) -> None:
        first = self._pipeline[0]
        if first.call is not None:
            first.call.start()
        else:
            self.send_continue(first)

    def _is_last_read(self, exchange: Exchange) -> bool:
        """Returns whether no request was read, not even in part, behind this one.

        A reply given while its body is being parsed cannot know, and says no: then the connection
        stays open, and is closed as an idle one.
        """
        if self._phase != IDLE or self._held or self._pipeline[-1] is not exchange:
            return False
        return not (self._is_biting and exchange.body)

    def _feed_in_bites(self) -> None:
        """Parses what is held; of the class that reads."""
        raise NotImplementedError

    def _pause(self) -> None:
        if not self._is_paused and not self.transport.is_closing():
            self._is_paused = True
            self.transport.pause_reading()

    def _may_read(self) -> bool:
        arriving = self._arriving
        if self.is_write_paused or (arriving is None and len(self._pipeline) >= self._depth_max):
            return False
        return arriving is None or arriving.call is None or arriving.call.has_room()

    def _drop_behind(self, exchange: Exchange) -> None:
        """After `connection: close` no later request may be answered (RFC 9112, 9.6)."""
        while self._pipeline[-1] is not exchange:
            dropped = self._pipeline.pop()
            dropped.closed = True
            if dropped.call is not None:
                dropped.call.disconnect()

    def _end(self) -> None:
        """Closes behind the last reply.

        Where the client may still be sending, closing at once would answer it with a reset, which
        can destroy the reply before it is read (RFC 9112, 9.6); so only our side is closed, and
        what comes is thrown away for a while.
        """
        if self._is_lingering and self.transport.can_write_eof():
            self._stamp_s = self.dates.now_s
            self.transport.write_eof()
            if self._is_paused:
                self._is_paused = False
                self.transport.resume_reading()
        else:
            self.transport.close()
