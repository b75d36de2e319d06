"""Live views under a foreign ASGI server: one task for each client, which pulls.

The server's `send` waits until its client has taken enough, and what comes meanwhile is not queued:
the next pull gives the newest.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from perdure.base.errors import PerdureError, StoppingError
from perdure.base.limits import Limits
from perdure.runtime.live import Subscription
from perdure.runtime.live_pull import Pull
from perdure.web.live_wire import (
    EVENT_STREAM_HEADERS,
    HEARTBEAT,
    as_event,
    as_text,
    error_as_event,
    error_as_text,
    retry_line,
)
from perdure.web.problems import CONTENT_TYPE, problem_of
from perdure.web.replies import headers_of

if TYPE_CHECKING:
    from perdure.web.asgi_exchange import AsgiExchange
    from perdure.web.shared import Subscribe


async def send_events(
    subscription: Subscription,
    headers: list[tuple[bytes, bytes]],
    receive: Any,
    send: Any,
    limits: Limits,
) -> None:
    """Answer a request with Server-Sent Events until the client or the view ends."""

    async def write(body: bytes, *, more: bool = True) -> None:
        async with asyncio.timeout(limits.write_timeout_s):
            await send({"type": "http.response.body", "body": body, "more_body": more})

    async with _pulling(subscription, receive, "http.disconnect") as pull:
        headers = [*headers, *EVENT_STREAM_HEADERS]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await write(retry_line())
        while (end := await _end_of(pull, limits.live_heartbeat_s)) is None:
            frames = pull.frames
            await write(b"".join([frame.render(as_event) for frame in frames]) or HEARTBEAT)
        is_stop = isinstance(end, StoppingError)
        await write(retry_line() if is_stop else error_as_event(end), more=False)


async def send_messages(
    subscribe: "Subscribe", exchange: "AsgiExchange", receive: Any, send: Any, limits: Limits
) -> None:
    """Answer a WebSocket with messages until the client or the view ends."""
    await receive()  # websocket.connect
    try:
        subscription = await subscribe(exchange)  # type: ignore[arg-type]  # the same by shape
    except PerdureError as error:
        await _deny(error, exchange, send)
        return
    async with _pulling(subscription, receive, "websocket.disconnect") as pull:
        await send({"type": "websocket.accept", "headers": headers_of(exchange.lines)})
        while (end := await _end_of(pull, None)) is None:
            for frame in pull.frames:
                async with asyncio.timeout(limits.write_timeout_s):
                    text = frame.render(as_text).decode()
                    await send({"type": "websocket.send", "text": text})
        if isinstance(end, StoppingError):
            await send({"type": "websocket.close", "code": 1012})
        else:
            await send({"type": "websocket.send", "text": error_as_text(end).decode()})
            await send({"type": "websocket.close", "code": 1011})


class _GoneError(OSError):
    """The client left."""


async def _end_of(pull: Pull, within_s: float | None) -> Exception | None:
    """Wait for `pull.frames`; returns what ended the view, which may be any exception, instead."""
    try:
        await pull.next(within_s)
    except _GoneError:
        raise
    except Exception as error:
        return error
    return None


@asynccontextmanager
async def _pulling(subscription: Subscription, receive: Any, farewell: str) -> AsyncIterator[Pull]:
    """A Pull that ends with _GoneError when the client does, and closes its subscription."""

    async def listen() -> None:
        while (await receive())["type"] != farewell:
            pass

    pull = Pull(subscription)
    listening = asyncio.ensure_future(listen())
    listening.add_done_callback(lambda _task: pull.ended(_GoneError()))
    try:
        yield pull
    except (OSError, TimeoutError):  # the client left, or takes nothing
        return
    finally:
        subscription.close()
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


async def _deny(error: PerdureError, exchange: "AsgiExchange", send: Any) -> None:
    status, body, extra = problem_of(error)
    if not exchange.can_deny:
        await send({"type": "websocket.close", "code": 1008, "reason": str(error)[:100]})
        return
    headers = [(b"content-type", CONTENT_TYPE), (b"content-length", b"%d" % len(body))]
    headers += headers_of(exchange.lines + extra)
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})
