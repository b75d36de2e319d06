"""A live view over a WebSocket of our own server.

It exists beside the ASGI form so that a frame is made once for all WebSockets: it is written past
the library, which would frame, and compress, it for each connection. So there is no compression.

Invariants:
- As in an event stream: nothing is written while the transport still holds something.
- What the client sends is read, and thrown away.
"""

import asyncio

from websockets.frames import CloseCode

from perdure.base.errors import PerdureError, StoppingError
from perdure.runtime.live import Subscription
from perdure.web.exchange import Exchange
from perdure.web.live_wire import as_message, error_as_text
from perdure.web.problems import problem_of
from perdure.web.replies import headers_of
from perdure.web.shared import Subscribe, logger
from perdure.web.websocket import HttpSide, WebSocketConnection


class LiveSocket(WebSocketConnection):
    """One client's WebSocket, from its handshake on."""

    extensions = ()
    counts_unread = False  # it holds one frame at most, and all of them hold the same

    def __init__(self, http: HttpSide, exchange: Exchange, subscribe: Subscribe) -> None:
        super().__init__(http, exchange)
        self.ping_after_s = self.shared.limits.live_heartbeat_s
        self._subscribe = subscribe
        self._subscription: Subscription | None = None

    # --- what the topic tells

    def news(self) -> None:
        """Sends what is new if the client has taken all that came before."""
        if self.is_write_paused or self._has_ended or self.transport.is_closing():
            return
        assert self._subscription is not None, "news without a subscription"
        if frames := self._subscription.take():
            self.transport.write(b"".join([frame.render(as_message) for frame in frames]))

    def ended(self, error: BaseException) -> None:
        """Tells the client why, and closes."""
        if isinstance(error, StoppingError):
            self._close(CloseCode.SERVICE_RESTART, "")
        elif not self._has_ended:
            self._frames.send_text(error_as_text(error))
            self._close(CloseCode.INTERNAL_ERROR, "")

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._subscription is not None:
            self.news()

    # --- its life

    async def _run(self) -> None:
        """Instead of an application: subscribe, then wait for the end."""
        try:
            self._subscription = await self._subscribe(self._exchange)
        except asyncio.CancelledError:
            self.abort()
            raise
        except Exception as error:
            self._refuse(error)
            return
        try:
            if self._exchange.closed:
                return
            self._accept({})
            self.transport.set_write_buffer_limits(0)
            self._subscription.listener = self
            self._subscription.tell()
            while (await self._receive())["type"] != "websocket.disconnect":
                pass
        finally:
            self._subscription.close()

    def _refuse(self, error: Exception) -> None:
        if not isinstance(error, PerdureError):
            logger.exception("identify failed", exc_info=error)
        if not self._exchange.replied and not self.is_lost:
            status, body, extra = problem_of(error)
            self._deny(status, headers_of(extra), [body])
