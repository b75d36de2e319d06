"""The server: listening sockets, the sweeper, and the graceful stop.

It exists as the one object the rest of Perdure starts and stops; what happens on a connection is
in `http` and `websocket`.

Invariants:
- One timer for all connections: the sweeper. Timeouts are late by up to two periods, never early.
- A graceful stop drops no request that was read, and lasts no longer than its limit.
"""

import asyncio
import contextlib
import socket
import ssl
import time
from typing import Any

import msgspec

from perdure.base.limits import Limits
from perdure.base.metrics import Family, counter, gauge
from perdure.web.compression import PLAIN_BYTES_MAX
from perdure.web.edge import Edge
from perdure.web.http import HttpProtocol
from perdure.web.shared import AsgiApp, Endpoint, Shared, logger

_BACKLOG = 2048
# So much of an answer the kernel takes and has not sent; more only costs. A client that opens its
# window by a few bytes makes the kernel cut all it holds into as many packets, while we wait.
_UNSENT_BYTES = 128 << 10
_STOP_S = 1.0  # for ASGI apps to end after their http.disconnect
# For the first request of a connection that was taken just before the listeners closed. Its client
# could not know that, and would see a reset.
_FIRST_REQUEST_S = 0.5


class Statistics(msgspec.Struct, frozen=True):
    """What the server is doing, and has done since it started."""

    connections: int
    websockets: int
    asgi_tasks: int
    connections_total: int
    connections_refused: int
    requests_total: int
    requests_refused: int


