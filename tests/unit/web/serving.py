"""A real server on a loopback socket, for tests that speak to it with plain sockets."""

import asyncio
import json
import logging
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uvloop

from perdure.base.limits import Limits
from perdure.web.exchange import Exchange
from perdure.web.server import Server

WAIT_S = 10.0  # longer than anything here may take; reached only when a test fails
GOOD = b"GET /call/good HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


class Echo:
    """Answers /call/… with what it was asked; keeps what goes to /later/… for the test."""

    def __init__(self) -> None:
        self.kept: list[Exchange] = []

    def match(self, _method: bytes, path: bytes) -> object | None:
        return path if path.startswith((b"/call/", b"/later/", b"/raise/")) else None

    def subscriber(self, _route: object) -> None:
        return None

    def handle(self, route: Any, exchange: Exchange) -> None:
        if route.startswith(b"/raise/"):
            raise RuntimeError("secret")
        if route.startswith(b"/later/"):
            self.kept.append(exchange)
        else:
            exchange.reply(200, echo_of(exchange))


def echo_of(exchange: Exchange) -> bytes:
    """What Echo answers."""
    return json.dumps(
        {
            "method": exchange.method.decode(),
            "path": exchange.path.decode(),
            "query": exchange.query.decode(),
            "body": exchange.body.decode(),
        }
    ).encode()


async def length_app(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI app that answers the length of the body."""
    length, more = 0, True
    while more:
        message = await receive()
        length += len(message.get("body", b""))
        more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"%d" % length})


@dataclass
class Running:
    """A server that runs on a loop of its own thread."""

    port: int
    server: Server
    endpoint: Echo
    loop: asyncio.AbstractEventLoop

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Runs a coroutine on the server's loop and waits for it."""
        return self.begin(coroutine).result(WAIT_S)

    def begin(self, coroutine: Coroutine[Any, Any, Any]) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def call(self, function: Callable[[], Any]) -> Any:
        """Calls a function on the server's loop."""

        async def calling() -> Any:
            return function()

        return self.run(calling())

    def wait_until(self, condition: Callable[[], Any]) -> Any:
        """Waits until a condition, evaluated on the server's loop, holds; returns its value."""

        async def waiting() -> Any:
            async with asyncio.timeout(WAIT_S):
                while not (value := condition()):
                    await asyncio.sleep(0.002)
            return value

        return self.run(waiting())

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=WAIT_S)

    def talk(self, *parts: bytes) -> bytes:
        """Sends the parts and returns everything until the server closes."""
        with self.connect() as client:
            for part in parts:
                client.sendall(part)
            return read_all(client)


@contextmanager
def running(
    asgi_app: Any = None, limits: Limits | None = None, **options: Any
) -> Iterator[Running]:
    """Runs a server in a thread for the length of a with block."""
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    endpoint = options.pop("endpoint", None) or Echo()
    ssl_context = options.pop("ssl_context", None)
    options.setdefault("sweep_period_s", 0.02)
    server = Server(endpoint, asgi_app, limits, **options)
    running_server = Running(port, server, endpoint, loop)
    try:
        running_server.run(server.start([listening], ssl_context))
        yield running_server
    finally:
        running_server.run(server.close())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(WAIT_S)
        loop.close()
        listening.close()


def read_all(client: socket.socket) -> bytes:
    """Returns everything until the end of the stream."""
    parts = []
    while part := client.recv(1 << 20):
        parts.append(part)
    return b"".join(parts)


def read_until(client: socket.socket, end: bytes) -> bytes:
    """Returns what comes, up to and including `end`, and whatever came with it."""
    data = b""
    while end not in data:
        part = client.recv(65536)
        assert part, data
        data += part
    return data


@dataclass
class Response:
    status: int
    headers: dict[bytes, bytes]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def responses_of(data: bytes, *, to_head: bool = False) -> list[Response]:
    """Parses a stream of responses strictly; `to_head`: the first one has no body."""
    responses = []
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        headers = dict(line.lower().split(b": ", 1) for line in lines[1:])
        status = int(lines[0].split(b" ")[1])
        assert lines[0].startswith(b"HTTP/1.1 ")
        if status < 200 or status in (204, 304) or (to_head and not responses):
            body = b""
            assert status >= 200 or not headers
        elif headers.get(b"transfer-encoding") == b"chunked":
            body, data = _unchunked(data)
        elif b"content-length" in headers:
            length = int(headers[b"content-length"])
            assert len(data) >= length
            body, data = data[:length], data[length:]
        else:
            body, data = data, b""
        responses.append(Response(status, headers, body))
    return responses


def _unchunked(data: bytes) -> tuple[bytes, bytes]:
    body = b""
    while True:
        size, _, data = data.partition(b"\r\n")
        length = int(size, 16)
        chunk, end, data = data[:length], data[length : length + 2], data[length + 2 :]
        assert end == b"\r\n"
        if not length:
            return body, data
        body += chunk


def errors_of(caplog: Any) -> list[str]:
    """The messages that would be seen by default."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
