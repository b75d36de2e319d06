"""Spans of this process, for tests: made by the SDK, kept in memory, looked at as trees."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Sampler

from perdure.base.tracing import Tracing
from perdure.base.trail import trace_with


class Seen:
    """The spans that ended."""

    def __init__(self, sampler: Sampler | None, *, with_keys: bool) -> None:
        self._kept = InMemorySpanExporter()
        self.provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._kept))
        self.tracer = self.provider.get_tracer("a-user")
        self.tracing = Tracing(self.provider, with_keys=with_keys)

    def all(self) -> list[ReadableSpan]:
        """In the order in which they began."""
        return sorted(self._kept.get_finished_spans(), key=lambda span: span.start_time or 0)

    def named(self, name: str) -> ReadableSpan:
        """The only one of that name."""
        [span] = [one for one in self.all() if one.name == name]
        return span

    def clear(self) -> None:
        """Forget those that ended so far."""
        self._kept.clear()

    def below(self, span: ReadableSpan) -> list[ReadableSpan]:
        """Its children."""
        place = span.context
        return [
            one
            for one in self.all()
            if one.parent is not None
            and (one.parent.trace_id, one.parent.span_id) == (place.trace_id, place.span_id)
        ]

    def tree(self, span: ReadableSpan) -> Any:
        """Its name, and those of what hangs below it: `name`, or `{name: [...]}`."""
        below = [self.tree(one) for one in self.below(span)]
        return {span.name: below} if below else span.name


@contextmanager
def seeing(sampler: Sampler | None = None, *, with_keys: bool = False) -> Iterator[Seen]:
    """Make spans in this process, as for an App that finds a provider when it starts."""
    seen = Seen(sampler, with_keys=with_keys)
    trace_with(seen.tracing)
    try:
        yield seen
    finally:
        trace_with(None)
