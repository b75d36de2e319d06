"""How a reply becomes bytes: status lines, header lines, the Date of the current second.

It exists apart from the protocol so that everything about the outgoing format can be read and
tested without a socket.

Invariants:
- Nothing an application passes can end a header line early: names and values with CR, LF or NUL
  are refused with `InvalidReplyError` before a byte is written.
- The head of a 200 JSON reply is built once per second, not once per reply.
"""

import re
import sys
import time
from collections.abc import Iterable
from email.utils import formatdate
from http import HTTPStatus

JSON = b"application/json"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
CLOSE_LINE = b"connection: close\r\n"
KEEP_ALIVE_LINE = b"connection: keep-alive\r\n"  # HTTP/1.0 clients must be told

_STATUS_LINES = {s.value: b"HTTP/1.1 %d %b\r\n" % (s, s.phrase.encode()) for s in HTTPStatus}
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(rb"[^\x00\r\n]*")


class InvalidReplyError(Exception):
    """Raised when an application's reply cannot be sent as it is: a bug in the application."""


class DateLine:
    """The Date header line, and the head that begins with it, rebuilt when `refresh` is called.

    `now_s` is the coarse monotonic clock of the sweeper, and `closing` says that connections are
    being wound up. Both live here because every reply reads this object anyway.
    """

    __slots__ = ("closing", "json_ok", "line", "now_s", "plain_bytes_max", "plain_replies")

    def __init__(self) -> None:
        self.closing = False
        self.plain_bytes_max = sys.maxsize  # a longer body is compressed
        self.plain_replies = 0  # 200 with JSON, as most are
        self.now_s = time.monotonic()
        self.refresh(time.time())

    def refresh(self, now: float) -> None:
        """Rebuilds the cached lines for `now`, in seconds since the epoch."""
        self.line = b"date: %b\r\n" % formatdate(now, usegmt=True).encode()
        # Ends where the digits of the length go, so that a reply is one formatting operation.
        self.json_ok = (
            b"HTTP/1.1 200 OK\r\n%bcontent-type: application/json\r\ncontent-length: " % self.line
        )


def status_line(status: int) -> bytes:
    """Returns the status line; an unregistered status gets an empty reason, which is allowed."""
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status


def has_body(status: int) -> bool:
    """Returns whether replies with this status carry a body at all (RFC 9110, 6.4.1)."""
    return status >= 200 and status not in (204, 304)


def check_status(status: object) -> int:
    """Returns a final status code. Raises: InvalidReplyError when it is not one."""
    if not isinstance(status, int) or not 200 <= status <= 999:
        raise InvalidReplyError("the status of a response must be an integer from 200 to 999")
    return status


def checked_headers(headers: Iterable[Iterable[bytes]]) -> list[tuple[bytes, bytes]]:
    """Returns the headers with lowercase names.

    Raises: InvalidReplyError when a name or value could break out of its line.
    """
    checked = []
    for name, value in headers:
        if not _NAME.fullmatch(name):
            raise InvalidReplyError("a header name of the response is not a token")
        if not _VALUE.fullmatch(value):
            # The value stays out of the message: it may be a cookie.
            raise InvalidReplyError("a header value of the response holds CR, LF or NUL")
        checked.append((bytes(name).lower(), bytes(value)))
    return checked


def headers_of(lines: bytes) -> list[tuple[bytes, bytes]]:
    """Returns the names and values of ready header lines."""
    split = [line.partition(b": ") for line in lines.split(b"\r\n")[:-1]]
    return [(name, value) for name, _, value in split]


def header_lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Returns the header lines, each ending in CRLF."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])
