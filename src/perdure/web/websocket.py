"""The ASGI websocket scope, over the sans-I/O half of the `websockets` library.

It exists so that the web tier owns its sockets: framing, compression, pings and close codes are
here, and the application sees messages.

Invariants:
- Nothing is sent before the application accepted; a refusal is a plain HTTP response.
- A message over the limit never reaches memory as a whole: the library closes with 1009.
- Every connection ends with exactly one `websocket.disconnect` for its application.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol, cast

from websockets.exceptions import ProtocolError
from websockets.extensions.base import ServerExtensionFactory
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol

from perdure.web import asgi
from perdure.web.exchange import Exchange
from perdure.web.problems import CONTENT_TYPE, problem
from perdure.web.replies import check_status, checked_headers, header_lines
from perdure.web.request_head import RefusedError
from perdure.web.shared import Message, logger
from perdure.web.transport import ClientTransport

_INBOX_BYTES = 64 << 10
_PING_AFTER_S = 20.0  # without a byte from the client
_CLOSE_TIMEOUT_S = 10.0  # for the client's half of the closing handshake

_HANDSHAKE = frozenset(
    (
        b"connection",
        b"upgrade",
        b"sec-websocket-key",
        b"sec-websocket-version",
        b"sec-websocket-extensions",
    )
)

# Windows of 4 KiB instead of 32: a connection that compresses both ways costs some 30 KiB and not
# some 300, for a few per cent of size. A client that takes no part in it may still use 32 KiB.
_DEFLATE = ServerPerMessageDeflateFactory(
    server_max_window_bits=12, client_max_window_bits=12, compress_settings={"memLevel": 5}
)


class HttpSide(asgi.AsgiConnection, Protocol):
    """What a WebSocket takes over from the connection it began on."""

    server: tuple[str, int] | None
    is_write_paused: bool


def check_handshake(exchange: Exchange) -> None:
    """Raises: RefusedError when this request cannot begin a WebSocket (RFC 6455, 4.2)."""
    fields = exchange.fields
    if exchange.method != b"GET" or exchange.http_version != "1.1":
        raise RefusedError(400, "a WebSocket begins with GET and HTTP/1.1")
    if fields.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in fields:
        raise RefusedError(400, "a WebSocket handshake has no body")
    if fields.get(b"sec-websocket-version") != b"13":
        raise RefusedError(426, extra=b"sec-websocket-version: 13\r\nupgrade: websocket\r\n")


class WebSocketConnection(ClientTransport):
    """One WebSocket, from its handshake on; takes the transport over when it starts."""

    extensions: Sequence[ServerExtensionFactory] = (_DEFLATE,)
    counts_unread = True
    ping_after_s = _PING_AFTER_S

    def __init__(self, http: HttpSide, exchange: Exchange) -> None:
        super().__init__(http.shared)
        self._http = http
        self._exchange = exchange
        self.client, self.server = exchange.client, http.server
        self.scheme = "wss" if exchange.scheme == "https" else "ws"
        self._frames = ServerProtocol(
            extensions=self.extensions,
            max_size=http.shared.limits.websocket_message_bytes_max,
        )
        self._inbox: deque[Message] = deque([{"type": "websocket.connect"}])
        self._inbox_bytes = 0
        self._waiter: asyncio.Future[None] | None = None
        self._parts: list[bytes] = []
        self._is_text = False
        self._is_open = False
        self._is_paused = False
        self._is_started = False
        self._has_ended = False  # the disconnect is in the inbox
        self._denial: tuple[int, list[tuple[bytes, bytes]], list[bytes]] | None = None
        self._heard_s = self.shared.dates.now_s
        self._has_pinged = False
        self._closing_s: float | None = None

    # --- what the HTTP side tells

    def start(self) -> None:
        """Takes over the transport and starts the application, once."""
        if self._is_started:
            return
        self._is_started = True
        shared = self.shared
        self.transport = self._http.transport
        self.is_write_paused = self._http.is_write_paused
        self.transport.set_protocol(self)
        shared.connections.discard(cast("Any", self._http))
        shared.connections.add(self)
        shared.websockets += 1
        task = asyncio.get_running_loop().create_task(self._run())
        shared.tasks.add(task)
        task.add_done_callback(shared.tasks.discard)

    def complete(self) -> None:
        """The handshake request is complete; it has no body."""

    def has_room(self) -> bool:
        """Returns True: there is no body to make room for."""
        return True

    def disconnect(self) -> None:
        """The client went away before its turn came."""
        self._end(CloseCode.ABNORMAL_CLOSURE)

    def give_up(self) -> bool:
        """Returns False: a WebSocket cannot be answered from outside."""
        return False

    # --- the transport's callbacks

    def data_received(self, data: bytes) -> None:
        self._heard_s = self.shared.dates.now_s
        if not self._is_open:
            # A client may not send before it was accepted (RFC 6455, 4.1).
            self.abort()
            return
        self._frames.receive_data(data)
        self._take_events()
        if self._frames.parser_exc is not None and not self._has_ended:
            code = self._frames.close_sent.code if self._frames.close_sent else 1006
            self._end(code)
        self._flush()

    def eof_received(self) -> bool:
        self._frames.receive_eof()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self.shared.websockets -= 1
        if self.shared.edge is not None:
            self.shared.edge.log(self._exchange)
        self._exchange.closed = True
        self._end(CloseCode.ABNORMAL_CLOSURE)

    # --- the sweeper and the graceful stop

    def sweep(self, now_s: float, slack_s: float) -> None:
        """Pings a silent client, and cuts off one that stays silent, or takes or closes nothing."""
        if self.is_stuck(now_s, slack_s):
            self.abort()
        elif self._closing_s is not None:
            if now_s - self._closing_s > _CLOSE_TIMEOUT_S:
                self.transport.close()
        elif self._is_open and now_s - self._heard_s > self.ping_after_s and not self._is_paused:
            if now_s - self._heard_s > 2 * self.ping_after_s:
                self._close(CloseCode.INTERNAL_ERROR, "keepalive ping timeout")
            elif not self._has_pinged:
                self._has_pinged = True
                self._frames.send_ping(b"")
                self._flush()

    def drain(self) -> None:
        """Closes with 1012, which tells clients to come back."""
        if self._is_open:
            self._close(CloseCode.SERVICE_RESTART, "")

    def stop(self) -> None:
        """The same, for one that was not open yet."""
        self.drain()
        self._end(CloseCode.SERVICE_RESTART)

    def abort(self) -> None:
        """Cuts the connection."""
        self.transport.abort()

    # --- frames

    def _take_events(self) -> None:
        for event in self._frames.events_received():
            frame = cast("Frame", event)
            if frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                if frame.opcode is not Opcode.CONT:
                    self._is_text = frame.opcode is Opcode.TEXT
                self._parts.append(bytes(frame.data))
                if frame.fin:
                    self._take_message()
            elif frame.opcode is Opcode.CLOSE:
                received = self._frames.close_rcvd
                self._end(received.code if received else 1005, received.reason if received else "")
        self._has_pinged = False

    def _take_message(self) -> None:
        data = b"".join(self._parts)
        self._parts = []
        if self._has_ended:
            return
        message: Message = {"type": "websocket.receive"}
        if self._is_text:
            try:
                message["text"] = data.decode()
            except UnicodeDecodeError:
                self._close(CloseCode.INVALID_DATA, "")
                return
        else:
            message["bytes"] = data
        self._inbox_bytes += len(data)
        self._inbox.append(message)
        self._wake_receiver()
        if self._inbox_bytes > _INBOX_BYTES and not self._is_paused:
            self._is_paused = True
            self.transport.pause_reading()

    def _flush(self) -> None:
        for data in self._frames.data_to_send():
            if self.transport.is_closing():
                break
            if data:
                self.transport.write(data)
            elif self.transport.can_write_eof():
                self.transport.write_eof()
            else:
                self.transport.close()
        if self._frames.close_expected():
            if self._closing_s is None:
                self._closing_s = self.shared.dates.now_s
            if self._frames.state is State.CLOSED or self._frames.close_rcvd is not None:
                self.transport.close()

    def _close(self, code: int, reason: str) -> None:
        if self._is_open and self._frames.state is State.OPEN:
            self._frames.send_close(code, reason)
            self._end(code, reason)
            self._flush()

    def _end(self, code: int, reason: str = "") -> None:
        if not self._has_ended:
            self._has_ended = True
            self._inbox.append({"type": "websocket.disconnect", "code": code, "reason": reason})
            self._wake_receiver()
            if self._is_paused and not self.transport.is_closing():
                # The client's half of the closing handshake must be read.
                self._is_paused = False
                self.transport.resume_reading()

    def _wake_receiver(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # --- what the application does

    async def _run(self) -> None:
        app = self.shared.asgi_app
        assert app is not None, "a WebSocket went to an ASGI app that does not exist"
        try:
            await app(self._scope(), self._receive, self._send)
        except asyncio.CancelledError:
            self.abort()
            raise
        except Exception as error:
            if self._has_ended:
                logger.debug("asgi app stopped by disconnect", exc_info=error)
            else:
                logger.exception("asgi app failed", extra={"path": self._exchange.path})
            self._finish(CloseCode.INTERNAL_ERROR)
        else:
            self._finish(CloseCode.NORMAL_CLOSURE)

    def _finish(self, code: int) -> None:
        if self._is_open:
            self._close(code, "")
        elif not self._exchange.replied and not self.is_lost:
            self._deny(500, [], [problem(500, "internal", "Internal error")])

    def _scope(self) -> dict[str, Any]:
        offered = self._exchange.header(b"sec-websocket-protocol") or b""
        scope = self._exchange.asgi_scope()
        del scope["method"]
        return scope | {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "scheme": self.scheme,
            "subprotocols": [p.strip().decode("latin-1") for p in offered.split(b",") if p.strip()],
            "extensions": scope["extensions"] | {"websocket.http.response": {}},
        }

    async def _receive(self) -> Message:
        while not self._inbox:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        message = self._inbox.popleft()
        if message["type"] == "websocket.disconnect":
            self._inbox.append(message)  # whoever asks again hears it again
        elif message["type"] == "websocket.receive":
            data = message.get("text")
            self._inbox_bytes -= len(message["bytes"] if data is None else data.encode())
            if self._is_paused and self._inbox_bytes <= _INBOX_BYTES:
                self._is_paused = False
                if not self.transport.is_closing():
                    self.transport.resume_reading()
        return message

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        if self.is_lost or (kind == "websocket.send" and self._has_ended):
            raise ConnectionResetError("the client is gone")
        if kind == "websocket.send" and self._is_open:
            self._send_message(message)
            await self.writable()
        elif kind == "websocket.close" and self._is_open:
            self._close(message.get("code", 1000), message.get("reason") or "")
        elif self._is_open or self._exchange.replied:
            raise RuntimeError(f"{kind} is not a message of an open WebSocket")
        elif kind == "websocket.accept":
            self._accept(message)
        elif kind == "websocket.close":
            self._deny(403, [], [problem(403, "forbidden", "The WebSocket was refused")])
        elif kind == "websocket.http.response.start":
            status = check_status(message["status"])
            self._denial = status, checked_headers(message.get("headers", ())), []
        elif kind == "websocket.http.response.body" and self._denial is not None:
            self._denial[2].append(message.get("body", b""))
            if not message.get("more_body", False):
                self._deny(*self._denial)
        else:
            raise RuntimeError(f"{kind} is not a message of a WebSocket that is not accepted")

    def _send_message(self, message: Message) -> None:
        text = message.get("text")
        if text is not None:
            self._frames.send_text(text.encode())
        else:
            self._frames.send_binary(message["bytes"])
        self._flush()

    def _accept(self, message: Message) -> None:
        response = self._handshake()
        if response.status_code != 101:
            self._deny(400, [], [problem(400, "bad-request", "The handshake is malformed")])
            return
        lines = [(n.encode(), v.encode("latin-1")) for n, v in response.headers.raw_items()]
        if message.get("subprotocol"):
            lines.append((b"sec-websocket-protocol", message["subprotocol"].encode("ascii")))
        lines += checked_headers(message.get("headers", ()))
        self._frames.send_response(response)  # moves the library's state on
        self._frames.data_to_send()  # and this is its rendering, which ours replaces
        self._exchange.replied = True
        self._exchange.status = 101
        self._is_open = True
        said = header_lines(checked_headers(lines)) + self._exchange.own_lines()
        self.transport.write(b"HTTP/1.1 101 Switching Protocols\r\n%b\r\n" % said)

    def _handshake(self) -> Response:
        # The library's parser has to see the request, but has limits of its own: so it gets
        # only what it looks at.
        lines = [header for header in self._exchange.headers if header[0] in _HANDSHAKE]
        self._frames.receive_data(b"GET / HTTP/1.1\r\n%b\r\n" % header_lines(lines))
        events = self._frames.events_received()
        if not events:
            raise ProtocolError("the handshake could not be parsed")
        return self._frames.accept(cast("Request", events[0]))

    def _deny(self, status: int, headers: list[tuple[bytes, bytes]], parts: list[bytes]) -> None:
        names = dict(headers)
        content_type = names.get(b"content-type", CONTENT_TYPE)
        ours = (b"content-type", b"content-length", b"connection", b"transfer-encoding")
        extra = header_lines([header for header in headers if header[0] not in ours])
        self._exchange.keep_alive = False
        self._exchange.reply(status, b"".join(parts), content_type, extra)
        self._end(CloseCode.ABNORMAL_CLOSURE)
