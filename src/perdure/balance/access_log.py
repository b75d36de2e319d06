"""One line for each answer: who was sent where, with what result, and how long it took.

Invariants:
- Of a target only the path is told: a query may hold what nobody else should read.
- Nothing else that a client sent is told: no fields, no body.
"""

import logging
from typing import TYPE_CHECKING

from perdure.balance.backends import Backend

if TYPE_CHECKING:
    from perdure.balance.exchange import Exchange

log = logging.getLogger("perdure.balance.access")


def write_access(exchange: "Exchange", backend: Backend | None, status: int, now_s: float) -> None:
    """Writes the line."""
    log.info(
        "request",
        extra={
            "method": exchange.method.decode(),
            "path": exchange.target.partition(b"?")[0].decode("ascii", "replace"),
            "status": status,
            "backend": None if backend is None else backend.target.name,
            "attempts": exchange.attempts,
            "request_id": exchange.request_id.decode(),
            "client": exchange.client.peer.address,
            "latency_ms": round((now_s - (exchange.started_s or now_s)) * 1000, 3),
        },
    )
