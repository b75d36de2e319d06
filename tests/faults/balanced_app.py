"""What stands behind the balancer in these tests: each answer says which request it is for."""

import asyncio
from typing import Any

from perdure import App


async def site(scope: Any, receive: Any, send: Any) -> None:
    """Requests of every kind that a balancer has to pass on."""
    if scope["type"] == "websocket":
        await _echo_messages(receive, send)
    elif scope["type"] == "http":
        await _answer(scope, receive, send)
    else:
        await _live(receive, send)


async def _answer(scope: Any, receive: Any, send: Any) -> None:
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    name = dict(scope["headers"]).get(b"x-name", b"")
    path, pause_ms = scope["path"], scope["query_string"]
    if pause_ms:
        await asyncio.sleep(int(pause_ms) / 1000)
    if path == "/events":
        await _stream(send, b"text/event-stream", [b"data: %b\n\n" % name] * 5, pause_s=0.02)
    elif path == "/pieces":
        await _stream(send, b"text/plain", [name, b"+", body], pause_s=0.0)
    else:
        content = name + b"+" + body
        headers = [(b"content-length", b"%d" % len(content))]
        headers.append((b"x-port", b"%d" % scope["server"][1]))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})


async def _stream(send: Any, kind: bytes, pieces: list[bytes], pause_s: float) -> None:
    headers = [(b"content-type", kind)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for piece in pieces:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
        await asyncio.sleep(pause_s)
    await send({"type": "http.response.body", "body": b""})


async def _echo_messages(receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "bytes": message["bytes"]})


async def _live(receive: Any, send: Any) -> None:
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return


app = App(mount=site, store="memory:")
