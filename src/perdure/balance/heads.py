"""Heads of requests and answers: read strictly, and written anew for the other side.

It exists because a balancer that passes on what two parties could read differently is the tool of
request smuggling. What is not exactly the grammar of RFC 9112 is refused; what is passed on was
taken apart and put together again. Everything here is a pure function of bytes.

The parser is our own and not httptools, which does not say where a message ends in what it was fed,
cannot stop there, and calls back for every field. Tests compare the two.

Invariants:
- A message has one framing: a length, or chunked, or no body; an answer may also end with its
  connection.
- No hop-by-hop field gets to the other side, nor anything that only a trusted proxy may say.
"""

import re

import msgspec

from perdure.base.request_ids import request_id_of
from perdure.web.replies import status_line
from perdure.web.request_head import RefusedError, check_fields, check_host

CHUNKED = -1  # instead of a length
UNTIL_CLOSE = -2

REQUEST_LINE = re.compile(rb"([A-Z]++(?:-[A-Z]++)*+) ([!-~]++) (?=HTTP/([0-9]\.[0-9])\r\n)")

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_FIELD = rb"(%b):([\t\x20-\x7e\x80-\xff]*+)\r\n" % _TOKEN
_FIELDS = re.compile(rb"(?:%b:[\t\x20-\x7e\x80-\xff]*+\r\n)*+\r\n" % _TOKEN)
_EACH_FIELD = re.compile(_FIELD)
_STATUS_LINE = re.compile(rb"HTTP/(1\.[01]) ([1-9][0-9][0-9])(?: [\t\x20-\x7e\x80-\xff]*+)?\r\n")
_VERSION_LINE_BYTES = len(b"HTTP/1.1\r\n")
_LENGTH = re.compile(rb"[0-9]{1,18}")

_HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
_FRAMING = frozenset((b"host", b"content-length", b"transfer-encoding"))
_REQUEST_ID = b"x-request-id"
_ASSERTED = re.compile(rb"forwarded|x-forwarded-[a-z-]+|x-real-ip")  # by whoever is trusted


class RequestHead(msgspec.Struct, frozen=True):
    """All that a request says besides its method and target; connections keep the last one."""

    raw: bytes  # from the version to the empty line
    fields: dict[bytes, bytes]
    lines: bytes  # for the backend: the fields, without the empty line
    length: int  # or CHUNKED
    is_old: bool  # HTTP/1.0
    keeps_alive: bool
    expects_continue: bool
    is_websocket: bool
    has_idempotency_key: bool
    request_id: bytes  # empty if it has none that is fit to be passed on


class AnswerHead(msgspec.Struct, frozen=True):
    """The head of an answer."""

    status: int
    start: bytes  # status line and fields for the client, without framing, and no empty line
    length: int  # or CHUNKED or UNTIL_CLOSE; what it says, though HEAD and 304 have no body
    whole: bytes  # the whole head for a client that stays, when the answer has a length
    keeps_alive: bool
    has_retry_after: bool
    is_websocket: bool


class BadAnswerError(Exception):
    """Raised when what a backend sent is not an answer that can be passed on."""


class Peer(msgspec.Struct, frozen=True):
    """The client of a connection as requests on it are told to backends."""

    address: str  # empty for a Unix socket
    scheme: str
    is_trusted: bool = False  # what it says about others is passed on
    via: bytes = b""  # our name in Via, if we are to have one


def parse_request(raw: bytes, peer: Peer) -> RequestHead:
    """Reads a request from its version to the empty line. Raises: RefusedError."""
    headers = _fields_of(raw, _VERSION_LINE_BYTES)
    if headers is None:
        raise RefusedError(400, "a header field is malformed")
    fields = dict(headers)
    version = raw[5:8].decode()
    check_fields(b"", version, headers, fields)
    check_host(fields.get(b"host"), version)
    length = _request_length(fields)
    options = _options_of(headers)
    if not _FRAMING.isdisjoint(options):
        raise RefusedError(400, "Connection names what belongs to the message")
    is_old = version == "1.0"
    is_websocket = (
        b"upgrade" in options and fields.get(b"upgrade", b"").lower() == b"websocket" and not is_old
    )
    if is_websocket and length:
        raise RefusedError(400, "an upgrade has no body")
    expects_continue = b"expect" in fields and not is_old and length != 0
    dropped = _HOP_BY_HOP | options
    if not expects_continue:
        dropped |= {b"expect"}
    request_id = fields.get(_REQUEST_ID, b"")
    if request_id_of(request_id) is None:
        request_id = b""
        dropped |= {_REQUEST_ID}
    kept = [
        (name, value)
        for name, value in headers
        if name not in dropped
        and (peer.is_trusted or not _ASSERTED.fullmatch(name.replace(b"_", b"-")))
    ]
    return RequestHead(
        raw,
        fields,
        _lines_for_backend(kept, fields, peer, length, is_websocket=is_websocket),
        length,
        is_old,
        b"keep-alive" in options if is_old else b"close" not in options,
        expects_continue,
        is_websocket,
        b"idempotency-key" in fields,
        request_id,
    )


