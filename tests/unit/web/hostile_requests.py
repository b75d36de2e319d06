"""Hostile or odd requests, each with the exact answer. `docs/hostile-requests.md` shows them.

Written from RFC 9110 and RFC 9112, from the known request smuggling variants, and from what other
servers get wrong.
"""

from dataclasses import dataclass

LIMITS = {
    "header_timeout_s": 0.2,
    "body_timeout_s": 0.2,
    "idle_timeout_s": 0.2,
    "header_bytes_max": 4096,
    "header_count_max": 20,
    "target_bytes_max": 512,
    "call_body_bytes_max": 1000,
    "asgi_body_bytes_max": 2000,
    "pipeline_depth_max": 8,
}


@dataclass(frozen=True)
class Case:
    group: str
    name: str
    raw: bytes
    statuses: tuple[int, ...]  # of all the answers, in order
    stays_open: bool = False

    @property
    def to_head(self) -> bool:
        return self.raw.startswith(b"HEAD ")


CASES: list[Case] = []

_HOST = b"Host: a\r\n"
_GET = b"GET /call/x HTTP/1.1\r\n"
_POST = b"POST /call/x HTTP/1.1\r\n" + _HOST
_APP = b"POST /app HTTP/1.1\r\n" + _HOST
_CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
_UPGRADE = b"Connection: Upgrade\r\nUpgrade: "
_SOCKET = (
    _UPGRADE + b"websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


def _case(group: str, name: str, raw: bytes, *statuses: int, stays_open: bool = False) -> None:
    CASES.append(Case(group, name, raw, statuses, stays_open))


def _line(name: str, line: bytes, *statuses: int, stays_open: bool = False) -> None:
    _case("Request line", name, line + b"\r\n" + _HOST + b"\r\n", *statuses, stays_open=stays_open)


def _field(name: str, fields: bytes, *statuses: int, stays_open: bool = False) -> None:
    raw = _GET + _HOST + fields + b"\r\n\r\n"
    _case("Header fields", name, raw, *statuses, stays_open=stays_open)


def _host(name: str, lines: bytes, *statuses: int, stays_open: bool = False) -> None:
    _case("Host", name, _GET + lines + b"\r\n", *statuses, stays_open=stays_open)


def _length(name: str, lines: bytes, *statuses: int, stays_open: bool = False) -> None:
    _case("Body length", name, _POST + lines + b"\r\n\r\nabc", *statuses, stays_open=stays_open)


def _coding(name: str, coding: bytes, *statuses: int, stays_open: bool = False) -> None:
    raw = _POST + b"Transfer-Encoding:" + coding + b"\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    _case("Transfer coding", name, raw, *statuses, stays_open=stays_open)


def _chunks(name: str, chunks: bytes, *statuses: int, stays_open: bool = False) -> None:
    _case("Chunks", name, _POST + _CHUNKED + chunks, *statuses, stays_open=stays_open)


_line("plain", b"GET /call/x HTTP/1.1", 200, stays_open=True)
_line("HTTP/1.0 closes", b"GET /call/x HTTP/1.0", 200)
_line("bare LF at the end", b"GET /call/x HTTP/1.1\nX: y", 400)
_line("bare CR at the end", b"GET /call/x HTTP/1.1\rX: y", 400)
_line("two CR at the end", b"GET /call/x HTTP/1.1\r", 400)
_line("space at the end", b"GET /call/x HTTP/1.1 ", 400)
_line("word at the end", b"GET /call/x HTTP/1.1 x", 400)
_line("NUL at the end", b"GET /call/x HTTP/1.1\x00", 400)
_line("space before the method", b" GET /call/x HTTP/1.1", 501)
_line("two spaces before the target", b"GET  /call/x HTTP/1.1", 200, stays_open=True)
_line("two spaces behind the target", b"GET /call/x  HTTP/1.1", 200, stays_open=True)
_line("tab behind the method", b"GET\t/call/x HTTP/1.1", 400)
_line("tab behind the target", b"GET /call/x\tHTTP/1.1", 400)
_line("method in lower case", b"get /call/x HTTP/1.1", 501)
_line("unknown method", b"BREW /call/x HTTP/1.1", 501)
_line("RTSP method", b"DESCRIBE /call/x HTTP/1.1", 400)
_line("method with a bracket", b"G(T /call/x HTTP/1.1", 501)
_line("CONNECT", b"CONNECT a:80 HTTP/1.1", 501)
_line("HTTP/0.9 with headers", b"GET /call/x", 505)
_line("HTTP/0.9 by name", b"GET /call/x HTTP/0.9", 505)
_line("HTTP/1.2", b"GET /call/x HTTP/1.2", 505)
_line("HTTP/2.0", b"GET /call/x HTTP/2.0", 505)
_line("HTTP/3.0", b"GET /call/x HTTP/3.0", 505)
_line("HTTP/1.10", b"GET /call/x HTTP/1.10", 400)
_line("HTTP/1", b"GET /call/x HTTP/1", 400)
_line("version in lower case", b"GET /call/x http/1.1", 400)
_line("unknown protocol", b"GET /call/x XTTP/1.1", 400)
_line("RTSP/1.0 is taken for HTTP/1.0", b"GET /call/x RTSP/1.0", 200)
_line("ICE/1.0 is taken for HTTP/1.0", b"SOURCE /call/x ICE/1.0", 200)
_line("no target", b"GET HTTP/1.1", 400)
_line("relative target", b"GET call/x HTTP/1.1", 400)
_line("query only", b"GET ?x HTTP/1.1", 400)
_line("asterisk with GET", b"GET * HTTP/1.1", 400)
_line("asterisk with OPTIONS", b"OPTIONS * HTTP/1.1", 204, stays_open=True)
_line("fragment", b"GET /call/x#y HTTP/1.1", 400)
_line("NUL in the target", b"GET /call/\x00 HTTP/1.1", 400)
_line("control character in the target", b"GET /call/\x01 HTTP/1.1", 400)
_line("DEL in the target", b"GET /call/\x7f HTTP/1.1", 400)
_line("raw UTF-8 in the target", b"GET /call/\xc3\xa4 HTTP/1.1", 400)
_line("percent-encoded NUL goes to the route", b"GET /call/%00 HTTP/1.1", 200, stays_open=True)
_line("two slashes", b"GET //call/x HTTP/1.1", 200, stays_open=True)
_line("dots are not resolved", b"GET /call/../app HTTP/1.1", 200, stays_open=True)
_line("absolute target", b"GET http://a/call/x?y HTTP/1.1", 200, stays_open=True)
_line("absolute target in capitals", b"GET HTTP://A/call/x HTTP/1.1", 200, stays_open=True)
_line("absolute target without path", b"GET http://a HTTP/1.1", 200, stays_open=True)
_line("absolute target for another host", b"GET http://b/call/x HTTP/1.1", 400)
_line("absolute target with a user", b"GET http://u@a/call/x HTTP/1.1", 400)
_line("absolute target without host", b"GET http:///call/x HTTP/1.1", 400)
_line("absolute target of another scheme", b"GET ftp://a/call/x HTTP/1.1", 400)
_line(
    "target of the greatest length", b"GET /call/" + b"x" * 506 + b" HTTP/1.1", 200, stays_open=True
)
_line("target one byte too long", b"GET /call/" + b"x" * 507 + b" HTTP/1.1", 414)
_case("Request line", "endless target", b"GET /" + b"x" * 9000, 414)
_case("Request line", "TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 501)
_case("Request line", "HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00", 505)
_case(
    "Request line",
    "empty lines before it",
    b"\r\n\r\n" + _GET + _HOST + b"\r\n",
    200,
    stays_open=True,
)
_case("Request line", "nothing but empty lines", b"\r\n" * 50)
_case(
    "Request line",
    "HEAD has no body",
    b"HEAD /call/x HTTP/1.1\r\nHost: a\r\n\r\n",
    200,
    stays_open=True,
)

_host("missing", b"", 400)
_host("twice", _HOST + _HOST, 400)
_host("twice and different", _HOST + b"Host: b\r\n", 400)
_host("empty", b"Host:\r\n", 400)
_host("with a space", b"Host: a b\r\n", 400)
_host("list", b"Host: a, b\r\n", 400)
_host("with a path", b"Host: a/b\r\n", 400)
_host("with a user", b"Host: u@a\r\n", 400)
_host("with a query", b"Host: a?b\r\n", 400)
_host("with a word as port", b"Host: a:http\r\n", 400)
_host("with a port too long", b"Host: a:123456\r\n", 400)
_host("with two ports", b"Host: a:80:80\r\n", 400)
_host("raw UTF-8", b"Host: \xc3\xa4\r\n", 400)
_host("with a port that cannot be", b"Host: a:65536\r\n", 400)
_host("IPv6 that cannot be", b"Host: [:::]\r\n", 400)
_host("address of the future", b"Host: [v1.a:b]\r\n", 200, stays_open=True)
_host("broken IPv6", b"Host: [::1\r\n", 400)
_host("IPv6 with port", b"Host: [::1]:8000\r\n", 200, stays_open=True)
_host("spaces around it", b"Host:  a \t\r\n", 200, stays_open=True)
_case("Host", "missing in HTTP/1.0", b"GET /call/x HTTP/1.0\r\n\r\n", 200)
_case("Host", "malformed in HTTP/1.0", b"GET /call/x HTTP/1.0\r\nHost: a b\r\n\r\n", 400)
_case("Host", "missing with an absolute target", b"GET http://a/call/x HTTP/1.1\r\n\r\n", 400)

_field("space before the colon", b"X : y", 400)
_field("tab before the colon", b"X\t: y", 400)
_field("space before the name", b" X: y", 400)
_field("folded value", b"X: y\r\n z", 400)
_field("folded with a tab", b"X: y\r\n\tz", 400)
_field("no colon", b"X", 400)
_field("no name", b": y", 400)
_field("name with a bracket", b"X(: y", 400)
_field("name with a quote", b'"X": y', 400)
_field("name with a semicolon", b"X;Y: y", 400)
_field("name with UTF-8", b"\xc3\xa4: y", 400)
_field("name with NUL", b"X\x00: y", 400)
_field("bare LF behind a value", b"X: y\nZ: z", 400)
_field("bare CR inside a value", b"X: y\rz", 400)
_field("two CR behind a value", b"X: y\r", 400)
_field("NUL inside a value", b"X: y\x00z", 400)
_field("control character inside a value", b"X: y\x01z", 400)
_field("vertical tab inside a value", b"X: y\x0bz", 400)
_field("DEL inside a value", b"X: y\x7fz", 400)
_field("Latin-1 inside a value", b"X: \xe4", 200, stays_open=True)
_field("empty value", b"X:", 200, stays_open=True)
_field("tab inside a value", b"X: y\tz", 200, stays_open=True)
_field("the most headers", b"\r\n".join([b"X: y"] * 19), 200, stays_open=True)
_field("one header too many", b"\r\n".join([b"X: y"] * 20), 431)
_field("a value too long", b"X: " + b"y" * 5000, 431)
_field("many values too long together", b"\r\n".join([b"X: " + b"y" * 500] * 10), 431)
_case("Header fields", "an endless value", _GET + _HOST + b"X: " + b"y" * 20000, 431)
_case("Header fields", "an endless name", _GET + _HOST + b"y" * 20000, 431)
_case("Header fields", "endless headers", _GET + _HOST + b"X: y\r\n" * 4000, 431)
_case("Header fields", "bare LF as the empty line", _GET + _HOST + b"\n", 400)
_field("close", b"Connection: close", 200)
_field("close in capitals", b"Connection: CLOSE", 200)
_field("close beside keep-alive", b"Connection: keep-alive, close", 200)
_field("close then more bytes", b"Connection: close\r\n\r\nGET /call/x HTTP/1.1", 200)

_length("right", b"Content-Length: 3", 200, stays_open=True)
_length("leading zeros", b"Content-Length: 003", 200, stays_open=True)
_length("twice the same", b"Content-Length: 3\r\nContent-Length: 3", 400)
_length("twice and different", b"Content-Length: 3\r\nContent-Length: 4", 400)
_length("list of the same", b"Content-Length: 3, 3", 400)
_length("plus sign", b"Content-Length: +3", 400)
_length("minus sign", b"Content-Length: -3", 400)
_length("hexadecimal", b"Content-Length: 0x3", 400)
_length("fraction", b"Content-Length: 3.0", 400)
_length("underscore", b"Content-Length: 1_0", 400)
_length("with a letter", b"Content-Length: 3a", 400)
_length("with a space inside", b"Content-Length: 3 3", 400)
_length("empty", b"Content-Length:", 400)
_length("over 64 bits", b"Content-Length: 99999999999999999999", 413)
_length("the largest of 64 bits", b"Content-Length: 18446744073709551615", 413)
_length("over the limit of calls", b"Content-Length: 1001", 413)
_length("beside chunked", b"Content-Length: 3\r\nTransfer-Encoding: chunked", 400)
_length("behind chunked", b"Transfer-Encoding: chunked\r\nContent-Length: 3", 400)
_length("beside an unknown coding", b"Content-Length: 3\r\nTransfer-Encoding: x", 400)
_length("name with a space", b"Content-Length : 3", 400)
_length("missing: no body, and the rest is noise", b"X: y", 200, 501)
_length("too short: the rest is noise", b"Content-Length: 2", 200, 501)
_length("too long: the rest never comes", b"Content-Length: 4", 408)
_case("Body length", "over the limit of the app", _APP + b"Content-Length: 2001\r\n\r\n", 413)
_case("Body length", "stalled for the app", _APP + b"Content-Length: 9\r\n\r\nabc", 408)
_case(
    "Body length",
    "GET with a body",
    _GET + _HOST + b"Content-Length: 3\r\n\r\nabc",
    200,
    stays_open=True,
)

_coding("chunked", b" chunked", 200, stays_open=True)
_coding("in capitals", b" CHUNKED", 200, stays_open=True)
_coding("with spaces around it", b"  chunked  ", 200, stays_open=True)
_coding("with a tab behind it", b" chunked\t", 400)
_coding("unknown", b" xchunked", 501)
_coding("identity", b" identity", 501)
_coding("gzip then chunked", b" gzip, chunked", 501)
_coding("chunked then gzip", b" chunked, gzip", 400)
_coding("chunked twice", b" chunked, chunked", 400)
_coding("chunked on two lines", b" chunked\r\nTransfer-Encoding: chunked", 400)
_coding("gzip and chunked on two lines", b" gzip\r\nTransfer-Encoding: chunked", 400)
_coding("with a parameter", b" chunked;a=b", 501)
_coding("quoted", b' "chunked"', 501)
_coding("vertical tab before it", b" \x0bchunked", 400)
_coding("NUL behind it", b" chunked\x00", 400)
_coding("empty", b"", 400)
_case(
    "Transfer coding",
    "in HTTP/1.0",
    b"POST /call/x HTTP/1.0\r\n" + _CHUNKED + b"3\r\nabc\r\n0\r\n\r\n",
    400,
)

_chunks("two chunks", b"1\r\na\r\n2\r\nbc\r\n0\r\n\r\n", 200, stays_open=True)
_chunks("leading zeros", b"003\r\nabc\r\n000\r\n\r\n", 200, stays_open=True)
_chunks("extension is ignored", b"3;a=b\r\nabc\r\n0\r\n\r\n", 200, stays_open=True)
_chunks("trailer is ignored", b"3\r\nabc\r\n0\r\nX: y\r\n\r\n", 200, stays_open=True)
_chunks("Content-Length in the trailer", b"0\r\nContent-Length: 5\r\n\r\n", 400)
_chunks("malformed trailer", b"0\r\nX : y\r\n\r\n", 400)
_chunks("bare LF in the trailer", b"0\r\nX: y\n\r\n", 400)
_chunks("bare LF behind the size", b"3\nabc\r\n0\r\n\r\n", 400)
_chunks("two CR behind the size", b"3\r\r\nabc\r\n0\r\n\r\n", 400)
_chunks("bare LF behind the data", b"3\r\nabc\n0\r\n\r\n", 400)
_chunks("bare LF as the empty line", b"0\r\n\n", 400)
_chunks("LF inside an extension", b"3;a\nb\r\nabc\r\n0\r\n\r\n", 400)
_chunks("CR inside an extension", b"3;a\rb\r\nabc\r\n0\r\n\r\n", 400)
_chunks("quoted line end in an extension", b'3;a="b\r\nc"\r\nabc\r\n0\r\n\r\n', 400)
_chunks("size with 0x", b"0x3\r\nabc\r\n0\r\n\r\n", 400)
_chunks("size with minus", b"-3\r\nabc\r\n0\r\n\r\n", 400)
_chunks("size with plus", b"+3\r\nabc\r\n0\r\n\r\n", 400)
_chunks("size with a space behind it", b"3 \r\nabc\r\n0\r\n\r\n", 400)
_chunks("size not a number", b"g\r\nabc\r\n0\r\n\r\n", 400)
_chunks("size empty", b"\r\nabc\r\n0\r\n\r\n", 400)
_chunks("size over 64 bits", b"ffffffffffffffffff\r\nabc", 413)
_chunks("data longer than the size", b"3\r\nabcd\r\n0\r\n\r\n", 400)
_chunks("data shorter than the size", b"4\r\nabc\r\n0\r\n\r\n", 400)
_chunks("together over the limit of calls", b"1f4\r\n" + b"x" * 500 + b"\r\n", 408)
_chunks("over the limit of calls", (b"1f4\r\n" + b"x" * 500 + b"\r\n") * 3 + b"0\r\n\r\n", 413)
_chunks("endless extension", b"3;" + b"a" * 50_000, 400)
_chunks("endless trailer", b"0\r\nX: " + b"a" * 50_000, 400)
_chunks(
    "mostly framing",
    b"1;" + b"a" * 900 + b"\r\nx\r\n" + (b"1;" + b"a" * 900 + b"\r\nx\r\n") * 30,
    400,
)
_chunks("stalled", b"3\r\nab", 408)
_case("Chunks", "over the limit of the app", _APP + _CHUNKED + b"9c4\r\n" + b"x" * 2500, 413)

_CONTINUE = b"Expect: 100-continue\r\n"
_case("Expect", "unknown", _POST + b"Expect: tea\r\nContent-Length: 3\r\n\r\nabc", 417)
_case("Expect", "twice", _POST + _CONTINUE + _CONTINUE + b"Content-Length: 3\r\n\r\n", 400)
_case(
    "Expect",
    "100-continue",
    _POST + _CONTINUE + b"Content-Length: 3\r\n\r\nabc",
    100,
    200,
    stays_open=True,
)
_case(
    "Expect",
    "in capitals",
    _POST + b"Expect: 100-CONTINUE\r\nContent-Length: 3\r\n\r\nabc",
    100,
    200,
    stays_open=True,
)
_case("Expect", "of the app", _APP + _CONTINUE + b"Content-Length: 3\r\n\r\n", 100, 408)
_case("Expect", "without a body", _POST + _CONTINUE + b"\r\n", 200, stays_open=True)
_case(
    "Expect",
    "in HTTP/1.0 is ignored",
    b"POST /call/x HTTP/1.0\r\n" + _CONTINUE + b"Content-Length: 3\r\n\r\nabc",
    200,
)
_case(
    "Expect",
    "body too long is said before it is sent",
    _POST + _CONTINUE + b"Content-Length: 1001\r\n\r\n",
    413,
)
_case(
    "Expect",
    "bad length is said before it is sent",
    _POST + _CONTINUE + b"Content-Length: x\r\n\r\n",
    400,
)

_case(
    "Upgrade", "to h2c is ignored", _GET + _HOST + _UPGRADE + b"h2c\r\n\r\n", 200, stays_open=True
)
_case(
    "Upgrade",
    "to h2c with a body that looks like a request",
    _POST
    + _UPGRADE
    + b"h2c\r\nContent-Length: 34\r\n\r\n"
    + b"GET /raise/x HTTP/1.1\r\nHost: a\r\n\r\n",
    200,
    stays_open=True,
)
_case(
    "Upgrade",
    "to h2c with chunks",
    _POST + _UPGRADE + b"h2c\r\n" + _CHUNKED + b"3\r\nabc\r\n0\r\n\r\n",
    200,
    stays_open=True,
)
_case(
    "Upgrade",
    "without Connection is ignored",
    _GET + _HOST + b"Upgrade: websocket\r\n\r\n",
    200,
    stays_open=True,
)
_case("Upgrade", "WebSocket without version", _GET + _HOST + _UPGRADE + b"websocket\r\n\r\n", 426)
_case(
    "Upgrade",
    "WebSocket of version 8",
    _GET + _HOST + _UPGRADE + b"websocket\r\nSec-WebSocket-Version: 8\r\n\r\n",
    426,
)
_case(
    "Upgrade", "WebSocket without key", _GET + _HOST + _SOCKET.rpartition(b"Sec-")[0] + b"\r\n", 400
)
_case(
    "Upgrade",
    "WebSocket with a bad key",
    _GET + _HOST + _SOCKET.replace(b"==", b"=") + b"\r\n",
    400,
)
_case("Upgrade", "WebSocket with POST", _POST + _SOCKET + b"\r\n", 400)
_case(
    "Upgrade",
    "WebSocket with a body",
    _GET + _HOST + _SOCKET + b"Content-Length: 3\r\n\r\nabc",
    400,
)
_case("Upgrade", "WebSocket in HTTP/1.0", b"GET / HTTP/1.0\r\nHost: a\r\n" + _SOCKET + b"\r\n", 400)
_case(
    "Upgrade",
    "WebSocket the app refuses",
    b"GET /refuse HTTP/1.1\r\n" + _HOST + _SOCKET + b"\r\n",
    403,
)

_case("Time", "a connection that says nothing", b"")
_case("Time", "half a request line", b"GET /call", 408)
_case("Time", "half a header", _GET + b"Host: a", 408)
_case("Time", "all but the empty line", _GET + _HOST, 408)
_case("Time", "body never comes", _POST + b"Content-Length: 3\r\n\r\n", 408)
_case("Time", "idle behind an answer", _GET + _HOST + b"\r\n", 200)
_case("Time", "half a request behind an answer", _GET + _HOST + b"\r\nGET /", 200, 408)

_two = _GET + _HOST + b"\r\n"
_case("Pipelining", "three at once", _two * 3, 200, 200, 200, stays_open=True)
_case("Pipelining", "more than the depth", _two * 30, *[200] * 30, stays_open=True)
_case("Pipelining", "more than one bite", _two * 300, *[200] * 300, stays_open=True)
_case("Pipelining", "noise behind a request", _two + b"\x00", 200, 501)
_case("Pipelining", "unknown method behind a request", _two + b"BREW / HTTP/1.1\r\n\r\n", 200, 501)
_case(
    "Pipelining",
    "call, app, call",
    _two + _APP + b"Content-Length: 3\r\n\r\nabc" + _two,
    200,
    200,
    200,
    stays_open=True,
)
_case(
    "Pipelining",
    "app, app, refused",
    _APP + b"Content-Length: 0\r\n\r\n" + _APP + b"\r\n" + _GET + b"\r\n",
    200,
    200,
    400,
)
_case(
    "Pipelining",
    "nothing behind close is answered",
    _GET + _HOST + b"Connection: close\r\n\r\n" + _two * 3,
    200,
)
_case("Pipelining", "empty lines between", _two + b"\r\n\r\n" + _two, 200, 200, stays_open=True)
_case(
    "Pipelining",
    "trailers do not leak into the next request",
    _POST + _CHUNKED + b"0\r\nHost: b\r\n\r\n" + _two,
    200,
    200,
    stays_open=True,
)
_case(
    "Pipelining",
    "handler that fails",
    b"GET /raise/x HTTP/1.1\r\n" + _HOST + b"\r\n" + _two,
    500,
    200,
    stays_open=True,
)


_INTRODUCTION = """\
Each of these is sent, as it stands, to a real server by `tests/unit/web/test_hostile_requests.py`,
which then checks that the server still answers a good request. `scripts/hostile_table` writes this
file. *Then* says whether the server closed the connection or went on reading from it. The limits
are those of the test, so that they are easily reached."""


def markdown() -> str:
    """The document."""
    limits = ", ".join(f"`{name}` {value}" for name, value in LIMITS.items())
    lines = ["# Hostile and odd requests", "", _INTRODUCTION, "", f"Limits: {limits}."]
    for group in dict.fromkeys(case.group for case in CASES):
        lines += [
            "",
            f"## {group}",
            "",
            "| request | bytes | answers | then |",
            "|---|---|---|---|",
        ]
        lines += [_row(case) for case in CASES if case.group == group]
    lines += ["", f"{len(CASES)} requests."]
    return "\n".join(lines) + "\n"


def _row(case: Case) -> str:
    shown = repr(case.raw)[2:-1]
    if len(shown) > 120:
        shown = f"{shown[:80]}…{shown[-36:]}"
    shown = shown.replace("|", "\\|").replace("`", "'")
    statuses = list(map(str, case.statuses))
    answers = " ".join(statuses) if len(statuses) < 5 else f"{statuses[0]} × {len(statuses)}"
    end = "open" if case.stays_open else "closed"
    return f"| {case.name} | `{shown}` | {answers or 'none'} | {end} |"
