"""Spans, by OpenTelemetry: what each of them is called, what it says, and what it hangs below.

Only imported where traces are made: `opentelemetry` is an extra. Everything that knows of its API
is here and in `head_sampling`; all others hold a `Tracing` and what it gives them.

What may stand in a span: names that the code has (classes, methods, routes), numbers, kinds of
errors, and, where the App says `trace_keys`, keys of actors and paths. Never arguments, results,
queries, headers or messages of exceptions: traces go to other machines, and are read by others.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import Token
from importlib.metadata import version

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    TracerProvider,
    TraceState,
)

from perdure.base.head_sampling import Draw
from perdure.base.trail import Trail

_ROOT = Context()
_KINDS = {kind.name: kind for kind in SpanKind}

Attributes = dict[str, str | int]


class Tracing:
    """Makes the spans of one process.

    Args:
        with_keys: whether they name the keys of actors, and the paths of requests.
    """

    def __init__(self, provider: TracerProvider, *, with_keys: bool = False) -> None:
        self.with_keys = with_keys
        tracer = provider.get_tracer("perdure", version("perdure"))
        self._start = tracer.start_span
        self._draw = Draw(provider, tracer)
        self.drops_as_parent = self._draw.drops_as_parent
        self._last: tuple[Trail | None, Context] = (None, _ROOT)

    # -- where a span hangs ----------------------------------------------------------------------

    def context_of(self, trail: Trail | None) -> Context:
        """What OpenTelemetry knows of a trail, for what is to hang below it."""
        last, context = self._last
        if trail is last:  # most often it was made a moment ago, for the same work
            return context
        if trail is None or not trail.traceparent:
            return _ROOT
        parent = trail.traceparent
        state = TraceState.from_header([trail.tracestate]) if trail.tracestate else None
        flags = TraceFlags(int(parent[53:], 16))
        span = SpanContext(int(parent[3:35], 16), int(parent[36:52], 16), True, flags, state)
        return trace.set_span_in_context(NonRecordingSpan(span), _ROOT)

    def trail_of(self, span: Span, request_id: str = "") -> Trail:
        """What to pass on to what hangs below a span."""
        one = span.get_span_context()
        state = one.trace_state
        trail = Trail(
            request_id,
            f"00-{one.trace_id:032x}-{one.span_id:016x}-{one.trace_flags:02x}",
            state.to_header() if state else "",
        )
        self._last = (trail, trace.set_span_in_context(span, _ROOT))
        return trail

    def dropped(self, request_id: str) -> Trail | None:
        """The trail of a new trace that is not recorded; None: begin a span, to find out."""
        place = self._draw.dropped()
        if place is None:
            return None
        trail = Trail(request_id, f"00-{place[0]:032x}-{place[1]:016x}-{place[3]:02x}")
        self._last = (trail, trace.set_span_in_context(NonRecordingSpan(place), _ROOT))
        return trail

    def trail_here(self, trail: Trail | None) -> Trail | None:
        """The trail of what running code begins: below the code's own span, if it has made one.

        Args:
            trail: of the request or turn that it belongs to.
        """
        span = trace.get_current_span()
        one = span.get_span_context()
        if not one.is_valid:
            return trail
        request_id = "" if trail is None else trail.request_id
        if trail is not None and trail.traceparent[36:52] == f"{one.span_id:016x}":
            return trail
        return self.trail_of(span, request_id)

    # -- spans -----------------------------------------------------------------------------------

    def begin(
        self,
        name: str,
        parent: Trail | None,
        kind: str = "INTERNAL",
        attributes: Attributes | None = None,
        *,
        is_linked: bool = False,
        began_ns: int | None = None,
    ) -> Span:
        """A span that begins now, or then; `parent` None: with a trace of its own."""
        context = self.context_of(parent)
        links = ()
        if is_linked and context is not _ROOT:
            links = (Link(trace.get_current_span(context).get_span_context()),)  # type: ignore[assignment]
        return self._start(name, context, _KINDS[kind], attributes, links, began_ns)

    def past(self, name: str, parent: Trail, times_ns: tuple[int, int], *others: Span) -> None:
        """A span of what is over already, linked with others."""
        began_ns, ended_ns = times_ns
        links = [Link(span.get_span_context()) for span in others]
        span = self._start(name, self.context_of(parent), links=links, start_time=began_ns)
        span.end(ended_ns)

    def commit(self, parent: Trail, others: Sequence[Span], attributes: Attributes) -> Span:
        """A span for a group commit.

        It hangs below one of the turns that it holds, and is linked with others: with a trace of
        its own it would be sampled for itself, and mostly be missing where it is looked for.
        """
        links = [Link(span.get_span_context()) for span in others]
        return self._start(
            "group commit", self.context_of(parent), attributes=attributes, links=links
        )

    @contextmanager
    def inside(
        self,
        name: str,
        parent: Trail | None,
        kind: str = "INTERNAL",
        attributes: Attributes | None = None,
        *,
        is_linked: bool = False,
    ) -> Iterator[Trail | None]:
        """A span around a block of code, in whose context it runs; gives the trail of what hangs
        below it. Nothing where the trace is not recorded."""
        if parent is not None and parent.traceparent and not parent.is_recorded:
            token = self.attach(parent)
            try:
                yield parent
            finally:
                self.detach(token)
            return
        span = self.begin(name, parent, kind, attributes, is_linked=is_linked)
        trail = self.trail_of(span, "" if parent is None else parent.request_id)
        token, error = self.attach(trail), None
        try:
            yield trail
        except BaseException as raised:
            error = raised
            raise
        finally:
            self.detach(token)
            self.end(span, error)

    def attach(self, trail: Trail | None) -> Token[Context]:
        """Let what is made by OpenTelemetry from now on hang below this trail."""
        return contexts.attach(self.context_of(trail))

    def is_current(self, trail: Trail | None) -> bool:
        """True if that hangs below it anyway, since nothing else was attached after it."""
        return contexts.get_current() is self.context_of(trail)

    @staticmethod
    def detach(token: Token[Context]) -> None:
        """Undo `attach`."""
        contexts.detach(token)

    @staticmethod
    def now_ns() -> int:
        """The time, as spans have it: a span is for people with a watch, so not an App's own."""
        return time.time_ns()

    @staticmethod
    def end(span: Span, error: BaseException | None = None, ended_ns: int | None = None) -> None:
        """End a span; an error is told by its kind, since its message may hold what a user sent."""
        if error is not None:
            span.set_attribute("error.type", _kind_of(error))
            if getattr(error, "status", 500) >= 500:
                span.set_status(StatusCode.ERROR)
        span.end(ended_ns)

    @staticmethod
    def answered(span: Span, status: int) -> None:
        """End the span of an HTTP request; status 0: its client was gone before the answer."""
        if status:
            span.set_attribute("http.response.status_code", status)
        if status >= 500 or not status:
            span.set_attribute("error.type", str(status or "disconnected"))
        if status >= 500:
            span.set_status(StatusCode.ERROR)
        span.end()


def _kind_of(error: BaseException) -> str:
    """What an error is called: ours by its kind, others by their class."""
    kind = getattr(error, "kind", None)
    if isinstance(kind, str):
        return kind
    cls = type(error)
    name = cls.__qualname__
    return name if cls.__module__ == "builtins" else f"{cls.__module__}.{name}"
