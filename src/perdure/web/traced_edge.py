"""The spans of requests over HTTP, by OpenTelemetry's conventions for servers.

A span begins when the head of its request is complete and ends when its answer is on its way. The
`traceparent` that a request brings is honoured from everybody, as `X-Request-Id` is: it proves
nothing, and says only where the span hangs. An ill-formed one is as none.

What the mounted app finds in the header is this server's own span, as behind any hop that takes
part in a trace: instrumentation inside goes on from there.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from perdure.base.trail import Trail, current_trail, tracing, trail_from_outside
from perdure.web.edge import Edge
from perdure.web.exchange import Exchange
from perdure.web.forwarded import Network

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from perdure.base.tracing import Tracing

_PARENT = b"traceparent"
_STATE = b"tracestate"
_METHODS = {
    name.encode(): name
    for name in ("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE")
}
_PATH_BYTES_MAX = 1024


class TracedEdge(Edge):
    """An edge that gives each request a span, but for those about the server itself (`/-/…`).

    Args:
        with_ids: whether it does all that an Edge does; else requests have traces only, and their
            answers say nothing of it.
        template_of: the path of a route, with names in place of what differs between requests; None
            if it is not known.
    """

    def __init__(
        self,
        trusted: Iterable[Network] = (),
        *,
        with_log: bool = False,
        with_ids: bool = True,
        template_of: Callable[[Any], str | None] = lambda _route: None,
    ) -> None:
        super().__init__(trusted, with_log=with_log)
        self._with_ids = with_ids
        self._template_of = template_of

    def note(self, exchange: Exchange) -> None:
        if self._with_ids:
            super().note(exchange)
        spans = tracing()
        if spans is None:
            return
        if not exchange.path.startswith(b"/-/"):
            exchange.trail = self._trail(exchange, spans)
            if exchange.route is None:
                _put_into_head(exchange, exchange.trail)
        current_trail.set(exchange.trail)
        spans.attach(exchange.trail)

    def _trail(self, exchange: Exchange, spans: "Tracing") -> Trail:
        """Where in which trace the request is; begins its span, if that is recorded."""
        request_id = "" if exchange.trail is None else exchange.trail.request_id
        parent = None
        if _PARENT in exchange.fields:
            given = (exchange.header(name) or b"" for name in (_PARENT, _STATE))
            parent = trail_from_outside(*(value.decode("latin-1") for value in given))
        if parent is None:
            dropped = spans.dropped(request_id)
            if dropped is not None:
                return dropped
        elif spans.drops_as_parent and not parent.is_recorded:
            return msgspec.structs.replace(parent, request_id=request_id)
        span = self._begin(exchange, spans, parent)
        if span.is_recording():
            exchange.span = span
        return spans.trail_of(span, request_id)

    def _begin(self, exchange: Exchange, spans: "Tracing", parent: Trail | None) -> "Span":
        method = _METHODS.get(exchange.method, "_OTHER")
        told: dict[str, str | int] = {
            "http.request.method": method,
            "url.scheme": exchange.scheme,
            "network.protocol.version": exchange.http_version,
        }
        template = None if exchange.route is None else self._template_of(exchange.route)
        name = method if method != "_OTHER" else "HTTP"
        if template is not None:
            told["http.route"] = template
            name = f"{name} {template}"
        if spans.with_keys:
            told["url.path"] = exchange.path[:_PATH_BYTES_MAX].decode("latin-1")
        return spans.begin(name, parent, "SERVER", told)

    def enter(self, exchange: Exchange) -> None:
        super().enter(exchange)
        spans = tracing()
        if spans is not None:
            spans.attach(exchange.trail)

    def log(self, exchange: Exchange, sent_bytes: int = 0) -> None:
        super().log(exchange, sent_bytes)
        spans, span = tracing(), exchange.span
        if spans is None or span is None:
            return
        exchange.span = None
        template = _template_of_app(exchange)
        if template is not None:
            span.set_attribute("http.route", template)
            span.update_name(f"{_METHODS.get(exchange.method, 'HTTP')} {template}")
        spans.answered(span, exchange.status)


def _put_into_head(exchange: Exchange, trail: Trail) -> None:
    own = (_PARENT, _STATE)
    exchange.headers = [header for header in exchange.headers if header[0] not in own]
    exchange.headers.append((_PARENT, trail.traceparent.encode()))
    if trail.tracestate:
        exchange.headers.append((_STATE, trail.tracestate.encode()))
    exchange.fields = dict(exchange.headers)


def _template_of_app(exchange: Exchange) -> str | None:
    """The path of the mounted app's route, if it says so in its scope, as FastAPI does."""
    scope = getattr(exchange.call, "scope", None)
    route = None if scope is None else scope.get("route")
    path = getattr(route, "path", None)
    return path if isinstance(path, str) else None
