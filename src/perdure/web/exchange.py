"""One request and its one reply.

It exists as the only thing the fast path and the protocol share: the route reads the request from
it and calls `reply` once, now or many turns later, and the protocol keeps the order of replies.

Invariants:
- One exchange, one reply: a second one is a bug and an AssertionError.
- After the client has gone, `closed` is true and a reply goes nowhere, silently.
- Nothing of a request shows in `repr`: headers and bodies hold secrets and reprs end up in logs.
"""

from typing import Any, Protocol

import msgspec

from perdure.base.errors import DeadlineError
from perdure.base.trail import Trail
from perdure.runtime.live import Subscription
from perdure.web.compression import INLINE_BYTES_MAX, compressed, is_compressible
from perdure.web.problems import CONTENT_TYPE, problem_of
from perdure.web.replies import CLOSE_LINE, JSON, KEEP_ALIVE_LINE, DateLine, has_body, status_line


class Connection(Protocol):
    """What an exchange needs of the connection it came on."""

    dates: DateLine
    replies: list[int]  # how many were given, by the class of their status, without plain ones

    def answer(self, exchange: "Exchange", data: bytes) -> None:
        """Writes `data`, the whole reply, as soon as all earlier replies are written."""

    def keeps_alive(self, exchange: "Exchange") -> bool:
        """Says whether the connection stays open after this reply; False ends its reading."""

    def scope_of(self, exchange: "Exchange") -> dict[str, Any]:
        """Returns the request as an ASGI http scope."""

    def stream(self, exchange: "Exchange", subscription: Subscription) -> None:
        """Becomes an event stream when all earlier replies are written."""


# A Struct and not a plain class: its constructor is C, and one is built for every request.
class Exchange(msgspec.Struct, eq=False):
    """A request whose head was checked, and the place where its reply goes."""

    method: bytes
    path: bytes  # raw: still percent-encoded
    query: bytes
    headers: list[tuple[bytes, bytes]]  # names lowercased
    fields: dict[bytes, bytes]  # the same, for look-up; of a repeated name the last line
    client: tuple[str, int] | None
    scheme: str
    http_version: str
    connection: Connection
    keep_alive: bool  # what the request asked for, until the reply decides otherwise
    is_plain: bool  # a plain reply to it has nothing special in its head
    route: object = None  # what Endpoint.match returned; None goes to the ASGI app
    call: Any = None  # the AsgiCall of an exchange that goes to the ASGI app
    body: bytes = b""
    closed: bool = False
    replied: bool = False
    ready: bytes | None = None  # a reply that waits for earlier ones
    lines: bytes = b""  # header lines, each ending in CRLF, that every answer to it has
    request_id: bytes = b""  # this and what follows: only where an Edge looks at requests
    trail: Trail | None = None
    span: Any = None  # while it is recorded
    began_s: float = 0.0
    status: int = 0
    sent_bytes: int = 0  # of an answer in several parts, all but the last
    expires_s: float = 0.0  # by the sweeper's clock; set at the first sweep that sees it

    def header(self, name: bytes) -> bytes | None:
        """Returns a header by its lowercase name; repeated lines are joined (RFC 9110, 5.2)."""
        if len(self.fields) == len(self.headers):
            return self.fields.get(name)
        separator = b"; " if name == b"cookie" else b", "
        return separator.join(v for n, v in self.headers if n == name) or self.fields.get(name)

    def reply(
        self, status: int, body: bytes, content_type: bytes = JSON, extra: bytes = b""
    ) -> None:
        """Sends the one reply; `extra` is ready header lines, each ending in CRLF."""
        if self.closed:
            return
        assert not self.replied, "an exchange was replied to twice"
        self.replied = True
        connection = self.connection
        dates = connection.dates
        if (
            status == 200
            and self.is_plain
            and content_type == JSON
            and not dates.closing
            and len(body) <= dates.plain_bytes_max
        ):
            head = dates.json_ok
            dates.plain_replies += 1
            connection.answer(self, b"%b%d\r\n%b\r\n%b" % (head, len(body), extra, body))
        else:
            connection.replies[status // 100] += 1
            connection.answer(self, self._rendered(status, body, content_type, extra))

    def stream(self, subscription: Subscription) -> None:
        """Answers with the events of a live view, instead of a reply, for as long as both live."""
        if self.closed:
            subscription.close()
        else:
            self.connection.stream(self, subscription)

    def reply_problem(self, error: BaseException) -> None:
        """Sends the problem document that answers `error`."""
        status, body, extra = problem_of(error)
        self.reply(status, body, CONTENT_TYPE, extra)

    def asgi_scope(self) -> dict[str, Any]:
        """Returns the request as an ASGI http scope."""
        return self.connection.scope_of(self)

    def expire(self) -> None:
        """Gives up waiting for an actor's answer; what comes later goes nowhere."""
        self.reply_problem(DeadlineError("no answer within the deadline; the outcome is unknown"))
        self.closed = True

    def connection_line(self) -> bytes:
        """Decides whether the connection stays open, and returns the header line that says so."""
        self.keep_alive = self.connection.keeps_alive(self)
        if not self.keep_alive:
            return CLOSE_LINE
        return KEEP_ALIVE_LINE if self.http_version == "1.0" else b""

    def id_line(self) -> bytes:
        """The header line with the request's id, if it has one."""
        return b"x-request-id: %b\r\n" % self.request_id if self.request_id else b""

    def own_lines(self) -> bytes:
        """The header lines that every answer to it has, whatever it is."""
        return self.lines + self.id_line()

    def _rendered(self, status: int, body: bytes, content_type: bytes, extra: bytes) -> bytes:
        dates = self.connection.dates
        if dates.plain_bytes_max < len(body) <= INLINE_BYTES_MAX and is_compressible(content_type):
            body, more = compressed(body, self.header(b"accept-encoding"))
            extra += more
        self.status = status
        lines = [status_line(status), dates.line, self.connection_line(), self.own_lines(), extra]
        if has_body(status):
            lines.append(b"content-type: %b\r\ncontent-length: %d\r\n" % (content_type, len(body)))
        lines.append(b"\r\n")
        if has_body(status) and self.method != b"HEAD":
            lines.append(body)
        return b"".join(lines)

    def __repr__(self) -> str:
        return f"<Exchange {self.method!r} closed={self.closed} replied={self.replied}>"
