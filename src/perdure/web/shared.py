"""What all connections of one server have in common.

It exists so that a connection needs to know this one object and not the server, which would be
an import in a circle.

Invariants:
- Everything here is touched from the server's event loop only.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol

from perdure.base.limits import Limits
from perdure.base.metrics import Histogram, seconds
from perdure.runtime.live import Subscription
from perdure.web.edge import Edge
from perdure.web.exchange import Exchange
from perdure.web.replies import DateLine
from perdure.web.unread import Unread

logger = logging.getLogger("perdure.web")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


Subscribe = Callable[[Exchange], Awaitable[Subscription]]


class Endpoint(Protocol):
    """The fast path: what answers actor routes."""

    def match(self, method: bytes, path: bytes) -> object | None:
        """Returns the route of a raw path without query, or None to leave it to the ASGI app."""

    def handle(self, route: object, exchange: Exchange) -> None:
        """Takes a request whose body is complete; calls `exchange.reply` once, now or later."""

    def subscriber(self, route: object) -> Subscribe | None:
        """Returns what begins a live view for a WebSocket on this route; None: the ASGI app does
        what it wants with it."""


class Tracked(Protocol):
    """A connection as the sweeper and the graceful stop see it."""

    def sweep(self, now_s: float, slack_s: float) -> None:
        """Enforces the timeouts; a stamp may be `slack_s` older than what it stamps."""

    def drain(self) -> None:
        """Closes if nothing is under way; from now on nothing new is begun."""

    def stop(self) -> None:
        """Tells the application that its time is up, without closing yet."""

    def abort(self) -> None:
        """Cuts the connection."""


class Shared:
    """The parts, the connections and the counters of one server."""

    __slots__ = (
        "app_took",
        "asgi_app",
        "connections",
        "connections_refused",
        "connections_total",
        "dates",
        "draining",
        "edge",
        "endpoint",
        "expects_requests",
        "limits",
        "replies",
        "requests_refused",
        "requests_total",
        "root_path",
        "state",
        "tasks",
        "unread",
        "websockets",
    )

    def __init__(
        self,
        endpoint: Endpoint,
        asgi_app: AsgiApp | None,
        limits: Limits,
        state: dict[str, Any],
        root_path: str,
    ) -> None:
        self.endpoint = endpoint
        self.asgi_app = asgi_app
        self.limits = limits
        self.state = state
        self.root_path = root_path
        self.draining = asyncio.Event()
        self.edge: Edge | None = None
        self.dates = DateLine()
        self.expects_requests = True  # also on connections that have brought none so far
        self.connections: set[Tracked] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.unread = Unread(limits.unread_bytes_max)
        self.websockets = 0
        self.connections_total = 0
        self.connections_refused = 0
        self.requests_total = 0
        self.requests_refused = 0
        self.replies = [0] * 10  # see Connection
        self.app_took: dict[int, Histogram] = defaultdict(seconds)  # likewise, of the ASGI app