def parse_answer(raw: bytes) -> AnswerHead:
    """Reads the head of an answer, with its empty line. Raises: BadAnswerError."""
    line = _STATUS_LINE.match(raw)
    headers = None if line is None else _fields_of(raw, line.end())
    if line is None or headers is None:
        raise BadAnswerError("the head is malformed")
    status = int(line[2])
    fields = dict(headers)
    options = _options_of(headers)
    length = _answer_length(headers, line[1])
    dropped = _HOP_BY_HOP | (options - _FRAMING)
    if length < 0 or status < 200 or status == 204:
        dropped |= {b"content-length"}
    start = status_line(status) + b"".join(
        [b"%b: %b\r\n" % field for field in headers if field[0] not in dropped]
    )
    return AnswerHead(
        status,
        start,
        length,
        start + b"\r\n",
        b"close" not in options if line[1] == b"1.1" else b"keep-alive" in options,
        b"retry-after" in fields,
        status == 101 and fields.get(b"upgrade", b"").lower() == b"websocket",
    )


def _fields_of(raw: bytes, start: int) -> list[tuple[bytes, bytes]] | None:
    if not _FIELDS.fullmatch(raw, start):
        return None
    return [(name.lower(), value.strip()) for name, value in _EACH_FIELD.findall(raw, start)]


def _options_of(headers: list[tuple[bytes, bytes]]) -> frozenset[bytes]:
    """What the Connection fields list, in lower case."""
    listed = [value for name, value in headers if name == b"connection"]
    return frozenset(one.strip().lower() for value in listed for one in value.split(b",")) - {b""}


def _request_length(fields: dict[bytes, bytes]) -> int:
    length = fields.get(b"content-length")
    if b"transfer-encoding" in fields:
        if length is not None:
            raise RefusedError(400, "Content-Length beside Transfer-Encoding")
        return CHUNKED
    if length is None:
        return 0
    if not _LENGTH.fullmatch(length):
        raise RefusedError(400, "Content-Length is malformed")
    return int(length)


def _answer_length(headers: list[tuple[bytes, bytes]], version: bytes) -> int:
    lengths = [value for name, value in headers if name == b"content-length"]
    codings = [value.lower() for name, value in headers if name == b"transfer-encoding"]
    if codings:
        if codings != [b"chunked"] or version == b"1.0" or lengths:
            raise BadAnswerError("the transfer coding is not just chunked")
        return CHUNKED
    if not lengths:
        return UNTIL_CLOSE
    if len(lengths) > 1 or not _LENGTH.fullmatch(lengths[0]):
        raise BadAnswerError("Content-Length is malformed or repeated")
    return int(lengths[0])


def _lines_for_backend(
    kept: list[tuple[bytes, bytes]],
    fields: dict[bytes, bytes],
    peer: Peer,
    length: int,
    *,
    is_websocket: bool,
) -> bytes:
    lines = list(kept)
    if length == CHUNKED:
        lines.append((b"transfer-encoding", b"chunked"))
    if is_websocket:
        lines += [(b"connection", b"upgrade"), (b"upgrade", b"websocket")]
    lines = _with_forwarding(lines, fields.get(b"host"), peer)
    if b"host" not in fields:  # HTTP/1.0; we speak 1.1, where it must be there
        lines.append((b"host", b"localhost"))
    if peer.via:
        lines.append((b"via", b"1.1 " + peer.via))
    return b"".join([b"%b: %b\r\n" % line for line in lines])


def _with_forwarding(
    lines: list[tuple[bytes, bytes]], host: bytes | None, peer: Peer
) -> list[tuple[bytes, bytes]]:
    """Adds who asks, to what a trusted proxy said about those before it."""
    given = dict(lines)
    address = peer.address.encode() or b"unknown"
    scheme = peer.scheme.encode()
    element = b'for="[%b]"' % address if b":" in address else b"for=%b" % address
    element += b";proto=%b" % scheme
    if host:
        element += b';host="%b"' % host
    lists = {b"x-forwarded-for": address, b"forwarded": element}
    result = [line for line in lines if line[0] not in lists]
    for name, ours in lists.items():
        before = [value for other, value in lines if other == name]
        result.append((name, b", ".join([*before, ours])))
    if b"x-forwarded-proto" not in given:
        result.append((b"x-forwarded-proto", scheme))
    if b"x-forwarded-host" not in given and host:
        result.append((b"x-forwarded-host", host))
    return result
