"""Raw cases about request lines, targets, versions and methods."""

from tests.hostile.cases import CHUNKED, GET, HOST, POST, Case, Group

CASES: list[Case] = []

_line = Group("Request line", CASES)
_target = Group("Target", CASES)
_version = Group("Version", CASES)
_method = Group("Method", CASES)
_END = b"\r\n" + HOST + b"\r\n"

for _name, _raw in [
    ("nothing but a line end inside", b"GET\r\n / HTTP/1.1"),
    ("no target", b"GET HTTP/1.1"),
    ("four words", b"GET / / HTTP/1.1"),
    ("a word behind the version", b"GET / HTTP/1.1 x"),
    ("NUL before the method", b"\x00GET / HTTP/1.1"),
    ("NUL behind the method", b"GET\x00 / HTTP/1.1"),
    ("NUL behind the version", b"GET / HTTP/1.1\x00"),
    ("bare CR instead of a space", b"GET\r/\rHTTP/1.1"),
    ("bare CR inside", b"GET / HTTP/1.1\rX: y"),
    ("a space before the method", b" GET / HTTP/1.1"),
    ("a tab before the method", b"\tGET / HTTP/1.1"),
    ("a byte order mark", b"\xef\xbb\xbfGET / HTTP/1.1"),
    ("a status line", b"HTTP/1.1 200 OK"),
    ("no-break space as separator", b"GET\xa0/\xa0HTTP/1.1"),
    ("vertical tab as separator", b"GET\x0b/\x0bHTTP/1.1"),
]:
    _line.refuse("9112-3", _name, _raw + _END)
_line.refuse(
    "9112-2.2", "whitespace between it and the first field", GET + b" \r\n" + HOST + b"\r\n"
)
_line.refuse(
    "9112-2.2", "a field that begins with a space behind it", GET + b" X: y\r\n" + HOST + b"\r\n"
)
_line.refuse(
    "9112-9.8", "a TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 50
)
_line.refuse("9112-3", "ten thousand bytes of noise", b"\xff" * 10_000 + b"\r\n\r\n")
_line.refuse(
    "9112-3", "a megabyte without a line end", b"GET /" + b"a" * (1 << 20) + b" HTTP/1.1" + _END
)
_line.accept("9112-2.2", "an empty line before it", b"\r\n" + GET + HOST + b"\r\n")
_line.either("9112-2.2", "LF alone as line end", b"GET / HTTP/1.1\nHost: a\n\n")
_line.either("9112-3", "two spaces between the words", b"GET  /  HTTP/1.1" + _END)
_line.either("9112-3", "a tab between the words", b"GET\t/\tHTTP/1.1" + _END)
_line.either("9112-3", "a space at its end", b"GET / HTTP/1.1 " + _END)
_line.either("9112-2.2", "many empty lines before it", b"\r\n" * 20 + GET + HOST + b"\r\n")

for _name, _raw in [
    ("without a slash", b"a"),
    ("query alone", b"?a"),
    ("asterisk with GET", b"*"),
    ("asterisk with a path", b"*/a"),
    ("NUL inside", b"/a\x00b"),
    ("control character inside", b"/a\x01b"),
    ("DEL inside", b"/a\x7fb"),
    ("vertical tab inside", b"/a\x0bb"),
    ("form feed inside", b"/a\x0cb"),
    ("absolute without host", b"http:///a"),
    ("absolute without anything", b"http://"),
    ("absolute with a space inside", b"http://a /b"),
    ("authority with GET", b"a:80"),
    ("absolute with a port that is a word", b"http://a:b/"),
]:
    _target.refuse("9112-3.2", _name, b"GET " + _raw + b" HTTP/1.1" + _END)
_target.refuse("9110-4.2.4", "absolute with a user", b"GET http://u:p@a/ HTTP/1.1" + _END)
_target.either("9112-3.2", "backslash at its beginning", b"GET \\a HTTP/1.1" + _END)
_target.either("9112-3.2.1", "fragment", b"GET /a#b HTTP/1.1" + _END)
_target.either("9112-3.2", "raw UTF-8", b"GET /\xc3\xa4 HTTP/1.1" + _END)
_target.either(
    "9112-3.2.2", "absolute for another host than Host", b"GET http://b/ HTTP/1.1" + _END
)
_target.either("9112-3.2.2", "absolute of another scheme", b"GET ftp://a/ HTTP/1.1" + _END)
_target.either("9110-9.3.6", "authority with CONNECT", b"CONNECT a:80 HTTP/1.1" + _END)
for _name, _raw in [
    ("a query without a path behind the slash", b"/?a=b"),
    ("an empty query", b"/a?"),
    ("a question mark in the query", b"/a?b?c"),
    ("percent-encoded slash", b"/a%2Fb"),
    ("percent-encoded UTF-8", b"/%C3%A4"),
    ("small hexadecimal digits", b"/%c3%a4"),
    ("all sub-delims", b"/!$&'()*+,;=:@"),
    ("unreserved characters", b"/a-b._~"),
    ("a path segment with parameters", b"/a;b=c/d"),
    ("a path of 4000 bytes", b"/" + b"a" * 4000),
]:
    _target.accept("9112-3.2.1", _name, b"GET " + _raw + b" HTTP/1.1" + _END)
