"""Runs an ASGI 3 application for one exchange, and its lifespan for a process.

It exists so that anything written for ASGI can be mounted beside the actors: each request that no
actor route matches becomes one task here.

Invariants:
- The application starts when its exchange is the first of its connection, so it writes directly.
- At most `BODY_BUFFER_BYTES` and one read of a body wait in memory; then reading pauses.
- An application that fails before its head was sent becomes a 500 problem; after it, the
  connection is cut, because a response that ends early must not look complete.
"""

import asyncio
from typing import Any, Protocol
from urllib.parse import unquote

from perdure.base.errors import PerdureError
from perdure.web import exchange as exchanges
from perdure.web.exchange import Exchange
from perdure.web.problems import CONTENT_TYPE, problem
from perdure.web.replies import (
    InvalidReplyError,
    check_status,
    checked_headers,
    has_body,
    header_lines,
    status_line,
)
from perdure.web.shared import AsgiApp, Message, Shared, logger

BODY_BUFFER_BYTES = 64 << 10

_INTERNAL = problem(500, "internal", "Internal error")
_OURS = frozenset((b"connection", b"keep-alive", b"transfer-encoding"))


class AsgiConnection(exchanges.Connection, Protocol):
    """What a running application needs of its connection."""

    shared: Shared
    transport: asyncio.Transport

    async def writable(self) -> None: ...
    def send_continue(self, exchange: Exchange) -> None: ...
    def resume_if_possible(self) -> None: ...
    def abort(self) -> None: ...


