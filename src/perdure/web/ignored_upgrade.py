"""How an `Upgrade` header is ignored without losing the body behind it.

httptools takes all that follows a head with `Upgrade` for the other protocol, body included. An
upgrade that we ignore must not become a way to smuggle a request, so a new parser is led to the
same place by a head with the same framing and no `Upgrade`.
"""

from typing import Protocol

import httptools

from perdure.web.exchange import Exchange


class Callbacks(Protocol):
    """What httptools calls."""

    def on_message_begin(self) -> None: ...
    def on_url(self, part: bytes) -> None: ...
    def on_header(self, name: bytes, value: bytes) -> None: ...
    def on_headers_complete(self) -> None: ...
    def on_body(self, data: bytes) -> None: ...
    def on_message_complete(self) -> None: ...


class _BehindHead:
    """Passes a parser's callbacks on, except those of the first head."""

    def __init__(self, callbacks: Callbacks) -> None:
        self._callbacks = callbacks
        self._is_behind = False
        self.on_body = callbacks.on_body
        self.on_message_complete = callbacks.on_message_complete

    def on_message_begin(self) -> None:
        if self._is_behind:
            self._callbacks.on_message_begin()

    def on_url(self, part: bytes) -> None:
        if self._is_behind:
            self._callbacks.on_url(part)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_behind:
            self._callbacks.on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._is_behind:
            self._callbacks.on_headers_complete()
        self._is_behind = True


def parser_behind_head(callbacks: Callbacks, exchange: Exchange) -> httptools.HttpRequestParser:
    """Returns a parser that stands at the beginning of this exchange's body."""
    parser = httptools.HttpRequestParser(_BehindHead(callbacks))
    head = b"POST / HTTP/1.1\r\n"
    for name in (b"content-length", b"transfer-encoding"):
        if name in exchange.fields:
            head += b"%b: %b\r\n" % (name, exchange.fields[name])
    if not exchange.keep_alive:
        head += b"connection: close\r\n"
    parser.feed_data(head + b"\r\n")
    return parser
