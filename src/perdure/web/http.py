"""HTTP/1.0 and 1.1 on one connection: parsing, limits, timeouts. The replies are in `pipeline`.

It exists because no Python server has both the checks and the speed: each request costs a handful
of parser callbacks, or none where its header block is known, one Exchange and one
`transport.write`, and no task, future or timer.

Invariants:
- Whatever came over a connection before, a request means what the parser would find in it.
- A request whose head is refused has no effect, and is the last of its connection.
"""

import asyncio
from typing import cast

import httptools

from perdure.web.asgi import AsgiCall
from perdure.web.exchange import Exchange
from perdure.web.ignored_upgrade import parser_behind_head
from perdure.web.known_heads import KnownHeads
from perdure.web.live_socket import LiveSocket
from perdure.web.pipeline import BODY, DONE, HEAD, IDLE, IGNORED_UPGRADE, Pipeline
from perdure.web.problems import CONTENT_TYPE, problem
from perdure.web.request_head import (
    RefusedError,
    check_fields,
    check_host,
    refusal_of_syntax,
    split_target,
)
from perdure.web.shared import Shared, logger
from perdure.web.websocket import WebSocketConnection, check_handshake

# A longer read is cut at each empty line, so that pipelining can stop at its limit: httptools
# cannot be paused. A shorter one holds at most some forty requests and is parsed as it is.
_ONE_BITE_BYTES = 1024
_BITE_BYTES = 16 << 10

# Chunked framing may be this much longer than the body, beyond which it is only meant to tire us.
_FRAMING_FACTOR = 16

_LINGER_S = 2.0  # how long a refused client may go on sending before its connection is closed
_REFUSED_CONNECTIONS_MAX = 100  # told 503 and not just cut off, at one time


