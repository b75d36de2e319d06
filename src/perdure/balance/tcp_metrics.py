"""What TCP mode counts, and how Prometheus reads it.

Invariants:
- Bytes that are passed on cost nothing here: only connections are counted.
- A backend that is gone keeps its counters, as in HTTP mode; at most `_SERIES_MAX` have their own.
"""

from collections import Counter

from perdure.balance.backends import Backends
from perdure.balance.metrics import backend_families, family, labels

_SERIES_MAX = 1_000
_OTHERS = "others"


class Counts:
    """The counters of one front."""

    __slots__ = ("accepted", "connections", "failures", "idle", "refused", "unserved")

    def __init__(self) -> None:
        self.accepted = 0
        self.refused = 0  # too many, or without a correct PROXY header
        self.unserved = 0  # for which no backend could be reached
        self.idle = 0  # cut since nothing moved on them
        self.connections: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()

    def passed_on(self, backend: str) -> None:
        """A connection was made for a client."""
        _count(self.connections, backend)

    def failed(self, backend: str) -> None:
        """A backend could not be reached."""
        _count(self.failures, backend)


def text(counts: Counts, backends: Backends, connections: int) -> bytes:
    """Everything, in Prometheus' text format."""
    lines = [
        *family(
            "perdure_balance_passed_on_total",
            "counter",
            "Connections passed on to a backend.",
            [(labels(name), count) for name, count in counts.connections.items()],
        ),
        *family(
            "perdure_balance_backend_failures_total",
            "counter",
            "Connections that failed or broke off.",
            [(labels(name), count) for name, count in counts.failures.items()],
        ),
        *backend_families(backends),
    ]
    for name, kind, about, value in (
        ("connections", "gauge", "Connections of clients.", connections),
        ("connections_total", "counter", "Connections ever made.", counts.accepted),
        (
            "connections_refused_total",
            "counter",
            "Connections beyond the limit, or without a correct PROXY header.",
            counts.refused,
        ),
        (
            "connections_unserved_total",
            "counter",
            "Connections for which no backend could be reached.",
            counts.unserved,
        ),
        (
            "connections_idle_total",
            "counter",
            "Connections cut since nothing moved on them.",
            counts.idle,
        ),
    ):
        lines += family(f"perdure_balance_{name}", kind, about, [("", value)])
    return "".join(lines).encode()


def _count(counter: Counter[str], name: str) -> None:
    counter[name if name in counter or len(counter) < _SERIES_MAX else _OTHERS] += 1
