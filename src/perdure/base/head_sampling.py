"""Whether a new trace will be recorded, found out before anything is made for it.

Most requests are in no trace that is kept, and should cost little more than without any. The SDK
makes a span's attributes, context and sampling result before it drops them, which takes as long as
a third of a call. So this asks its sampler's question itself, where that depends on the random
trace id alone; what is to be kept gets that same id. The answer is the SDK's to the last bit.

With any other sampler, or another SDK, it says that it does not know, and the SDK is asked.
"""

from typing import Any, cast

from opentelemetry.trace import SpanContext, TraceFlags, Tracer, TracerProvider

_RANDOM = 0x02  # of the flags: W3C Trace Context, level 2
_LOW = (1 << 64) - 1


class Draw:
    """The trace ids of one tracer, looked at before they are used.

    Attributes:
        drops_as_parent: whether a trace that comes in and is not recorded is not recorded here.
    """

    def __init__(self, provider: TracerProvider, tracer: Tracer) -> None:
        self._generator: Any = getattr(tracer, "id_generator", None)
        self._drawn = 0
        self._bound, self.drops_as_parent = _rule_of(getattr(provider, "sampler", None))
        self._flags = TraceFlags(0)
        if self._generator is None:
            self._bound = None
        elif self._bound is not None:
            cast("Any", tracer).id_generator = self  # the SDK's has one
            self._flags = TraceFlags(_RANDOM if self.is_trace_id_random() else 0)

    def dropped(self) -> SpanContext | None:
        """The place in a new trace that is not recorded; None: begin a span, to find out."""
        if self._bound is None:
            return None
        trace_id = self._generator.generate_trace_id()
        if trace_id & _LOW < self._bound:
            self._drawn = trace_id
            return None
        return SpanContext(trace_id, self._generator.generate_span_id(), False, self._flags)

    # -- as the SDK's IdGenerator ----------------------------------------------------------------

    def generate_trace_id(self) -> int:
        """The one that was drawn, or a new one."""
        drawn, self._drawn = self._drawn, 0
        return drawn or int(self._generator.generate_trace_id())

    def generate_span_id(self) -> int:
        return int(self._generator.generate_span_id())

    def is_trace_id_random(self) -> bool:
        is_random = getattr(self._generator, "is_trace_id_random", None)  # not of old ones
        return is_random is not None and bool(is_random())


def _rule_of(sampler: Any) -> tuple[int | None, bool]:
    """Below which trace ids a sampler keeps a new trace, None if that is not all it goes by; and
    whether it keeps none that its parent did not."""
    try:
        from opentelemetry.sdk.trace import sampling
    except ImportError:  # another SDK
        return None, False
    drops_as_parent = False
    if _asks_like(sampling.ParentBased, sampler):
        off = getattr(sampler, "_remote_parent_not_sampled", None)
        drops_as_parent = off is sampling.ALWAYS_OFF
        sampler = getattr(sampler, "_root", None)
    if sampler is sampling.ALWAYS_OFF:
        return 0, drops_as_parent
    if _asks_like(sampling.TraceIdRatioBased, sampler):
        return sampler.bound, drops_as_parent
    return None, drops_as_parent


def _asks_like(kind: Any, sampler: Any) -> bool:
    """True if it is of that kind, and no subclass that decides in a way of its own."""
    return isinstance(sampler, kind) and type(sampler).should_sample is kind.should_sample
