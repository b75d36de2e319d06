"""The trail: what outside has to do with a piece of work, for logs and traces.

It goes along wherever the work goes: from a request to its turn, to the calls which that makes,
over the wire, and into messages. Nobody decides anything by it.

Where traces are made, `tracing()` makes them (`base.tracing`); everywhere else it is None, and
nothing of OpenTelemetry is imported. What each request passes is not asked for that: other classes
take the place of those that make no spans when an App starts.
"""

import re
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


_STATE_CHARACTERS_MAX = 512  # W3C: so much is to be passed on at least
_STATE_MEMBERS_MAX = 32

_PARENT = re.compile(
    r"(?!ff)(?P<version>[0-9a-f]{2})-(?P<place>(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16})"
    r"-(?P<flags>[0-9a-f]{2})(?P<later>-.*)?"
)
_KEY, _VALUE = r"[a-z0-9][a-z0-9_*/@-]{0,255}", r"\x21-\x2b\x2d-\x3c\x3e-\x7e"
_MEMBER = rf"{_KEY}=[ {_VALUE}]{{0,255}}[{_VALUE}]"
_STATE = re.compile(rf"[ \t]*{_MEMBER}[ \t]*(,[ \t]*{_MEMBER}[ \t]*){{0,{_STATE_MEMBERS_MAX - 1}}}")


def trail_from_outside(traceparent: str, tracestate: str = "") -> Trail | None:
    """The trail that a request brings in headers of these names; None if it is ill-formed.

    It proves nothing: whoever sends it can name any trace, and have it recorded where the sampler
    goes by that.
    """
    found = _PARENT.fullmatch(traceparent)
    if found is None or (found["version"] == "00" and found["later"]):
        return None
    if len(tracestate) > _STATE_CHARACTERS_MAX or not _STATE.fullmatch(tracestate):
        tracestate = ""
    return Trail(traceparent=f"00-{found['place']}-{found['flags']}", tracestate=tracestate)


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
