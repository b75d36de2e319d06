"""The trail: what outside has to do with a piece of work, for logs and traces.

It goes along wherever the work goes: from a request to its turn, to the calls which that makes,
over the wire, and into messages. Nobody decides anything by it.

Where traces are made, `tracing()` makes them (`base.tracing`); everywhere else it is None, and
nothing of OpenTelemetry is imported. What each request passes is not asked for that: other classes
take the place of those that make no spans when an App starts.
"""

from contextvars import ContextVar
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from perdure.base.tracing import Tracing


class Trail(msgspec.Struct, array_like=True, frozen=True):
    """Which request it is, and where in which trace. An array on the wire, so that more can follow.

    The last two are W3C Trace Context's; they are well-formed, since they were made here.
    """

    request_id: str = ""  # see `base.request_ids`; no idempotency key
    traceparent: str = ""  # of the span that all which follows is below
    tracestate: str = ""

    @property
    def is_recorded(self) -> bool:
        """True if spans of this trace are to be made."""
        return self.traceparent[-1:] in _ODD

    @property
    def names(self) -> dict[str, str]:
        """What a log line says of it."""
        names = {"request_id": self.request_id} if self.request_id else {}
        if self.traceparent:
            names |= {"trace_id": self.traceparent[3:35], "span_id": self.traceparent[36:52]}
        return names


_ODD = frozenset("13579bdf")  # the last bit of the flags: sampled

current_trail: ContextVar[Trail | None] = ContextVar("perdure_trail", default=None)
"""Of the request that is being answered; set by the server, and inherited by all its tasks."""

_tracing: "Tracing | None" = None


def tracing() -> "Tracing | None":
    """What makes spans in this process; None: nothing does."""
    return _tracing


def trace_with(tracing: "Tracing | None") -> None:
    """Make spans with this from now on. One for the process, as OpenTelemetry has it."""
    global _tracing
    _tracing = tracing
