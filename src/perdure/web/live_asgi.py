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

if TYPE_CHECKING:
    from perdure.web.asgi_exchange import AsgiExchange
    from perdure.web.shared import Subscribe


async def send_events(subscription: Subscription, receive: Any, send: Any, limits: Limits) -> None:
    """Answer a request with Server-Sent Events until the client or the view ends."""

    async def write(body: bytes, *, more: bool = True) -> None:
        async with asyncio.timeout(limits.write_timeout_s):
            await send({"type": "http.response.body", "body": body, "more_body": more})

    async with _pulling(subscription, receive, "http.disconnect") as pull:
        head = {"type": "http.response.start", "status": 200, "headers": EVENT_STREAM_HEADERS}
        await send(head)
        await write(retry_line())
        try:
            while True:
                frames = await pull.next(limits.live_heartbeat_s)
                await write(b"".join([frame.render(as_event) for frame in frames]) or HEARTBEAT)
        except _GoneError:
            return
        except StoppingError:
            await write(retry_line(), more=False)
        except PerdureError as error:
            await write(error_as_event(error), more=False)


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
        await send({"type": "websocket.accept"})
        code = 1011
        try:
            while True:
                for frame in await pull.next():
                    async with asyncio.timeout(limits.write_timeout_s):
                        text = frame.render(as_text).decode()
                        await send({"type": "websocket.send", "text": text})
        except _GoneError:
            return
        except StoppingError:
            code = 1012
        except PerdureError as error:
            await send({"type": "websocket.send", "text": error_as_text(error).decode()})
        await send({"type": "websocket.close", "code": code})


class _GoneError(Exception):
    """The client left."""


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
    status, body, _ = problem_of(error)
    if not exchange.can_deny:
        await send({"type": "websocket.close", "code": 1008, "reason": str(error)[:100]})
        return
    headers = [(b"content-type", CONTENT_TYPE), (b"content-length", b"%d" % len(body))]
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})
