"""The actor route under a foreign ASGI server: an exchange that answers through `send`."""

import asyncio
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

from perdure.base.limits import Limits
from perdure.base.trail import current_trail, tracing, trail_from_outside
from perdure.runtime.live import Subscription
from perdure.web.live_asgi import send_events
from perdure.web.problems import CONTENT_TYPE, problem, problem_of
from perdure.web.replies import has_body, headers_of

if TYPE_CHECKING:
    from perdure.web.exchange import Exchange


class Endpoint(Protocol):
    """What answers exchanges."""

    def handle(self, route: object, exchange: "Exchange") -> None:
        """Reply to the exchange, now or later."""
        ...


class AsgiExchange:
    """Looks to the route like the server's own `Exchange`."""

    def __init__(self, scope: Any, path: bytes, body: bytes) -> None:
        self.method: bytes = scope["method"].encode()
        self.path = path
        self.query: bytes = scope.get("query_string", b"")
        self.headers: list[tuple[bytes, bytes]] = list(scope["headers"])
        self.fields = dict(self.headers)
        self.client: tuple[str, int] | None = scope.get("client")
        self.scheme: str = scope.get("scheme", "http")
        self.body = body
        self.closed = False
        self.lines = b""  # header lines that every answer to it has
        self.is_plain = False
        self.can_deny = "websocket.http.response" in (scope.get("extensions") or ())
        self.answer: asyncio.Future[tuple[int, bytes, bytes, bytes] | Subscription] = (
            asyncio.get_running_loop().create_future()
        )

    def header(self, name: bytes) -> bytes | None:
        """The value of the first header of that lowercase name."""
        return next((value for header, value in self.headers if header == name), None)

    def reply(
        self,
        status: int,
        body: bytes,
        content_type: bytes = b"application/json",
        extra: bytes = b"",
    ) -> None:
        """Give the one answer; `extra` is header lines that each end in CRLF."""
        if not self.answer.done():
            self.answer.set_result((status, body, content_type, self.lines + extra))

    def stream(self, subscription: Subscription) -> None:
        """Answer with the events of a live view."""
        if self.answer.done():  # cancelled: the client is gone
            subscription.close()
        else:
            self.answer.set_result(subscription)

    def reply_problem(self, error: BaseException) -> None:
        """Answer with the problem that the error stands for."""
        status, body, extra = problem_of(error)
        self.reply(status, body, CONTENT_TYPE, extra)


def path_of(scope: Any) -> bytes:
    """The raw path below the point where the app is mounted."""
    raw: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
    raw = raw.partition(b"?")[0]
    return raw.removeprefix(quote(scope.get("root_path", "")).encode())


def follow_scope(scope: Any) -> None:
    """Let what is done for a request hang below the span that is current, if the server or its
    middleware made one, else below that which the request names."""
    spans = tracing()
    if spans is None:
        return
    trail = spans.trail_here(None)
    if trail is None:
        headers = scope.get("headers", ())
        parent, state = (
            b",".join(value for one, value in headers if one == name).decode("latin-1")
            for name in (b"traceparent", b"tracestate")
        )
        trail = trail_from_outside(parent, state)
    current_trail.set(trail)


async def answer_asgi(
    endpoint: Endpoint,
    route: object,
    path: bytes,
    scope: Any,
    receive: Any,
    send: Any,
    limits: Limits,
) -> None:
    """Read the body, let the endpoint answer, and send the answer."""
    try:
        body = await _body(receive, limits.call_body_bytes_max)
    except ConnectionError:
        return  # half a request must not run
    if body is None:
        too_large = problem(413, "body-too-large", "Too large")
        await _send(send, scope, 413, too_large, CONTENT_TYPE, b"")
        return
    exchange = AsgiExchange(scope, path, body)
    endpoint.handle(route, exchange)  # type: ignore[arg-type]  # the same by shape
    answer = await exchange.answer
    if isinstance(answer, Subscription):
        await send_events(answer, headers_of(exchange.lines), receive, send, limits)
    else:
        await _send(send, scope, *answer)


async def _body(receive: Any, bytes_max: int) -> bytes | None:
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError("the client left before it had sent everything")
        chunk: bytes = message.get("body", b"")
        body += chunk
        if len(body) > bytes_max:
            return None
        if not message.get("more_body"):
            return body


async def _send(
    send: Any, scope: Any, status: int, body: bytes, content_type: bytes, extra: bytes
) -> None:
    headers = []
    if has_body(status):
        headers += [(b"content-type", content_type), (b"content-length", b"%d" % len(body))]
    headers += headers_of(extra)
    await send({"type": "http.response.start", "status": status, "headers": headers})
    sent = b"" if scope["method"] == "HEAD" else body
    await send({"type": "http.response.body", "body": sent})