class HttpProtocol(Pipeline):
    """One client connection. All methods run on the server's event loop."""

    counts_unread = True

    def __init__(self, shared: Shared) -> None:
        super().__init__(shared)
        limits = shared.limits
        self._match = shared.endpoint.match
        self._handle = shared.endpoint.handle
        self._header_count_max = limits.header_count_max
        self._call_body_bytes_max = limits.call_body_bytes_max
        self._one_bite_bytes = min(
            _ONE_BITE_BYTES, limits.header_bytes_max, limits.target_bytes_max
        )
        self._bite_bytes = min(_BITE_BYTES, limits.header_bytes_max)
        self._parser: httptools.HttpRequestParser = httptools.HttpRequestParser(self)
        self._successor: WebSocketConnection | None = None
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._parts: list[bytes] = []
        self._head_bytes = 0  # of a head that came in more than one bite
        self._body_bytes = 0
        self._raw_bytes = 0  # with the chunked framing
        self._body_bytes_max = 0
        self._good_host: bytes | None = None
        self._known_heads = KnownHeads()
        self._was_used = False

    # --- the transport's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        shared = self.shared
        super().connection_made(transport)
        connections_max = shared.limits.connections_max
        if len(shared.connections) >= connections_max + _REFUSED_CONNECTIONS_MAX:
            self._phase = DONE
            shared.connections_refused += 1
            self.transport.abort()
            return
        shared.connections.add(self)
        shared.connections_total += 1
        if len(shared.connections) > connections_max:
            shared.connections_refused += 1
            logger.warning("connection refused", extra={"connections": connections_max})
            self._refuse_connection()

    def data_received(self, data: bytes) -> None:
        if self._phase == DONE:
            if self._successor is not None:
                self._successor.data_received(data)
        elif len(data) > self._one_bite_bytes or self._is_paused or self.dates.closing:
            self._held += data
            self._feed_in_bites()
        elif self._phase or not self._take_known(data):
            self._feed(data)

    def eof_received(self) -> bool:
        if not self._pipeline or self._arriving is not None:
            return False  # nothing that could still be answered: the transport closes itself
        self._phase = DONE
        self._pipeline[-1].keep_alive = False
        for exchange in self._pipeline:
            if exchange.call is not None:
                exchange.call.disconnect()
        return True

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._phase = DONE
        self._held = b""
        self._arriving = None
        # The parser holds this object's bound methods: without this the pair waits for the
        # cycle collector.
        del self._parser
        while self._pipeline:
            exchange = self._pipeline.popleft()
            exchange.closed = True
            if self._edge is not None:
                self._edge.log(exchange)
            if exchange.call is not None:
                exchange.call.disconnect()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._pause()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.resume_if_possible()

    # --- the parser's callbacks

    def on_message_begin(self) -> None:
        if self._phase == DONE:
            raise RefusedError(400)  # stops the parser; the answer is never sent
        self._phase = HEAD
        self._stamp_s = self.dates.now_s
        self._target = b""
        self._headers = []
        self._head_bytes = 0

    def on_url(self, part: bytes) -> None:
        self._target += part
        if len(self._target) > self.shared.limits.target_bytes_max:
            raise RefusedError(414)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value.strip()))

    def on_headers_complete(self) -> None:
        parser = self._parser
        method = parser.get_method()
        version = parser.get_http_version()
        headers = self._headers
        fields = dict(headers)
        # A head that came in one bite cannot be longer than the limit.
        if self._head_bytes or len(headers) > self._header_count_max:
            self._check_size()
        is_rare = check_fields(method, version, headers, fields)
        host = fields.get(b"host")
        if host is None or host != self._good_host:
            check_host(host, version)
            self._good_host = host
        path, query = split_target(method, self._target, host)
        keep_alive = parser.should_keep_alive()
        if keep_alive and not is_rare and version == "1.1":
            self._known_heads.learn(headers, fields)
        exchange = Exchange(
            method,
            path,
            query,
            headers,
            fields,
            self.client,
            self.scheme,
            version,
            self,
            keep_alive,
            keep_alive and version == "1.1" and method != b"HEAD",
            self._match(method, path),
        )
        self._begin(exchange, is_rare=is_rare)

    def on_body(self, data: bytes) -> None:
        exchange = cast("Exchange", self._arriving)
        self._body_bytes += len(data)
        if self._body_bytes > self._body_bytes_max:
            raise RefusedError(413)
        if exchange.call is not None:
            if not exchange.call.feed(data):
                self._pause()
        elif exchange.body:
            self._parts.append(data)
        else:
            exchange.body = data

    def on_message_complete(self) -> None:
        if self._phase == IGNORED_UPGRADE:
            return
        exchange = cast("Exchange", self._arriving)
        self._arriving = None
        self._phase = IDLE if exchange.keep_alive else DONE
        if self._parts:
            exchange.body += b"".join(self._parts)
            self._parts = []
        self._dispatch(exchange)

    def _dispatch(self, exchange: Exchange) -> None:
        """A request has come to its end."""
        self.shared.requests_total += 1
        route = exchange.route
        if route is None:
            self._complete_unrouted(exchange)
            return
        try:
            self._handle(route, exchange)
        except Exception as error:
            logger.exception("handler failed", extra={"path": exchange.path})
            if not exchange.replied:
                exchange.reply_problem(error)

    # --- the sweeper and the graceful stop

    def sweep(self, now_s: float, slack_s: float) -> None:
        """Enforces the timeouts; a stamp may be `slack_s` older than what it stamps."""
        limits = self.shared.limits
        if self.is_stuck(now_s, slack_s):
            logger.info("slow reader cut off", extra={"timeout_s": limits.write_timeout_s})
            self.abort()
            return
        for exchange in list(self._pipeline):
            self._sweep_exchange(exchange, now_s)
        age_s = now_s - self._stamp_s - slack_s
        if self._phase == IDLE:
            if not self._pipeline:
                self._known_heads.forget()
                fresh = not self._was_used
                if age_s > (limits.header_timeout_s if fresh else limits.idle_timeout_s):
                    self.transport.close()
        elif self._phase == DONE:
            if not self._pipeline and age_s > _LINGER_S:
                self.transport.close()
        elif self._is_paused:
            self._stamp_s = now_s  # the client has to wait, so it is not late
        else:
            is_head = self._phase == HEAD
            if age_s > (limits.header_timeout_s if is_head else limits.body_timeout_s):
                self._refuse(RefusedError(408))

    def _sweep_exchange(self, exchange: Exchange, now_s: float) -> None:
        """A call has a deadline of its own; this one holds even when its turn cannot end, as when
        the disk under the store stands still."""
        if exchange is self._arriving or exchange.call is not None or exchange.replied:
            return
        if not exchange.expires_s:
            exchange.expires_s = now_s + self.shared.limits.call_timeout_s
        elif now_s > exchange.expires_s:
            exchange.expire()

    def drain(self) -> None:
        """Closes if nothing is under way, and no first request can be either."""
        if not self._was_used and self.shared.expects_requests:
            return
        if self._phase == IDLE and not self._pipeline and not self._held:
            self._phase = DONE
            self.transport.close()

    def stop(self) -> None:
        """Tells the ASGI app that its time is up, without closing yet."""
        for exchange in self._pipeline:
            if exchange.call is not None:
                exchange.call.disconnect()

    def abort(self) -> None:
        """Cuts the connection; replies that are not on their way yet go nowhere."""
        self._phase = DONE
        for exchange in self._pipeline:
            exchange.closed = True
        self.transport.abort()

    # --- parsing

    def _feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._leave_parser(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            if self._phase != DONE:
                self._refuse(self._refusal_of(error))
        if self._phase:
            self._count_partial(len(data))
        if len(self._pipeline) >= self._depth_max and self._arriving is None:
            self._pause()

    def _take_known(self, data: bytes) -> bool:
        """Takes the one whole request that `data` is, if its header block is known; the parser
        then hears nothing of it."""
        found = self._known_heads.find(data)
        if found is None:
            return False
        method, target, block, body = found
        self._stamp_s = self.dates.now_s
        path, _, query = target.partition(b"?")
        exchange = Exchange(
            method,
            path,
            query,
            block.headers,
            block.fields,
            self.client,
            self.scheme,
            "1.1",
            self,
            True,
            method != b"HEAD",
            self._match(method, path),
        )
        if exchange.route is not None and len(body) <= self._call_body_bytes_max:
            self._was_used = True
            if self._edge is not None:
                self._edge.note(exchange)
            self._pipeline.append(exchange)
            exchange.body = body
            self._dispatch(exchange)
        else:
            self._take_apart(exchange, body)
        if len(self._pipeline) >= self._depth_max:
            self._pause()
        return True

    def _take_apart(self, exchange: Exchange, body: bytes) -> None:
        """Takes a whole request as if its head and its body came one after the other."""
        try:
            self._begin(exchange, is_rare=False)
            if body:
                self.on_body(body)
            self.on_message_complete()
        except RefusedError as refusal:
            self._refuse(refusal)

    def _feed_in_bites(self) -> None:
        if self._is_biting:
            return
        self._is_biting = True
        held, start = self._held, 0
        while start < len(held) and not self._is_paused and self._phase != DONE:
            end = held.find(b"\r\n\r\n", start, start + self._bite_bytes)
            end = start + self._bite_bytes if end < 0 else end + 4
            if self.dates.closing:
                self._held = held[end:]  # `_is_last_read` wants to know
            self._feed(held[start:end])
            start = end
        self._held = held[start:] if self._phase != DONE else b""
        self._is_biting = False
        if self._successor is not None and start < len(held):
            self._successor.data_received(held[start:])

    def _count_partial(self, bite_bytes: int) -> None:
        limits = self.shared.limits
        if self._phase == HEAD:
            self._head_bytes += bite_bytes
            # Coarse, because the bite may hold the end of another body: `_check_size` is exact.
            coarse_max = limits.header_bytes_max + limits.target_bytes_max + self._bite_bytes
            if self._head_bytes > coarse_max:
                self._refuse(RefusedError(431))
        elif self._phase == BODY:
            # What came buys time, so that a body cannot be dripped byte by byte for ever.
            bought_s = bite_bytes / limits.body_bytes_per_s_min
            self._stamp_s = min(self._stamp_s + bought_s, self.dates.now_s)
            self._raw_bytes += bite_bytes
            framing_max = limits.header_bytes_max + self._bite_bytes
            if self._raw_bytes > framing_max + _FRAMING_FACTOR * self._body_bytes:
                self._refuse(RefusedError(400, "there is more framing than body"))

    def _check_size(self) -> None:
        if len(self._headers) > self._header_count_max:
            raise RefusedError(431, "there are too many headers")
        size_bytes = sum(len(name) + len(value) + 4 for name, value in self._headers)
        if size_bytes > self.shared.limits.header_bytes_max:
            raise RefusedError(431)

    def _begin(self, exchange: Exchange, *, is_rare: bool) -> None:
        """The head is complete. Raises: RefusedError when the body is too long to go anywhere."""
        if self._edge is not None:
            self._edge.note(exchange)
        self._phase = BODY
        self._body_bytes = 0
        self._raw_bytes = 0
        self._arriving = exchange
        self._pipeline.append(exchange)
        self._admit(exchange, is_rare)

    def _admit(self, exchange: Exchange, is_rare: bool) -> None:
        """Decides where the body goes. Raises: RefusedError when it is too long to go anywhere."""
        shared = self.shared
        fields = exchange.fields
        self._was_used = True
        if is_rare and self._parser.should_upgrade() and self._upgrade(exchange):
            return
        is_call = exchange.route is None and shared.asgi_app is not None and exchange.path != b"*"
        limits = shared.limits
        self._body_bytes_max = limits.asgi_body_bytes_max if is_call else limits.call_body_bytes_max
        length = fields.get(b"content-length")
        if length is not None and int(length) > self._body_bytes_max:
            raise RefusedError(413)
        self._owes_continue = (
            is_rare
            and b"expect" in fields
            and exchange.http_version == "1.1"
            and (b"transfer-encoding" in fields or length not in (None, b"0"))
        )
        if is_call:
            exchange.call = AsgiCall(self, exchange)
        if self._owes_continue or is_call:
            self._begin_first()

    def _upgrade(self, exchange: Exchange) -> bool:
        """Returns whether the connection becomes a WebSocket; other upgrades are ignored."""
        if exchange.fields[b"upgrade"].lower() != b"websocket":
            self._phase = IGNORED_UPGRADE
            return False
        check_handshake(exchange)
        route, exchange.route = exchange.route, None
        subscribe = None if route is None else self.shared.endpoint.subscriber(route)
        if (subscribe is None and self.shared.asgi_app is None) or self.dates.closing:
            exchange.keep_alive = False
            return False
        if subscribe is None:
            self._successor = WebSocketConnection(self, exchange)
        else:
            self._successor = LiveSocket(self, exchange, subscribe)
        exchange.call = self._successor
        return True

    def _leave_parser(self, rest: bytes) -> None:
        """The parser stopped behind a head with Upgrade, and took the body for another protocol."""
        if self._successor is not None:
            self._begin_first()
            if rest:
                self._successor.data_received(rest)
        elif self._phase == IGNORED_UPGRADE:
            self._phase = BODY
            exchange = cast("Exchange", self._arriving)
            self._parser = parser_behind_head(self, exchange)
            self._feed(rest)

    def _refusal_of(self, error: Exception) -> RefusedError:
        cause = error.__context__
        if isinstance(cause, RefusedError):
            return cause
        if isinstance(error, httptools.HttpParserCallbackError):
            logger.error("request failed while it was read", exc_info=cause)
            return RefusedError(500)
        return refusal_of_syntax(str(error))

    # --- the pipeline

    def _complete_unrouted(self, exchange: Exchange) -> None:
        if exchange.call is not None:
            exchange.call.complete()
            if exchange.call is self._successor:
                self._phase = DONE
        elif exchange.path == b"*":
            exchange.reply(204, b"")
        elif b"upgrade" in exchange.fields and self.dates.closing:
            exchange.reply(503, problem(503, "stopping", "The server is stopping"), CONTENT_TYPE)
        else:
            exchange.reply(404, problem(404, "not-found", "Nothing is here"), CONTENT_TYPE)

    # --- endings

    def _refuse(self, refusal: RefusedError) -> None:
        self.shared.requests_refused += 1
        logger.debug("request refused", extra={"status": refusal.status, "why": refusal.detail})
        exchange = self._arriving
        self._phase = DONE
        self._is_lingering = True
        if exchange is None:
            exchange = self._placeholder()
        elif exchange.call is not None and not exchange.call.give_up():
            self.abort()
            return
        exchange.reply(refusal.status, refusal.body(), CONTENT_TYPE, refusal.extra)

    def _refuse_connection(self) -> None:
        self._phase = DONE
        self._is_lingering = True
        body = problem(503, "too-many-connections", "The server has too many connections")
        self._placeholder().reply(503, body, CONTENT_TYPE, b"retry-after: 1\r\n")

    def _placeholder(self) -> Exchange:
        """An exchange for a reply to what never became a request."""
        exchange = Exchange(
            b"", b"", b"", [], {}, self.client, self.scheme, "1.1", self, False, False
        )
        if self._edge is not None:
            self._edge.note(exchange)
        self._pipeline.append(exchange)
        return exchange
