"""The balancer as one object: listeners, the sweeper, checks, and the graceful stop.

Invariants:
- One timer for all connections: the sweeper. Timeouts are late by up to two periods, never early.
- A graceful stop drops no request that was read, and lasts no longer than its limit.
"""

import asyncio
import logging
import socket
import ssl
import time

from perdure.balance.admin import AdminConnection
from perdure.balance.front import ClientConnection
from perdure.balance.health import HealthChecks, HealthRules
from perdure.balance.shared import Shared
from perdure.balance.upstream import Pool

log = logging.getLogger("perdure.balance")

_BACKLOG = 2048
_SWEEPS_A_SECOND = 4


class Balancer:
    """Passes HTTP requests on to the backends of `shared`."""

    def __init__(
        self,
        shared: Shared,
        health: HealthRules | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        """Prepares a balancer.

        Args:
            health: How backends are checked; None: not at all.
            ssl_context: With which HTTPS is served; None: HTTP.
        """
        self._ssl_context = ssl_context
        self._shared = shared
        self._checks = None if health is None else HealthChecks(shared.backends, health)
        self._listeners: list[asyncio.Server] = []
        self._admin: asyncio.Server | None = None
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self, bound: socket.socket, admin: socket.socket | None = None) -> None:
        """Begins to serve on bound sockets, which belong to the balancer from here on."""
        loop = asyncio.get_running_loop()
        shared, ssl_context = self._shared, self._ssl_context
        shared.follow(Pool)
        handshake_timeout_s = None if ssl_context is None else shared.limits.header_timeout_s
        self._listeners.append(
            await loop.create_server(
                lambda: ClientConnection(shared),
                sock=bound,
                ssl=ssl_context,
                backlog=_BACKLOG,
                ssl_handshake_timeout=handshake_timeout_s,
            )
        )
        if admin is not None:
            self._admin = await loop.create_server(
                lambda: AdminConnection(self._metrics, lambda: shared.is_ready), sock=admin
            )
            self._listeners.append(self._admin)
        if self._checks is not None:
            self._checks.start()
        self._sweeper = loop.create_task(self._sweep_forever())

    async def drain(self, grace_s: float, *, is_replaced: bool = False) -> None:
        """Stops gracefully: returns when every connection is closed, or time is up.

        At first only `/-/balance/ready` and `connection: close` tell of it; after a grace the
        listeners and idle connections close, and what is under way has until `drain_s`.

        Args:
            is_replaced: another process serves at the same address already; so it stays ready.
        """
        loop = asyncio.get_running_loop()
        shared = self._shared
        deadline_s = loop.time() + shared.limits.drain_s
        shared.is_replaced = is_replaced
        shared.closing = True
        if is_replaced and self._admin is not None:
            self._admin.close()  # who asks shall hear of the one that stays
        log.info("balancer draining", extra={"connections": len(shared.clients)})
        await asyncio.sleep(min(grace_s, shared.limits.drain_s))
        self._close_listeners()
        while shared.clients and loop.time() < deadline_s:
            for client in list(shared.clients):
                client.drain()
            # Looking often is simpler than counting what ends, and only happens while stopping.
            await asyncio.sleep(0.02)
        if shared.clients:
            log.warning("drain deadline", extra={"connections": len(shared.clients)})
        await self.close()

    async def close(self) -> None:
        """Stops at once, and cuts every connection."""
        self._close_listeners()
        shared = self._shared
        shared.closing = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
            self._sweeper = None
        if self._checks is not None:
            await self._checks.close()
        for client in list(shared.clients):
            client.abort()
        for pool in shared.pools.values():
            pool.close()
        await asyncio.sleep(0)  # the transports report their loss in the next turn

    def _metrics(self) -> bytes:
        shared = self._shared
        return shared.metrics.text(
            shared.backends, len(shared.clients), shared.budget.retries_total
        )

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    async def _sweep_forever(self) -> None:
        shared = self._shared
        sweeps = 0
        while True:
            await asyncio.sleep(1 / _SWEEPS_A_SECOND)
            shared.now_s = now_s = time.monotonic()
            sweeps += 1
            if sweeps % _SWEEPS_A_SECOND:
                continue
            shared.budget.tick()
            for pool in shared.pools.values():
                pool.sweep(now_s)
            for client in list(shared.clients):
                client.sweep(now_s)
