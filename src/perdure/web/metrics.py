"""`/-/metrics`: what this process counted, for Prometheus and all who read its format.

Who may ask is a setting. What is told are the names of classes and methods, and numbers; that is no
secret like what users sent, but no stranger's business either. So by default only this machine may
ask, in person: a request that a proxy has passed on says so in its head, or in its `Host`.
"""

import ipaddress
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from perdure.base.errors import NotFoundError
from perdure.base.metrics import (
    OPEN_METRICS,
    TEXT,
    Audience,
    Family,
    Histogram,
    exposition,
    seconds,
)

if TYPE_CHECKING:
    from perdure.actor.methods import Method
    from perdure.web.exchange import Exchange

_PASSED_ON = (b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip", b"via")


class Metrics:
    """Gathers what the parts of a process counted.

    Args:
        audience: who may ask where everybody's requests come in.
    """

    def __init__(self, audience: Audience = "local") -> None:
        self.audience = audience
        self.process = ""  # which of several on this machine; a label of every sample
        self._sources: dict[str, Callable[[], Iterable[Family]]] = {}

    def add(self, name: str, source: Callable[[], Iterable[Family]]) -> None:
        """Tell also what this source says; it takes the place of one with the same name."""
        self._sources[name] = source

    def answer(self, exchange: "Exchange") -> None:
        """Answer who may ask here."""
        if self.audience == "public" or (self.audience == "local" and _is_local(exchange)):
            self.tell(exchange)
        else:
            exchange.reply_problem(NotFoundError("nothing is at this path"))

    def tell(self, exchange: "Exchange") -> None:
        """Answer in the format that is asked for."""
        is_open_metrics = b"application/openmetrics-text" in (exchange.header(b"accept") or b"")
        families = [family for source in self._sources.values() for family in source()]
        text = exposition(
            families,
            {"process": self.process} if self.process else {},
            is_open_metrics=is_open_metrics,
        )
        exchange.reply(200, text, OPEN_METRICS if is_open_metrics else TEXT)


class CallMeter:
    """How long the calls of one method took, by the class of their status."""

    __slots__ = ("_noted", "by_class", "note", "timeout_s")

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s  # of each call: its deadline less this is when it began
        self.by_class: dict[int, Histogram] = {2: seconds()}
        self._noted: list[float] = []
        self.note = self._noted.append
        """Take the monotonic time less the deadline of a call that ended well. It is an `append`,
        the cheapest there is; a moment later `fold` puts what was noted into the histogram."""

    def failed(self, status: int, past_deadline_s: float) -> None:
        """A call was answered with a problem."""
        took_s = past_deadline_s + self.timeout_s
        self.by_class.setdefault(status // 100, seconds()).add(took_s)

    def fold(self) -> None:
        """Count what was noted; to be called some times a second, so that it stays short."""
        if self._noted:
            timeout_s = self.timeout_s
            self.by_class[2].add_all([one + timeout_s for one in self._noted])
            self._noted.clear()


def call_families(meters: "dict[Method, CallMeter]") -> list[Family]:
    """All calls over HTTP; methods that were not called are left out."""
    for meter in meters.values():
        meter.fold()
    return [
        Family(
            "perdure_http_call_duration_seconds",
            "histogram",
            "From a call that was read, and allowed, to its answer.",
            [
                (
                    {
                        "type": method.actor_type.actor_class.__name__,
                        "method": method.name,
                        "status": f"{status_class}xx",
                    },
                    histogram,
                )
                for method, meter in meters.items()
                for status_class, histogram in meter.by_class.items()
                if histogram.count
            ],
        )
    ]


def _is_local(exchange: "Exchange") -> bool:
    """True if the client is on this machine and means this machine."""
    if exchange.client is None or any(name in exchange.fields for name in _PASSED_ON):
        return False
    host = (exchange.header(b"host") or b"").decode("latin-1")
    name = host.rpartition("]")[0].removeprefix("[") or host.partition(":")[0]
    return _is_loopback(exchange.client[0]) and (name == "localhost" or _is_loopback(name))


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:  # a name
        return False
