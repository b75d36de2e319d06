"""What the balancer counts, and how Prometheus reads it.

Invariants:
- Counting a request costs two increments and a search among a dozen bounds.
- A backend that is gone keeps its counters for as long as the balancer lives: a counter that
  vanished would look like one that was reset. There are at most `_SERIES_MAX` of them.
"""

from bisect import bisect_left
from collections.abc import Iterable

from perdure.balance.backends import Backend, Backends

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"

_BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SERIES_MAX = 1_000
_STATES = ("up", "down", "ejected", "draining")
_OURSELVES = ""  # the backend of answers that the balancer gave itself
_OTHERS = "others"

Series = Iterable[tuple[str, float]]


class _Counts:
    __slots__ = ("buckets", "failures", "seconds", "statuses")

    def __init__(self) -> None:
        self.statuses = [0] * 10  # by the first digit
        self.buckets = [0] * (len(_BOUNDS_S) + 1)
        self.seconds = 0.0
        self.failures = 0


class Metrics:
    """The counters of one balancer."""

    __slots__ = ("_by_name", "connections_total")

    def __init__(self) -> None:
        self.connections_total = 0
        self._by_name: dict[str, _Counts] = {}

    def answered(self, backend: Backend | None, status: int, latency_s: float) -> None:
        """A client was answered.

        Args:
            latency_s: from the first time the request was sent to the end of the answer.
        """
        counts = self._of(_OURSELVES if backend is None else backend.target.name)
        counts.statuses[status // 100] += 1
        counts.buckets[bisect_left(_BOUNDS_S, latency_s)] += 1
        counts.seconds += latency_s

    def refused(self, status: int) -> None:
        """A request was refused before it went anywhere."""
        self._of(_OURSELVES).statuses[status // 100] += 1

    def failed(self, backend: Backend) -> None:
        """A backend could not be reached, or broke off."""
        self._of(backend.target.name).failures += 1

    def text(self, backends: Backends, connections: int, retries: int) -> bytes:
        """Everything, in Prometheus' text format."""
        lines = [
            *family(
                "perdure_balance_requests_total",
                "counter",
                "Requests answered, by backend (empty: by the balancer) and class of status.",
                self._statuses(),
            ),
            *family(
                "perdure_balance_latency_seconds",
                "histogram",
                "From sending a request to a backend to the end of its answer.",
                self._latencies(),
            ),
            *family(
                "perdure_balance_backend_failures_total",
                "counter",
                "Connections that failed or broke off.",
                [(labels(name), c.failures) for name, c in self._by_name.items() if name],
            ),
            *backend_families(backends),
        ]
        for name, kind, about, value in (
            ("retries_total", "counter", "Requests sent a second time.", retries),
            ("connections", "gauge", "Connections of clients.", connections),
            ("connections_total", "counter", "Connections ever made.", self.connections_total),
        ):
            lines += family(f"perdure_balance_{name}", kind, about, [("", value)])
        return "".join(lines).encode()

    def _of(self, name: str) -> _Counts:
        counts = self._by_name.get(name)
        if counts is None:
            if len(self._by_name) >= _SERIES_MAX:
                name = _OTHERS
            counts = self._by_name.setdefault(name, _Counts())
        return counts

    def _statuses(self) -> Series:
        for name, counts in self._by_name.items():
            for digit, count in enumerate(counts.statuses):
                if count:
                    yield labels(name, status=f"{digit}xx"), count

    def _latencies(self) -> Series:
        for name, counts in self._by_name.items():
            total = 0
            for bound_s, count in zip((*_BOUNDS_S, "+Inf"), counts.buckets, strict=True):
                total += count
                yield "_bucket" + labels(name, le=str(bound_s)), total
            yield "_sum" + labels(name), counts.seconds
            yield "_count" + labels(name), total


def backend_families(backends: Backends) -> Iterable[str]:
    """How the backends are, in every mode."""
    every = backends.all()
    yield from family(
        "perdure_balance_in_flight",
        "gauge",
        "Requests and connections under way at a backend.",
        [(labels(one.target.name), one.in_flight) for one in every],
    )
    yield from family(
        "perdure_balance_backend_state",
        "gauge",
        "1 for the state that a backend is in.",
        [
            (labels(one.target.name, state=state), float(one.state == state))
            for one in every
            for state in _STATES
        ],
    )
    yield from family(
        "perdure_balance_ejections_total",
        "counter",
        "Backends left out.",
        [("", backends.ejections_total)],
    )


def family(name: str, kind: str, about: str, series: Series) -> Iterable[str]:
    """One metric, for Prometheus."""
    yield f"# HELP {name} {about}\n# TYPE {name} {kind}\n"
    for suffix, value in series:
        yield f"{name}{suffix} {value:.10g}\n"


def labels(backend: str, **others: str) -> str:
    """The labels of one of its values."""
    escaped = backend.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    more = "".join(f',{key}="{value}"' for key, value in others.items())
    return f'{{backend="{escaped}"{more}}}'
