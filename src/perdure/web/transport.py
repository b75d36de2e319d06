"""What HTTP and WebSocket connections share: who the client is, and how fast it reads.

It exists so that the two protocols, of which the second takes over the first's transport, have
one way to wait for a slow reader and one way to lose patience with it.

Invariants:
- A waiting sender is always woken: by the drained buffer, or by the loss of the connection.
"""

import asyncio
from typing import cast

from perdure.web.shared import Shared


class ClientTransport(asyncio.Protocol):
    """The base of both protocols."""

    counts_unread = False  # whether what its client does not take counts, see `unread`

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self.transport: asyncio.Transport
        self.client: tuple[str, int] | None = None
        self.server: tuple[str, int] | None = None
        self.scheme = "http"
        self.is_write_paused = False
        self.is_lost = False
        self._waiters: list[asyncio.Future[None]] = []
        self._buffered_bytes = 0
        self._progress_s = shared.dates.now_s

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.client = _address(transport.get_extra_info("peername"))
        self.server = _address(transport.get_extra_info("sockname"))
        if transport.get_extra_info("sslcontext") is not None:
            self.scheme = "https"

    def connection_lost(self, error: Exception | None) -> None:
        self.is_lost = True
        self.shared.connections.discard(self)
        self.shared.unread.forget(self.transport)
        self._wake()

    def pause_writing(self) -> None:
        self.is_write_paused = True
        if self.counts_unread:
            self.shared.unread.note(self.transport)

    def resume_writing(self) -> None:
        self.is_write_paused = False
        self.shared.unread.forget(self.transport)
        self._wake()

    async def writable(self) -> None:
        """Returns when the client has taken enough of what was written, or is gone."""
        if self.is_write_paused and not self.is_lost:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter

    def is_stuck(self, now_s: float, slack_s: float) -> bool:
        """Returns whether the client took nothing of what waits for it for write_timeout_s."""
        buffered_bytes = self.transport.get_write_buffer_size()
        if buffered_bytes == 0 or buffered_bytes < self._buffered_bytes or not self._buffered_bytes:
            self._progress_s = now_s
        self._buffered_bytes = buffered_bytes
        return now_s - self._progress_s - slack_s > self.shared.limits.write_timeout_s

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


def _address(name: object) -> tuple[str, int] | None:
    """Returns host and port; None for a Unix socket, whose names are strings."""
    return (name[0], name[1]) if isinstance(name, tuple) else None
