"""The ASGI application behind every server of the table: reads the whole body, and answers."""

from typing import Any


async def app(scope: Any, receive: Any, send: Any) -> None:
    """200 with the body's length, or the status that the path names."""
    if scope["type"] != "http":
        return
    length, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        length += len(message.get("body", b""))
        more = message.get("more_body", False)
    status = int(scope["path"][1:]) if scope["path"] in ("/204", "/304") else 200
    body = b"%d" % length if status == 200 else b""
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": body})