class Server:
    """Serves one endpoint, and beside it one ASGI app, on any number of sockets."""

    def __init__(
        self,
        endpoint: Endpoint,
        asgi_app: AsgiApp | None = None,
        limits: Limits | None = None,
        *,
        state: dict[str, Any] | None = None,
        root_path: str = "",
        compress: bool = False,
        edge: Edge | None = None,
        sweep_period_s: float = 1.0,
        drain_grace_s: float | None = None,
    ) -> None:
        """Prepares a server.

        Args:
            endpoint: What answers actor routes.
            asgi_app: What answers everything else; without one that is a 404 problem.
            limits: The bounds; only those of the web server are read.
            state: The lifespan state of the ASGI app; each scope gets a shallow copy.
            root_path: The path under which a proxy mounts this server.
            compress: Whether long answers of actors are compressed for who accepts it.
            edge: What looks at every request: its origin, its id, its line in the access log.
            sweep_period_s: How often timeouts are looked at.
            drain_grace_s: Instead of `Limits.drain_grace_s`.
        """
        self._limits = limits or Limits()
        self._shared = Shared(endpoint, asgi_app, self._limits, state or {}, root_path)
        self._shared.edge = edge
        if compress:
            self._shared.dates.plain_bytes_max = PLAIN_BYTES_MAX
        self._sweep_period_s = sweep_period_s
        self._drain_grace_s = self._limits.drain_grace_s if drain_grace_s is None else drain_grace_s
        self._listeners: list[asyncio.Server] = []
        self._sweeper: asyncio.Task[None] | None = None

    async def start(
        self, sockets: list[socket.socket], ssl_context: ssl.SSLContext | None = None
    ) -> None:
        """Begins to serve on bound sockets, which belong to the server from here on."""
        loop = asyncio.get_running_loop()
        handshake_timeout_s = self._limits.header_timeout_s if ssl_context is not None else None
        for bound in sockets:
            _limit_unsent(bound)
            listener = await loop.create_server(
                lambda: HttpProtocol(self._shared),
                sock=bound,
                ssl=ssl_context,
                backlog=_BACKLOG,
                ssl_handshake_timeout=handshake_timeout_s,
            )
            self._listeners.append(listener)
        self._sweeper = loop.create_task(self._sweep_forever())
        logger.info("server started", extra={"sockets": len(sockets)})

    def statistics(self) -> Statistics:
        """Returns a snapshot."""
        shared = self._shared
        return Statistics(
            connections=len(shared.connections),
            websockets=shared.websockets,
            asgi_tasks=len(shared.tasks),
            connections_total=shared.connections_total,
            connections_refused=shared.connections_refused,
            requests_total=shared.requests_total,
            requests_refused=shared.requests_refused,
        )

    def families(self) -> list[Family]:
        """Returns what it counted, as Prometheus is told."""
        shared = self._shared
        return [
            gauge("perdure_http_connections", "Open connections.", len(shared.connections)),
            gauge(
                "perdure_http_websockets", "Those of them that are WebSockets.", shared.websockets
            ),
            counter(
                "perdure_http_connections_accepted",
                "Connections that were taken, refused ones among them.",
                shared.connections_total,
            ),
            counter(
                "perdure_http_connections_refused",
                "Connections beyond Limits.connections_max.",
                shared.connections_refused,
            ),
            counter("perdure_http_requests", "Requests read to their end.", shared.requests_total),
            counter(
                "perdure_http_requests_refused",
                "Requests that were malformed, too large or too slow.",
                shared.requests_refused,
            ),
            Family(
                "perdure_http_replies",
                "counter",
                "Replies to calls of actors, and all others that the mounted app did not give.",
                [
                    ({"status": f"{status_class}xx"}, count + plain)
                    for status_class, count in enumerate(shared.replies)
                    if (plain := shared.dates.plain_replies * (status_class == 2)) or count
                ],
            ),
            Family(
                "perdure_http_app_duration_seconds",
                "histogram",
                "From a request's head to the head of the mounted app's response.",
                [
                    ({"status": f"{status_class}xx"}, took)
                    for status_class, took in shared.app_took.items()
                ],
            ),
            gauge(
                "perdure_http_app_tasks", "Requests that the mounted app runs.", len(shared.tasks)
            ),
        ]

    async def drain(self, grace_s: float | None = None) -> None:
        """Stops gracefully: returns when every connection is closed.

        At first nothing changes but that replies say `connection: close`, and that streams of the
        mounted app hear of it (`perdure.draining` in their scope); after a grace the listeners and
        idle connections close, WebSockets with 1012 and live views with a time to come back at, and
        what still runs has until `Limits.drain_s`.

        Args:
            grace_s: another grace than the server was made with.
        """
        loop = asyncio.get_running_loop()
        shared = self._shared
        deadline_s = loop.time() + self._limits.drain_s
        shared.dates.closing = True
        shared.draining.set()
        logger.info("server draining", extra={"connections": len(shared.connections)})
        grace_s = self._drain_grace_s if grace_s is None else grace_s
        await asyncio.sleep(min(grace_s, self._limits.drain_s))
        self._close_listeners()
        loop.call_later(min(grace_s, _FIRST_REQUEST_S), self._expect_no_requests)
        await self._wait_until_empty(deadline_s)
        if shared.connections:
            logger.warning("drain deadline", extra={"connections": len(shared.connections)})
            for connection in list(shared.connections):
                connection.stop()
            await self._wait_until_empty(loop.time() + _STOP_S)
        await self.close()

    async def close(self) -> None:
        """Stops at once: cuts every connection and cancels what runs for it."""
        self._close_listeners()
        shared = self._shared
        tasks = set(shared.tasks)
        if self._sweeper is not None:
            self._sweeper.cancel()
            tasks.add(self._sweeper)
            self._sweeper = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for connection in list(shared.connections):
            connection.abort()
        await asyncio.sleep(0)  # the transports report their loss in the next turn
        logger.info("server closed")

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    def _expect_no_requests(self) -> None:
        self._shared.expects_requests = False

    async def _wait_until_empty(self, deadline_s: float) -> None:
        loop = asyncio.get_running_loop()
        while self._shared.connections or self._shared.tasks:
            for connection in list(self._shared.connections):
                connection.drain()
            left_s = deadline_s - loop.time()
            if left_s <= 0:
                return
            # Looking often is simpler than counting what ends, and only happens while stopping.
            await asyncio.sleep(min(left_s, self._sweep_period_s, 0.05))

    async def _sweep_forever(self) -> None:
        shared = self._shared
        while True:
            await asyncio.sleep(self._sweep_period_s)
            now_s = time.monotonic()
            for connection in list(shared.connections):
                with contextlib.suppress(RuntimeError):  # a transport that closes meanwhile
                    connection.sweep(now_s, self._sweep_period_s)
            shared.dates.now_s = now_s
            shared.dates.refresh(time.time())


def _limit_unsent(bound: socket.socket) -> None:
    """Connections have it from their listener; it costs them nothing."""
    if bound.family in (socket.AF_INET, socket.AF_INET6) and hasattr(socket, "TCP_NOTSENT_LOWAT"):
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
