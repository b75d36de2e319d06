"""A test client that asks an ASGI application through a real server and real sockets.

It has the shape of Starlette's `TestClient`, so that tests written for that one can be run against
a server: `tests/asgi/starlette_suite.py` does so with Starlette's own. What an application raises
is raised in the test too, when the answer is complete.
"""

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self
from urllib.parse import urljoin, urlsplit

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from .servers import Serving

try:  # what Starlette's own tests compare with
    import httpcore2 as httpcore
    import httpx2 as httpx
except ModuleNotFoundError:
    import httpcore
    import httpx

WAIT_S = 10.0  # longer than anything here may take; reached only when a test fails


class Disconnected(Exception):
    """The server has closed a WebSocket."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class Denied(Exception):
    """A WebSocket was answered with a plain response."""

    def __init__(self, response: httpx.Response) -> None:
        super().__init__(response.status_code)
        self.response = response


class Watched:
    """An application of which is known when its runs have ended, and how."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._changed = threading.Condition()
        self._running = 0
        self._errors: list[BaseException] = []
        self.lifespan_error: BaseException | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        is_lifespan = scope["type"] == "lifespan"
        with self._changed:
            self._running += not is_lifespan
        try:
            await self._app(scope, receive, send)
        except BaseException as error:
            if is_lifespan:
                self.lifespan_error = error
            elif not isinstance(error, ConnectionError | asyncio.CancelledError):
                self._errors.append(error)
            raise
        finally:
            with self._changed:
                self._running -= not is_lifespan
                self._changed.notify_all()

    def error(self) -> BaseException | None:
        """What it raised, once nothing of it runs any more."""
        with self._changed:
            assert self._changed.wait_for(lambda: not self._running, WAIT_S), "it still runs"
        return self._errors.pop() if self._errors else None