class AsgiCall:
    """One request in the hands of the application."""

    __slots__ = (
        "_began_s",
        "_body_bytes_left",
        "_chunks",
        "_connection",
        "_exchange",
        "_has_all_body",
        "_has_told_end",
        "_is_chunked",
        "_is_finished",
        "_is_gone",
        "_is_head_sent",
        "_is_started",
        "_response",
        "_waiter",
        "_waiting_bytes",
        "scope",
    )

    def __init__(self, connection: AsgiConnection, exchange: Exchange) -> None:
        self._connection = connection
        self._exchange = exchange
        self._chunks: list[bytes] = []
        self._waiting_bytes = 0
        self._waiter: asyncio.Future[None] | None = None
        self._has_all_body = False
        self._has_told_end = False  # the app got the message without more_body
        self._is_started = False
        self._began_s = 0.0
        self._is_gone = False  # nobody waits for the response any more
        self._is_finished = False
        self._is_head_sent = False
        self._is_chunked = False
        self._body_bytes_left: int | None = None  # of the declared content-length
        self._response: tuple[int, list[tuple[bytes, bytes]]] | None = None
        self.scope: dict[str, Any] | None = None
        """Of the request, once it is the application's: which writes into it what it found."""

    # --- what the connection tells

    def start(self) -> None:
        """Starts the application, once."""
        if not self._is_started:
            self._is_started = True
            self._began_s = asyncio.get_running_loop().time()
            tasks = self._connection.shared.tasks
            task = asyncio.get_running_loop().create_task(self._run())
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    def feed(self, data: bytes) -> bool:
        """Takes a part of the body; returns whether there is room for more."""
        self._chunks.append(data)
        self._waiting_bytes += len(data)
        self._wake()
        return self.has_room()

    def has_room(self) -> bool:
        """Returns whether reading may go on."""
        return self._waiting_bytes <= BODY_BUFFER_BYTES

    def complete(self) -> None:
        """The body is complete."""
        self._has_all_body = True
        self._wake()

    def disconnect(self) -> None:
        """The client is gone, or the server stops: the application is told when it listens."""
        self._is_gone = True
        self._wake()

    def give_up(self) -> bool:
        """Takes the exchange from the application; returns False if its response has begun."""
        self.disconnect()
        if self._is_head_sent:
            return False
        self._is_finished = True
        return True

    # --- what the application does

    async def _run(self) -> None:
        exchange = self._exchange
        app = self._connection.shared.asgi_app
        assert app is not None, "an exchange went to an ASGI app that does not exist"
        try:
            if self._connection.shared.edge is not None:
                self._connection.shared.edge.enter(exchange)
            self.scope = exchange.asgi_scope()
            await app(self.scope, self._receive, self._send)
        except asyncio.CancelledError:
            self._fail(problem(503, "stopping", "The server is stopping"), 503)
            raise
        except Exception as error:
            if self._is_gone:
                logger.debug("asgi app stopped by disconnect", exc_info=error)
            else:
                logger.exception("asgi app failed", extra={"path": exchange.path})
            self._fail()
        else:
            if not self._is_finished:
                if not self._is_gone:
                    logger.error("asgi app left no response", extra={"path": exchange.path})
                self._fail()

    def _fail(self, body: bytes = _INTERNAL, status: int = 500) -> None:
        if self._is_finished or self._exchange.closed:
            return
        self._is_finished = True
        if self._is_head_sent:
            self._connection.abort()
        else:
            self._exchange.reply(status, body, CONTENT_TYPE)

    async def _receive(self) -> Message:
        exchange, connection = self._exchange, self._connection
        if not self._chunks and not self._has_all_body and not self._is_gone:
            connection.send_continue(exchange)
        while not self._has_news():
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        is_cut = self._is_gone and not self._has_all_body
        if self._is_finished or self._has_told_end or is_cut:
            return {"type": "http.disconnect"}
        body = b"".join(self._chunks)
        self._chunks.clear()
        self._waiting_bytes = 0
        self._has_told_end = self._has_all_body
        connection.resume_if_possible()
        return {"type": "http.request", "body": body, "more_body": not self._has_told_end}

    def _has_news(self) -> bool:
        if self._is_gone or self._is_finished:
            return True
        return bool(self._chunks) or (self._has_all_body and not self._has_told_end)

    async def _send(self, message: Message) -> None:
        if self._exchange.closed or (self._is_gone and self._is_finished):
            # Also an application that never listens comes to its end this way.
            raise ConnectionResetError("the client is gone")
        kind = message["type"]
        if kind == "http.response.start":
            if self._response is not None:
                raise RuntimeError("http.response.start was sent twice")
            status = check_status(message["status"])
            self._response = status, checked_headers(message.get("headers", ()))
        elif kind == "http.response.body":
            is_last = not message.get("more_body", False)
            self._send_body(bytes(message.get("body", b"")), is_last=is_last)
            await self._connection.writable()
        else:
            raise RuntimeError(f"{kind} is not a message of an http response")

    def _send_body(self, body: bytes, *, is_last: bool) -> None:
        if self._response is None or self._is_finished:
            raise RuntimeError("http.response.body was sent outside of a response")
        data = b"" if self._is_head_sent else self._head(len(body), is_last=is_last)
        if has_body(self._response[0]) and self._exchange.method != b"HEAD":
            data += self._framed(body, is_last=is_last)
        self._is_head_sent = True
        if is_last:
            self._is_finished = True
            self._exchange.replied = True
            self._connection.answer(self._exchange, data)
            self._wake()
        elif data:
            self._exchange.sent_bytes += len(data)
            self._connection.transport.write(data)

    def _head(self, body_bytes: int, *, is_last: bool) -> bytes:
        assert self._response is not None, "a head without http.response.start"
        status, headers = self._response
        took_s = asyncio.get_running_loop().time() - self._began_s
        self._connection.shared.app_took[status // 100].add(took_s)
        exchange = self._exchange
        exchange.status = status
        names = dict(headers)
        if names.get(b"connection", b"").lower() == b"close":
            exchange.keep_alive = False
        headers = [header for header in headers if header[0] not in _OURS]
        framing = b""
        if not has_body(status):
            if status != 304:
                headers = [header for header in headers if header[0] != b"content-length"]
        elif b"content-length" in names:
            self._body_bytes_left = _length(names[b"content-length"])
        elif is_last:
            framing = b"content-length: %d\r\n" % body_bytes
        elif exchange.http_version == "1.1":
            framing = b"transfer-encoding: chunked\r\n"
            self._is_chunked = True
        else:
            exchange.keep_alive = False  # HTTP/1.0 learns of the end by the close
        date = b"" if b"date" in names else self._connection.dates.line
        lines = header_lines(headers)
        connection = exchange.connection_line()
        own = b"" if b"x-request-id" in names else exchange.id_line()
        return b"".join((status_line(status), date, lines, own, framing, connection, b"\r\n"))

    def _framed(self, body: bytes, *, is_last: bool) -> bytes:
        if self._is_chunked:
            chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            return chunk + b"0\r\n\r\n" if is_last else chunk
        if self._body_bytes_left is not None:
            self._body_bytes_left -= len(body)
            if self._body_bytes_left < 0 or (is_last and self._body_bytes_left > 0):
                raise InvalidReplyError("the body is not as long as its content-length")
        return body

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def scope_of(shared: Shared, exchange: Exchange, server: tuple[str, int] | None) -> dict[str, Any]:
    """Returns the http scope of an exchange."""
    return {
        "type": "http",
        # From 2.4 on, frameworks stop listening for the disconnect while they stream, and
        # notice it only when they next send: an idle event stream would never end.
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": exchange.http_version,
        "method": exchange.method.decode("ascii"),
        "scheme": exchange.scheme,
        "path": shared.root_path + unquote(exchange.path.decode("ascii")),
        "raw_path": shared.root_path.encode("ascii") + exchange.path,
        "query_string": exchange.query,
        "root_path": shared.root_path,
        "headers": exchange.headers.copy(),  # apps may change theirs; other requests share these
        "client": exchange.client,
        "server": server,
        "state": shared.state.copy(),
        # For streams: set when the process begins to stop, so that they can say so and end.
        "extensions": {"perdure.draining": {"event": shared.draining}},
    }


def _length(value: bytes) -> int:
    if not value.isdigit():
        raise InvalidReplyError("the content-length of the response is not a number")
    return int(value)


class Lifespan:
    """The lifespan of the mounted application: `startup`, then requests, then `shutdown`.

    `state` is what the application put there; give it to the Server.
    """

    def __init__(self, app: AsgiApp) -> None:
        self.state: dict[str, Any] = {}
        self._app = app
        self._inbox: asyncio.Queue[Message] = asyncio.Queue()
        self._replies: asyncio.Queue[Message] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def startup(self) -> None:
        """Starts the application. Raises: PerdureError when it says that it cannot start.

        An application that fails without a word does not speak lifespan, which is allowed.
        """
        self._task = asyncio.create_task(self._run())
        await self._exchange("startup")

    async def shutdown(self) -> None:
        """Ends the application. Raises: PerdureError when it says that it could not clean up."""
        if self._task is None:
            return
        try:
            await self._exchange("shutdown")
            await self._task
        finally:
            self._task.cancel()
            self._task = None

    async def _exchange(self, phase: str) -> None:
        assert self._task is not None, "lifespan was not started"
        if self._task.done():
            return
        self._inbox.put_nowait({"type": f"lifespan.{phase}"})
        reply = await self._replies.get()
        if reply["type"] == f"lifespan.{phase}.failed":
            raise PerdureError(f"the mounted app's {phase} failed: {reply.get('message', '')}")

    async def _run(self) -> None:
        scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self.state,
        }
        try:
            await self._app(scope, self._inbox.get, self._replies.put)
        except Exception as error:
            logger.info("asgi app without lifespan", exc_info=error)
        finally:
            self._replies.put_nowait({"type": "lifespan.ended"})
