"""What all connections of one balancer share."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from perdure.balance.backends import Backend, Backends
from perdure.balance.budget import RetryBudget
from perdure.balance.heads import AnswerHead
from perdure.balance.metrics import Metrics
from perdure.base.limits import BalanceLimits
from perdure.base.request_ids import RequestIds

if TYPE_CHECKING:
    from perdure.balance.exchange import Exchange
    from perdure.balance.front import ClientConnection
    from perdure.balance.upstream import Pool

Observer = Callable[["Exchange", Backend | None, int, float], None]


class Shared:
    """The parts, the connections and the counters of one balancer."""

    __slots__ = (
        "access_log",
        "answer_heads",
        "backends",
        "budget",
        "clients",
        "closing",
        "hash_of",
        "ids",
        "is_replaced",
        "is_trusted",
        "limits",
        "metrics",
        "now_s",
        "pools",
        "via",
    )

    def __init__(
        self,
        backends: Backends,
        limits: BalanceLimits,
        *,
        hash_of: "Callable[[Exchange], int | None] | None" = None,
        is_trusted: Callable[[str], bool] | None = None,
        via: bytes = b"",
        access_log: Observer | None = None,
    ) -> None:
        self.backends = backends
        self.limits = limits
        self.hash_of = hash_of
        self.is_trusted = is_trusted
        self.via = via
        self.access_log = access_log
        self.budget = RetryBudget(limits.retry_share, limits.retries_min)
        self.metrics = Metrics()
        self.pools: dict[Backend, Pool] = {}
        self.clients: set[ClientConnection] = set()
        self.closing = False
        self.is_replaced = False  # by a process at the same address, which answers whoever comes
        self.ids = RequestIds()
        self.now_s = time.monotonic()  # as of the last sweep
        self.answer_heads: dict[bytes, AnswerHead] = {}

    @property
    def is_ready(self) -> bool:
        """What `/-/balance/ready` says: whether requests should come here."""
        return (not self.closing or self.is_replaced) and self.backends.has_any

    def follow(self, make_pool: "Callable[[Backend, Shared], Pool]") -> None:
        """Keeps a pool for each backend, from now on."""

        def watcher(backend: Backend) -> None:
            if backend.state == "gone":
                self.pools.pop(backend).close()
            elif backend not in self.pools:
                self.pools[backend] = make_pool(backend, self)
            elif backend.state != "up":
                self.pools[backend].close_idle()
                if backend.is_silent:
                    for client in list(self.clients):
                        client.leave_silent(backend)

        for backend in self.backends.all():
            watcher(backend)
        self.backends.watch(watcher)

    def observe(
        self, exchange: "Exchange", backend: Backend | None, status: int, now_s: float
    ) -> None:
        """Counts an answer, the backend's or our own."""
        self.metrics.answered(backend, status, now_s - (exchange.started_s or now_s))
        if self.access_log is not None:
            self.access_log(exchange, backend, status, now_s)
