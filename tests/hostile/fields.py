"""Raw cases about field lines, Host and Connection."""

from tests.hostile.cases import GET, HOST, INNER, Case, Group

CASES: list[Case] = []

_field = Group("Fields", CASES)
_host = Group("Host", CASES)
_connection = Group("Connection", CASES)


def _with(lines: bytes) -> bytes:
    return GET + HOST + lines + b"\r\n\r\n"


for _name, _raw in [
    ("space before the colon", b"X : y"),
    ("tab before the colon", b"X\t: y"),
    ("two spaces before the colon", b"X  : y"),
]:
    _field.refuse("9112-5.1", _name, _with(_raw))
for _name, _raw in [
    ("no colon", b"X"),
    ("no name", b": y"),
    ("name with a space inside", b"X Y: z"),
    ("name with a bracket", b"X(Y: z"),
    ("name with a slash", b"X/Y: z"),
    ("name with an at sign", b"X@Y: z"),
    ("name with a quote", b'X"Y: z'),
    ("name with a comma", b"X,Y: z"),
    ("name with a semicolon", b"X;Y: z"),
    ("name with braces", b"X{}: z"),
    ("name with an equals sign", b"X=Y: z"),
    ("name with a backslash", b"X\\Y: z"),
    ("name with a byte over 127", b"X\xe4: z"),
    ("name with NUL", b"X\x00Y: z"),
    ("name with a control character", b"X\x01: z"),
    ("name with DEL", b"X\x7f: z"),
    ("name with a bare CR", b"X\rY: z"),
]:
    _field.refuse("9110-5.1", _name, _with(_raw))
for _name, _raw in [
    ("value with NUL", b"X: a\x00b"),
    ("value with a bare CR", b"X: a\rb"),
    ("value that ends with two CR", b"X: a\r"),
    ("value that begins with NUL", b"X:\x00a"),
]:
    _field.refuse("9110-5.5", _name, _with(_raw))
for _name, _raw in [
    ("value with a control character", b"X: a\x01b"),
    ("value with DEL", b"X: a\x7fb"),
    ("value with an escape character", b"X: a\x1bb"),
]:
    _field.either("9110-5.5", _name, _with(_raw))
_field.either("9112-5.2", "folded with a space", _with(b"X: a\r\n b"))
_field.either("9112-5.2", "folded with a tab", _with(b"X: a\r\n\tb"))
_field.refuse("9112-6.3", "folded length", _with(b"Content-Length:\r\n 3") + b"abc" + INNER)
_field.refuse(
    "9112-6.1", "folded coding", _with(b"Transfer-Encoding:\r\n chunked") + b"0\r\n\r\n" + INNER
)
_field.either("9112-2.2", "LF alone behind a value", _with(b"X: a\nY: b"))
_field.refuse("9110-5.4", "two megabytes in one value", _with(b"X: " + b"a" * (2 << 20)))
_field.refuse("9110-5.4", "a hundred thousand fields", _with(b"\r\n".join([b"X: a"] * 100_000)))
_field.refuse("9110-5.4", "an endless name", GET + HOST + b"a" * (2 << 20) + b": b\r\n\r\n")
_field.accept("9110-5.5", "empty value", _with(b"X:"))
_field.accept("9110-5.5", "value of spaces", _with(b"X:   \t "))
_field.accept("9112-5.1", "no space behind the colon", _with(b"X:a"))
_field.accept("9112-5.1", "spaces and tabs around the value", _with(b"X: \t a \t "))
_field.accept("9110-5.5", "tab inside the value", _with(b"X: a\tb"))
_field.accept("9110-5.5", "bytes over 127 in the value", _with(b"X: \xe4\xff"))
_field.accept("9110-5.5", "UTF-8 in the value", _with(b"X: \xc3\xa4"))
_field.accept("9110-5.1", "name of every token character", _with(b"!#$%&'*+-.^`|~1: a"))
_field.accept("9110-5.3", "one name on three lines", _with(b"X: a\r\nX: b\r\nX: c"))
_field.accept("9110-5.6.4", "quoted string with a comma", _with(b'X: "a, b", c'))
_field.accept("9110-5.1", "a name of 200 letters", _with(b"X" * 200 + b": a"))
_field.accept("9110-5.5", "a value of 4000 bytes", _with(b"X: " + b"a" * 4000))
_field.accept("9110-5.3", "fifty fields", _with(b"\r\n".join(b"X-%d: a" % i for i in range(50))))
_field.accept("9110-5.1", "names in capitals", GET + b"HOST: a\r\nCONTENT-LENGTH: 0\r\n\r\n")
_field.accept("9110-5.1", "names in small letters", GET + b"host: a\r\ncontent-length: 0\r\n\r\n")
_field.accept("9110-6.6.1", "a Date", _with(b"Date: Sun, 06 Nov 1994 08:49:37 GMT"))