_target.accept("9112-3.2.2", "absolute", b"GET http://a/b?c HTTP/1.1" + _END)
_target.accept("9112-3.2.2", "absolute without a path", b"GET http://a HTTP/1.1" + _END)
_target.accept(
    "9112-3.2.2", "absolute with the scheme in capitals", b"GET HTTP://a/b HTTP/1.1" + _END
)
_target.accept("9112-3.2.4", "asterisk with OPTIONS", b"OPTIONS * HTTP/1.1" + _END)

for _name, _raw in [
    ("HTTP/2.0", b"HTTP/2.0"),
    ("HTTP/3.0", b"HTTP/3.0"),
    ("HTTP/0.9", b"HTTP/0.9"),
    ("HTTP/9.9", b"HTTP/9.9"),
    ("without a dot", b"HTTP/11"),
    ("without a minor number", b"HTTP/1"),
    ("an empty minor number", b"HTTP/1."),
    ("two digits", b"HTTP/1.10"),
    ("three numbers", b"HTTP/1.1.1"),
    ("leading zero", b"HTTP/01.1"),
    ("a sign", b"HTTP/+1.1"),
    ("small letters", b"http/1.1"),
    ("mixed letters", b"Http/1.1"),
    ("a backslash", b"HTTP\\1.1"),
    ("a space inside", b"HTTP/ 1.1"),
    ("a comma", b"HTTP/1,1"),
    ("another protocol", b"ABCD/1.1"),
    ("RTSP", b"RTSP/1.0"),
    ("letters as numbers", b"HTTP/a.b"),
]:
    _version.refuse("9112-2.3", _name, b"GET / " + _raw + _END)
_version.refuse("9112-2.3", "missing, with fields", b"GET /" + _END)
_version.either("9110-2.5", "HTTP/1.2", b"GET / HTTP/1.2" + _END)
_version.refuse("9113-3.4", "the HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00")
_version.accept_and_close("9112-9.3", "HTTP/1.0 closes", b"GET / HTTP/1.0" + _END)
_version.accept_and_close("9112-3.2", "HTTP/1.0 needs no Host", b"GET / HTTP/1.0\r\n\r\n")
_version.accept_and_close(
    "9112-9.3",
    "HTTP/1.0 with a body",
    b"POST / HTTP/1.0\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
)
_version.either(
    "9112-6.1",
    "HTTP/1.0 with chunks",
    b"POST / HTTP/1.0\r\nHost: a\r\n" + CHUNKED + b"\r\n3\r\nabc\r\n0\r\n\r\n",
)

for _name, _raw in [
    ("empty", b""),
    ("with a bracket", b"G(T"),
    ("with a colon", b"G:T"),
    ("with a slash", b"G/T"),
    ("with a quote", b'G"T'),
    ("with a comma", b"G,T"),
    ("with a byte over 127", b"G\xc3\xa4T"),
    ("with a control character", b"G\x01T"),
    ("with DEL", b"GE\x7fT"),
]:
    _method.refuse("9110-9.1", _name, _raw + b" / HTTP/1.1" + _END)
_method.either("9110-9.1", "in small letters", b"get / HTTP/1.1" + _END)
_method.either("9110-9.1", "unknown", b"BREW / HTTP/1.1" + _END)
_method.either("9110-9.1", "of every token character", b"!#$%&'*+-.^_`|~ / HTTP/1.1" + _END)
_method.either("9110-9.3.8", "TRACE", b"TRACE / HTTP/1.1" + _END)
for _name, _raw in [("PUT", b"PUT"), ("PATCH", b"PATCH"), ("DELETE", b"DELETE")]:
    _method.accept("9110-9.3", _name, _raw + b" / HTTP/1.1\r\nContent-Length: 2" + _END + b"ab")
_method.accept("9110-9.3.7", "OPTIONS", b"OPTIONS / HTTP/1.1" + _END)
_method.accept("9110-9.3.5", "DELETE without a body", b"DELETE / HTTP/1.1" + _END)
_method.accept("9112-6.3", "POST without a length has no body", POST + b"\r\n")
_method.accept("9110-9.3.1", "GET with a body", GET + HOST + b"Content-Length: 2\r\n\r\nab")
