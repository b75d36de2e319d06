"""The spans of requests over HTTP, by OpenTelemetry's conventions for servers.

A span begins when the head of its request is complete and ends when its answer is on its way. The
`traceparent` that a request brings is honoured from everybody, as `X-Request-Id` is: it proves
nothing, and says only where the span hangs. An ill-formed one is as none.

What the mounted app finds in the header is this server's own span, as behind any hop that takes
part in a trace: instrumentation inside goes on from there.
"""

from collections.abc import Callable, Iterable
from typing import Any

from perdure.base.trail import Trail, current_trail, tracing
from perdure.web.edge import Edge
from perdure.web.exchange import Exchange
from perdure.web.forwarded import Network

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
        template_of: the path of a route, with names in place of what differs between requests; None
            if it is not known.
    """

    def __init__(
        self,
        trusted: Iterable[Network] = (),
        *,
        with_log: bool = False,
        template_of: Callable[[Any], str | None] = lambda _route: None,
    ) -> None:
        super().__init__(trusted, with_log=with_log)
        self._template_of = template_of

    def note(self, exchange: Exchange) -> None:
        super().note(exchange)
        spans = tracing()
        if spans is None or exchange.trail is None:
            return
        if not exchange.path.startswith(b"/-/"):
            self._begin(exchange)
            current_trail.set(exchange.trail)
        spans.attach(exchange.trail)

    def _begin(self, exchange: Exchange) -> None:
        spans = tracing()
        assert spans is not None and exchange.trail is not None
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
        parent = None
        if _PARENT in exchange.fields:
            parent = spans.trail_of_headers(_headers(exchange))
        span = spans.begin(name, parent, "SERVER", told)
        exchange.trail = spans.trail_of(span, exchange.trail.request_id)
        if exchange.route is None:
            _put_into_head(exchange, exchange.trail)
        if span.is_recording():
            exchange.span = span

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


def _headers(exchange: Exchange) -> dict[str, str]:
    """What a request says of its trace. Several lines of the one are ill-formed, of the other one
    list."""
    names = {b: (exchange.header(b) or b"").decode("latin-1") for b in (_PARENT, _STATE)}
    return {name.decode(): value for name, value in names.items() if value}


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
