"""What a request's head must be before the server does anything with it.

It exists because httptools, strict as it is, leaves the rules of RFC 9112 that need more than one
header to its user. Everything here is a pure function of the parsed head: no socket, no clock.

Invariants:
- A request whose framing two parties could read differently is refused, never repaired.
- The plain case costs one dictionary lookup per rule; all else is behind `_RARE`.
"""

import re
from ipaddress import IPv6Address

from perdure.web.problems import problem

_HOST = re.compile(
    rb"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|\[[Vv][0-9A-Fa-f]+\.[A-Za-z0-9._~!$&'()*+,;=:-]+\]"
    rb"|(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)(?::(?:0*(?P<port>[0-9]{1,5}))?)?"
)
_PORT_MAX = 65_535
_ABSOLUTE = re.compile(rb"https?://([^/?#]+)([^#]*)", re.IGNORECASE)
_HASH = ord("#")  # a number is looked for at once, bytes only after a failed attempt at one
_RARE = frozenset((b"transfer-encoding", b"expect", b"upgrade"))
_SINGLE = frozenset((b"host", b"content-length", b"transfer-encoding", b"expect"))

_SYNTAX_STATUSES = {
    "Invalid method encountered": 501,
    "Invalid HTTP version": 505,
    "Expected HTTP/2 Connection Preface": 505,
    "Pause on PRI/Upgrade": 505,
    "Content-Length overflow": 413,
    "Chunk size overflow": 413,
}

_TITLES = {
    400: ("bad-request", "The request is malformed"),
    408: ("request-timeout", "The request did not arrive in time"),
    413: ("body-too-large", "The body is too large"),
    414: ("target-too-long", "The request target is too long"),
    417: ("expectation-failed", "The expectation is not supported"),
    426: ("upgrade-required", "The WebSocket version is not supported"),
    431: ("header-too-large", "The header block is too large"),
    500: ("internal", "Internal error"),
    501: ("not-implemented", "The method or transfer coding is not implemented"),
    505: ("version-not-supported", "Only HTTP/1.0 and HTTP/1.1 are spoken here"),
}


class RefusedError(Exception):
    """Raised when a request must be answered with `status` and its connection closed."""

    def __init__(self, status: int, detail: str | None = None, extra: bytes = b"") -> None:
        super().__init__(status, detail)
        self.status = status
        self.detail = detail
        self.extra = extra

    def body(self) -> bytes:
        """Returns the problem body."""
        kind, title = _TITLES[self.status]
        return problem(self.status, kind, title, self.detail)


def refusal_of_syntax(reason: str) -> RefusedError:
    """Returns the answer to what the parser itself refused, for the `reason` it gave.

    The parser gives up at the first byte that no known method has there, so noise, such as a TLS
    hello sent to a plain port, cannot be told from a method nobody knows: both are 501.
    """
    return RefusedError(_SYNTAX_STATUSES.get(reason, 400), reason)


def check_fields(
    method: bytes, version: str, headers: list[tuple[bytes, bytes]], fields: dict[bytes, bytes]
) -> bool:
    """Checks everything but Host, target and sizes; returns whether a rare header is present.

    Raises: RefusedError.
    """
    if version not in ("1.1", "1.0"):
        raise RefusedError(505)
    if method == b"CONNECT":
        raise RefusedError(501, "this is not a proxy")
    if len(fields) != len(headers):
        _check_repeated([name for name, _ in headers])
    if _RARE.isdisjoint(fields):
        return False
    coding = fields.get(b"transfer-encoding")
    if coding is not None:
        _check_coding(coding, version)
    expectation = fields.get(b"expect")
    if expectation is not None and version == "1.1" and expectation.lower() != b"100-continue":
        raise RefusedError(417)
    return True


def check_host(host: bytes | None, version: str) -> None:
    """Raises: RefusedError when Host is malformed, or missing where HTTP/1.1 demands it."""
    if host is None:
        if version == "1.1":
            raise RefusedError(400, "Host is missing")
    elif not host or not (found := _HOST.fullmatch(host)) or not _exists(found):
        raise RefusedError(400, "Host is malformed")


def split_target(method: bytes, target: bytes, host: bytes | None) -> tuple[bytes, bytes]:
    """Returns path and query, raw, of a target in origin, asterisk or absolute form.

    Raises: RefusedError.
    """
    if _HASH in target:
        raise RefusedError(400, "a target has no fragment")
    if target[:1] == b"/":
        path, _, query = target.partition(b"?")
        return path, query
    if target == b"*" and method == b"OPTIONS":
        return target, b""
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None:
        raise RefusedError(400, "the target is malformed")
    # RFC 9112 lets the authority win over Host. A request that names two hosts is refused
    # instead: whoever routed it before us may have believed the other one.
    if host is not None and absolute[1].lower() != host.lower():
        raise RefusedError(400, "the target and Host name different hosts")
    check_host(absolute[1], "1.1")
    path, _, query = absolute[2].partition(b"?")
    return path or b"/", query


def _exists(host: re.Match[bytes]) -> bool:
    """Returns whether there can be such a port, and such an address."""
    if host["port"] is not None and int(host["port"]) > _PORT_MAX:
        return False
    try:
        return host["ipv6"] is None or bool(IPv6Address(host["ipv6"].decode()))
    except ValueError:
        return False


def _check_repeated(names: list[bytes]) -> None:
    for name in _SINGLE:
        if names.count(name) > 1:
            raise RefusedError(400, f"{name.decode()} is repeated")


def _check_coding(coding: bytes, version: str) -> None:
    if version == "1.0":
        raise RefusedError(400, "Transfer-Encoding does not exist in HTTP/1.0")
    codings = [part.strip().lower() for part in coding.split(b",")]
    if codings[-1] != b"chunked" and b"chunked" in codings:
        raise RefusedError(400, "chunked must be the last transfer coding")
    if codings != [b"chunked"]:
        raise RefusedError(501, "the only transfer coding is chunked")