class _Redirected(httpcore.NetworkBackend):
    """Connects to one port, whatever the URL says; `https` is told by a header, as proxies do."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._plain = httpcore.SyncBackend()

    def connect_tcp(self, host: str, port: int, **options: Any) -> httpcore.NetworkStream:
        return _Plain(self._plain.connect_tcp("127.0.0.1", self._port, **options))


class _Plain(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self.read = stream.read  # type: ignore[method-assign]
        self.write = stream.write  # type: ignore[method-assign]
        self.close = stream.close  # type: ignore[method-assign]
        self.get_extra_info = stream.get_extra_info  # type: ignore[method-assign]

    def start_tls(self, *_: Any, **__: Any) -> httpcore.NetworkStream:
        return self


class _Answer(httpx.SyncByteStream):
    """A body that ends when the application has ended, with what it raised."""

    def __init__(self, body: Any, at_end: Callable[[], None]) -> None:
        self._body = body
        self._at_end = at_end

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._body
        except httpx.TransportError:
            self._at_end()
            raise

    def close(self) -> None:
        self._body.close()
        self._at_end()


class _Transport(httpx.HTTPTransport):
    def __init__(self, client: "SocketClient") -> None:
        super().__init__()
        self._client = client
        self._connected_to = 0

    def disconnect(self) -> None:
        """Close all connections."""
        self._pool.close()
        self._connected_to = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        client = self._client
        is_https = request.url.scheme == "https"
        port = client.port(is_proxied=is_https)
        if self._connected_to != port:
            self._connected_to = port
            self._pool.close()
            self._pool = httpcore.ConnectionPool(network_backend=_Redirected(port))
        if is_https:
            request.headers["x-forwarded-proto"] = "https"
        try:
            response = super().handle_request(request)
        except httpx.TransportError:
            client.raise_errors()
            raise
        response.stream = _Answer(response.stream, client.raise_errors)
        return response


class SocketClient(httpx.Client):
    """Asks one application; used as a context manager it runs its lifespan too."""

    serving: type[Serving]
    disconnected: type[Exception] = Disconnected
    denied: Callable[[httpx.Response], Exception] = Denied

    def __init__(
        self,
        app: Any,
        base_url: str = "http://testserver",
        raise_server_exceptions: bool = True,
        root_path: str = "",
        headers: dict[str, str] | None = None,
        cookies: Any = None,
        follow_redirects: bool = True,
        **_unused: Any,
    ) -> None:
        self.app = app
        self.app_state: dict[str, Any] = {}
        self._watched = Watched(app)
        self._raises = raise_server_exceptions
        self._root_path = root_path
        self._running: Serving | None = None
        self._has_lifespan = False
        self._is_proxied = False
        self._to_server = transport = _Transport(self)
        super().__init__(
            base_url=base_url,
            headers={"user-agent": "testclient", **(headers or {})},
            transport=transport,
            follow_redirects=follow_redirects,
            cookies=cookies,
        )

    def port(self, *, is_proxied: bool = False) -> int:
        """Where the server listens, which begins to serve now if it has not."""
        if is_proxied and not self._is_proxied:
            self.end()
            self._is_proxied = True
        if self._running is None:
            with self._lifespan_errors():
                self._running = self.serving(
                    self._watched,
                    self._root_path,
                    has_lifespan=self._has_lifespan,
                    is_proxied=self._is_proxied,
                )
            self.app_state = self._running.state
        return self._running.port

    @contextlib.contextmanager
    def _lifespan_errors(self) -> Iterator[None]:
        """Raises what the application's startup or shutdown raised, instead of what it led to."""
        try:
            yield
        except Exception:
            if isinstance(self._watched.lifespan_error, Exception):
                raise self._watched.lifespan_error from None
            raise

    def raise_errors(self) -> None:
        """Raise what the application raised, once it has ended."""
        error = self._watched.error()
        if error is not None and self._raises:
            raise error

    def __enter__(self) -> Self:
        self._has_lifespan = True
        self.port(is_proxied=self.base_url.scheme == "https")
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Stop the server, until it is needed again; raises what the shutdown raised."""
        running, self._running = self._running, None
        self._has_lifespan = False
        self._to_server.disconnect()
        if running is not None:
            with self._lifespan_errors():
                running.stop()

    @contextlib.contextmanager
    def websocket_connect(
        self, url: str, subprotocols: Sequence[str] | None = None, **options: Any
    ) -> Iterator["Session"]:
        """Opens a WebSocket; raises what the application raised, or that it did not want to."""
        url = urljoin("ws://testserver", url)
        query = urlsplit(
            str(self.build_request("GET", url, params=options.get("params")).url)
        ).query
        headers = {k: v for k, v in options.get("headers", {}).items() if k.lower() not in _OWN}
        if self.cookies:
            headers["cookie"] = "; ".join(f"{n}={v}" for n, v in self.cookies.items())
        sock = socket.create_connection(("127.0.0.1", self.port()), WAIT_S)
        with contextlib.ExitStack() as stack:
            try:
                opened = stack.enter_context(
                    connect(
                        url.partition("?")[0] + (f"?{query}" if query else ""),
                        sock=sock,
                        subprotocols=[Subprotocol(name) for name in subprotocols or ()] or None,
                        additional_headers=headers,
                        user_agent_header="testclient",
                        compression=None,
                        open_timeout=WAIT_S,
                        close_timeout=WAIT_S,
                    )
                )
            except InvalidStatus as refused:
                raise self._refusal(refused.response) from None
            session = Session(opened, self.disconnected)
            stack.callback(session.close)
            yield session
        self.raise_errors()

    def _refusal(self, answer: Any) -> Exception:
        error = self._watched.error()
        if error is not None and self._raises:
            assert isinstance(error, Exception)
            return error
        headers = list(answer.headers.raw_items())
        return self.denied(
            httpx.Response(answer.status_code, headers=headers, content=bytes(answer.body or b""))
        )


_OWN = frozenset(("connection", "upgrade", "sec-websocket-key", "sec-websocket-version"))


class Session:
    """One open WebSocket."""

    def __init__(self, connection: Any, disconnected: type[Exception]) -> None:
        self._connection = connection
        self._disconnected = disconnected
        self.accepted_subprotocol = connection.subprotocol
        self.extra_headers = [
            (name.lower().encode(), value.encode())
            for name, value in connection.response.headers.raw_items()
            if name.lower() not in ("upgrade", "connection", "date", "server", "x-request-id")
            and not name.lower().startswith("sec-websocket-")
        ]

    def send(self, message: Any) -> None:
        if message["type"] == "websocket.disconnect":
            self.close(message.get("code", 1000), message.get("reason"))
            return
        value = message.get("bytes") if message.get("text") is None else message["text"]
        if value is None:  # what only a test client can say
            return
        with contextlib.suppress(ConnectionClosed):
            self._connection.send(value)

    def send_text(self, data: str) -> None:
        self.send({"type": "websocket.receive", "text": data})

    def send_bytes(self, data: bytes) -> None:
        self.send({"type": "websocket.receive", "bytes": data})

    def send_json(self, data: Any, mode: str = "text") -> None:
        text = json.dumps(data, separators=(",", ":"), ensure_ascii=False)
        self.send_text(text) if mode == "text" else self.send_bytes(text.encode())

    def close(self, code: int = 1000, reason: str | None = None) -> None:
        self._connection.close(code, reason or "")

    def receive(self) -> dict[str, Any]:
        try:
            data = self._connection.recv(WAIT_S)
        except ConnectionClosed as closed:
            code, reason = (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (1006, "")
            return {"type": "websocket.close", "code": code, "reason": reason}
        name = "text" if isinstance(data, str) else "bytes"
        return {"type": "websocket.send", name: data}

    def receive_text(self) -> str:
        return str(self._received()["text"])

    def receive_bytes(self) -> bytes:
        return bytes(self._received()["bytes"])

    def receive_json(self, mode: str = "text") -> Any:
        return json.loads(self._received()["text" if mode == "text" else "bytes"])

    def _received(self) -> dict[str, Any]:
        message = self.receive()
        if message["type"] == "websocket.close":
            raise self._disconnected(message["code"], message["reason"])
        return message