for _name, _raw in [
    ("missing", b""),
    ("twice", HOST + HOST),
    ("twice and different", HOST + b"Host: b\r\n"),
    ("twice in other letters", HOST + b"HOST: b\r\n"),
    ("a space inside", b"Host: a b\r\n"),
    ("a list", b"Host: a, b\r\n"),
    ("a path", b"Host: a/b\r\n"),
    ("a query", b"Host: a?b\r\n"),
    ("a fragment", b"Host: a#b\r\n"),
    ("a user", b"Host: u@a\r\n"),
    ("a scheme", b"Host: http://a\r\n"),
    ("a word as port", b"Host: a:b\r\n"),
    ("two ports", b"Host: a:80:80\r\n"),
    ("a negative port", b"Host: a:-1\r\n"),
    ("a quote", b'Host: "a"\r\n'),
    ("a backslash", b"Host: a\\b\r\n"),
    ("angle brackets", b"Host: <a>\r\n"),
    ("NUL", b"Host: a\x00b\r\n"),
    ("an open IPv6 bracket", b"Host: [::1\r\n"),
    ("an IPv6 address with rubbish behind it", b"Host: [::1]a\r\n"),
    ("an IPv6 address of three colons", b"Host: [:::]\r\n"),
    ("an IPv6 address of nine parts", b"Host: [1:2:3:4:5:6:7:8:9]\r\n"),
    ("a broken percent encoding", b"Host: a%zz\r\n"),
]:
    _host.refuse("9112-3.2", _name, GET + _raw + b"\r\n")
_host.refuse("9112-3.2", "missing with an absolute target", b"GET http://a/ HTTP/1.1\r\n\r\n")
_host.either("9112-3.2", "empty", GET + b"Host:\r\n\r\n")
_host.either("9112-3.2", "raw UTF-8", GET + b"Host: \xc3\xa4\r\n\r\n")
_host.either("9110-7.2", "a port over 65535", GET + b"Host: a:70000\r\n\r\n")
for _name, _raw in [
    ("with a port", b"a:8000"),
    ("with an empty port", b"a:"),
    ("an IPv4 address", b"127.0.0.1:80"),
    ("an IPv6 address", b"[::1]"),
    ("an address of the future", b"[v1.a:b]"),
    ("a port with leading zeros", b"a:000080"),
    ("an IPv6 address with a port", b"[2001:db8::1]:8000"),
    ("in capitals", b"A.EXAMPLE"),
    ("with a final dot", b"a.example."),
    ("with an underscore", b"a_b"),
    ("with a hyphen", b"a-b.example"),
    ("in punycode", b"xn--bcher-kva.example"),
    ("as the last field", b"a\r\nX: y"),
]:
    _host.accept("9110-7.2", _name, GET + b"Host: " + _raw + b"\r\n\r\n")
_host.accept("9110-7.2", "behind other fields", GET + b"X: y\r\nHost: a\r\n\r\n")

_connection.accept_and_close("9112-9.6", "close", _with(b"Connection: close"))
_connection.accept_and_close("9110-7.6.1", "close in capitals", _with(b"Connection: CLOSE"))
_connection.accept_and_close("9110-7.6.1", "close in a list", _with(b"Connection: x, close"))
_connection.accept_and_close(
    "9110-5.6.1", "close between empty elements", _with(b"Connection: ,close,")
)
_connection.accept_and_close(
    "9112-9.6", "nothing behind close is answered", _with(b"Connection: close") + INNER
)
_connection.accept("9112-9.3", "keep-alive", _with(b"Connection: keep-alive"))
_connection.accept("9110-7.6.1", "an unknown option", _with(b"Connection: x\r\nX: y"))
_connection.accept(
    "9110-7.8", "Upgrade to something unknown", _with(b"Connection: upgrade\r\nUpgrade: x/1")
)
_connection.accept("9110-7.8", "Upgrade without Connection", _with(b"Upgrade: websocket"))
