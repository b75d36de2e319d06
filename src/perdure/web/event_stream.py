"""Server-Sent Events on a connection of our own server.

It exists so that ten thousand watchers cost ten thousand writes of the same bytes and nothing else:
no task, no queue and no encoding for each.

Invariants:
- Nothing is written while the transport still holds something: a client that reads slowly gets,
  when it can take data again, what is newest then.
- A connection carries one stream and ends with it, so no framing is needed. A stream that is cut
  within an event ends without its empty line, and clients must ignore such an event.
"""

import asyncio
from typing import Any, Protocol, cast

from perdure.base.errors import StoppingError
from perdure.base.ids import jittered
from perdure.runtime.live import Subscription
from perdure.web.exchange import Exchange
from perdure.web.live_wire import (
    EVENT_STREAM_LINES,
    HEARTBEAT,
    as_event,
    error_as_event,
    retry_line,
)
from perdure.web.shared import Shared, logger
from perdure.web.transport import ClientTransport


class HttpSide(Protocol):
    """What a stream takes over from the connection it began on."""

    shared: Shared
    transport: asyncio.Transport
    is_write_paused: bool


class EventStream(ClientTransport):
    """One client's stream; takes the transport over when it starts."""

    def __init__(self, http: HttpSide, exchange: Exchange, subscription: Subscription) -> None:
        super().__init__(http.shared)
        self._http: HttpSide | None = http
        self._exchange = exchange
        self._subscription = subscription
        # each at another time: the sweeper looks at all connections in one go
        self._beat_s = self.shared.dates.now_s + jittered(http.shared.limits.live_heartbeat_s)

    # --- what the HTTP side tells

    def start(self) -> None:
        """Takes over the transport, and sends what is there."""
        http, self._http = self._http, None
        if http is None:
            return
        self.transport = http.transport
        if self._exchange.closed:
            self.transport.close()
            return
        self.is_write_paused = http.is_write_paused
        self.transport.set_protocol(self)
        self.shared.connections.discard(cast("Any", http))
        self.shared.connections.add(self)
        if not self.transport.is_reading():
            self.transport.resume_reading()  # to hear when the client goes
        self.transport.set_write_buffer_limits(0)
        self._exchange.replied = True
        self._exchange.status = 200
        self.transport.write(
            b"HTTP/1.1 200 OK\r\n%b%b%bconnection: close\r\n\r\n%b"
            % (self.shared.dates.line, self._exchange.own_lines(), EVENT_STREAM_LINES, retry_line())
        )
        self._subscription.listener = self
        self._subscription.tell()

    def disconnect(self) -> None:
        """The client went away before its turn came."""
        self._exchange.closed = True
        self._subscription.close()

    # --- what the topic tells

    def news(self) -> None:
        """Sends what is new if the client has taken all that came before."""
        if self.is_write_paused or self.transport.is_closing():
            return
        frames = self._subscription.take()
        if len(frames) == 1:
            self.transport.write(frames[0].render(as_event))
        elif frames:
            self.transport.write(b"".join([frame.render(as_event) for frame in frames]))

    def ended(self, error: BaseException) -> None:
        """Tells the client why, and closes."""
        self._subscription.close()
        if isinstance(error, StoppingError):
            self._end(retry_line())
        else:
            self._end(error_as_event(error))

    # --- the transport's callbacks

    def resume_writing(self) -> None:
        super().resume_writing()
        self.news()

    def data_received(self, data: bytes) -> None:
        """Nothing a client says after its request is of interest."""

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        if self.shared.edge is not None:
            self.shared.edge.log(self._exchange)
        self._exchange.closed = True
        self._subscription.close()

    # --- the sweeper and the graceful stop

    def sweep(self, now_s: float, slack_s: float) -> None:
        """Cuts off a client that takes nothing, and gives the others a sign of life."""
        if self.is_stuck(now_s, slack_s):
            logger.info("slow reader cut off", extra={"view": str(self._subscription.method)})
            self.abort()
        elif now_s >= self._beat_s:
            self._beat_s = now_s + self.shared.limits.live_heartbeat_s
            if not self.is_write_paused:
                self.transport.write(HEARTBEAT)

    def drain(self) -> None:
        """Sends the client away, to come back elsewhere or later."""
        self._subscription.close()
        self._end(retry_line())

    def stop(self) -> None:
        """The same."""
        self.drain()

    def abort(self) -> None:
        """Cuts the connection."""
        self.transport.abort()

    def _end(self, last: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(last)
            self.transport.close()
