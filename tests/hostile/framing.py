"""Raw cases about where a request ends: lengths, transfer codings, chunks, trailers, pipelines."""

from tests.hostile.cases import CHUNKED, GET, HOST, INNER, POST, Case, Group

CASES: list[Case] = []

_length = Group("Content-Length", CASES)
_coding = Group("Transfer-Encoding", CASES)
_chunk = Group("Chunks", CASES)
_trailer = Group("Trailers", CASES)
_exchange = Group("Exchanges", CASES)
_BODY = b"3\r\nabc\r\n0\r\n\r\n"

for _name, _raw in [
    ("a sign", b"+3"),
    ("negative", b"-3"),
    ("hexadecimal", b"0x3"),
    ("a fraction", b"3.0"),
    ("an exponent", b"3e0"),
    ("an underscore", b"1_0"),
    ("a letter behind it", b"3a"),
    ("a letter", b"a"),
    ("a space inside", b"3 3"),
    ("a quote", b'"3"'),
    ("empty", b""),
    ("a comma alone", b","),
    ("a semicolon", b"3;a=b"),
    ("other digits than ASCII", b"\xd9\xa3"),
    ("NUL behind it", b"3\x00"),
    ("over 64 bits", b"99999999999999999999"),
    ("2 to the 64 and 3", b"18446744073709551619"),
    ("a list of different ones", b"3, 4"),
]:
    _length.refuse("9110-8.6", _name, POST + b"Content-Length: " + _raw + b"\r\n\r\nabc" + INNER)
_length.refuse(
    "9112-6.3",
    "twice and different",
    POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc" + INNER,
)
_length.refuse(
    "9112-6.3",
    "twice, the first empty",
    POST + b"Content-Length:\r\nContent-Length: 3\r\n\r\nabc" + INNER,
)
_length.refuse(
    "9112-5.1", "a space behind the name", POST + b"Content-Length : 3\r\n\r\nabc" + INNER
)
_length.refuse(
    "9112-5.1", "a space before the name", GET + HOST + b" Content-Length: 3\r\n\r\nabc" + INNER
)
_length.either("9110-8.6", "a list of the same", POST + b"Content-Length: 3, 3\r\n\r\nabc")
_length.either(
    "9112-6.3", "twice the same", POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc"
)
_length.refuse("9112-6.3", "too short", POST + b"Content-Length: 2\r\n\r\nabc\r\n\r\n", answers=1)
_length.accept("9110-8.6", "right", POST + b"Content-Length: 3\r\n\r\nabc")
_length.accept("9110-8.6", "zero", POST + b"Content-Length: 0\r\n\r\n")
_length.accept("9110-8.6", "leading zeros", POST + b"Content-Length: 0003\r\n\r\nabc")
_length.accept(
    "9110-8.6",
    "a body that looks like a request",
    POST + b"Content-Length: %d\r\n\r\n" % len(INNER) + INNER,
)
_length.accept("9110-8.6", "a body of line ends", POST + b"Content-Length: 4\r\n\r\n\r\n\r\n")

for _name, _raw in [
    ("a prefix", b"xchunked"),
    ("a suffix", b"chunkedx"),
    ("a word before it", b"x chunked"),
    ("identity", b"identity"),
    ("identity behind it", b"chunked, identity"),
    ("chunked is not the last", b"chunked, gzip"),
    ("chunked twice", b"chunked, chunked"),
    ("quoted", b'"chunked"'),
    ("a parameter", b"chunked;a=b"),
    ("NUL behind it", b"chunked\x00"),
    ("vertical tab before it", b"\x0bchunked"),
    ("a dash inside", b"chun-ked"),
    ("unknown alone", b"x"),
    ("gzip alone", b"gzip"),
]:
    _coding.refuse(
        "9112-6.1", _name, POST + b"Transfer-Encoding: " + _raw + b"\r\n\r\n" + _BODY + INNER
    )
_coding.refuse("9112-6.1", "empty", POST + b"Transfer-Encoding:\r\n\r\n" + _BODY + INNER)
_coding.refuse(
    "9112-5.1", "a space behind the name", POST + b"Transfer-Encoding : chunked\r\n\r\n" + _BODY
)
_coding.refuse(
    "9110-5.1", "NUL behind the name", POST + b"Transfer-Encoding\x00: chunked\r\n\r\n" + _BODY
)
_coding.refuse(
    "9112-6.1", "chunked on two lines", POST + CHUNKED + CHUNKED + b"\r\n" + _BODY + INNER
)
_coding.refuse(
    "9112-6.1",
    "chunked, and then gzip on a second line",
    POST + CHUNKED + b"Transfer-Encoding: gzip\r\n\r\n" + _BODY + INNER,
)
_coding.refuse(
    "9112-6.3",
    "an unknown coding beside a length",
    POST + b"Transfer-Encoding: x\r\nContent-Length: 3\r\n\r\nabc" + INNER,
)
_coding.refuse(
    "9112-6.3",
    "unknown and chunked on two lines",
    POST + b"Transfer-Encoding: x\r\n" + CHUNKED + b"\r\n" + _BODY + INNER,
)
# RFC 9112, 6.3 lets a server take the chunks, if it closes behind its answer: then INNER is lost.
_coding.either("9112-6.3", "beside a length", POST + CHUNKED + b"Content-Length: 3\r\n\r\n" + _BODY)
_coding.either(
    "9112-6.3", "behind a length", POST + b"Content-Length: 3\r\n" + CHUNKED + b"\r\n" + _BODY
)
_coding.refuse(
    "9112-6.3",
    "a request smuggled behind chunks, inside the length",
    POST + CHUNKED + b"Content-Length: %d\r\n\r\n0\r\n\r\n" % (5 + len(INNER)) + INNER,
    answers=1,
)
_coding.refuse(
    "9112-6.3",
    "a request smuggled behind the length, inside a chunk",
    POST
    + b"Content-Length: 4\r\n"
    + CHUNKED
    + b"\r\n%x\r\n" % len(INNER)
    + INNER
    + b"\r\n0\r\n\r\n",
    answers=1,
)
_coding.either(
    "9112-6.1", "gzip, chunked", POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + _BODY
)
_coding.either(
    "9112-6.1", "empty elements around it", POST + b"Transfer-Encoding: ,chunked,\r\n\r\n" + _BODY
)
_coding.accept("9112-7.1", "in capitals", POST + b"Transfer-Encoding: CHUNKED\r\n\r\n" + _BODY)
_coding.accept(
    "9112-5.1", "spaces around it", POST + b"Transfer-Encoding:  chunked  \r\n\r\n" + _BODY
)
_coding.accept(
    "9110-10.1.4", "TE: trailers", GET + HOST + b"TE: trailers\r\nConnection: TE\r\n\r\n"
)

for _name, _raw in [
    ("a size that is no number", b"g\r\nabc\r\n0\r\n\r\n"),
    ("an empty size", b"\r\nabc\r\n0\r\n\r\n"),
    ("a negative size", b"-3\r\nabc\r\n0\r\n\r\n"),
    ("a sign", b"+3\r\nabc\r\n0\r\n\r\n"),
    ("0x", b"0x3\r\nabc\r\n0\r\n\r\n"),
    ("an underscore", b"0_3\r\nabc\r\n0\r\n\r\n"),
    ("a size over 64 bits", b"10000000000000003\r\nabc\r\n0\r\n\r\n"),
    ("a space before the size", b" 3\r\nabc\r\n0\r\n\r\n"),
    ("a comma", b"3,\r\nabc\r\n0\r\n\r\n"),
    ("NUL behind the size", b"3\x00\r\nabc\r\n0\r\n\r\n"),
    ("data longer than the size", b"3\r\nabcd\r\n0\r\n\r\n"),
    ("data shorter than the size", b"4\r\nabc\r\n0\r\n\r\n"),
    ("no line end behind the data", b"3\r\nabc0\r\n\r\n"),
    ("two bytes instead of the line end", b"3\r\nabcxx0\r\n\r\n"),
    ("CR and another byte behind the data", b"3\r\nabc\rx0\r\n\r\n"),
    ("bare CR behind the size", b"3\rabc\r\n0\r\n\r\n"),
    ("two CR behind the size", b"3\r\r\nabc\r\n0\r\n\r\n"),
    ("bare CR in an extension", b"3;a\rb\r\nabc\r\n0\r\n\r\n"),
    ("LF in an extension", b"3;a\nb\r\nabc\r\n0\r\n\r\n"),
    ("NUL in an extension", b"3;a\x00b\r\nabc\r\n0\r\n\r\n"),
    ("a word behind the last size", b"3\r\nabc\r\n0 x\r\n\r\n"),
]:
    _chunk.refuse("9112-7.1", _name, POST + CHUNKED + b"\r\n" + _raw + INNER)
_chunk.refuse(
    "9112-7.1.1",
    "an endless extension",
    POST + CHUNKED + b"\r\n3;" + b"a" * (4 << 20) + b"\r\nabc\r\n0\r\n\r\n",
)
_chunk.either("9112-2.2", "LF alone behind the size", POST + CHUNKED + b"\r\n3\nabc\r\n0\r\n\r\n")
_chunk.either("9112-2.2", "LF alone behind the data", POST + CHUNKED + b"\r\n3\r\nabc\n0\r\n\r\n")
_chunk.either(
    "9112-7.1.1", "a space behind the size", POST + CHUNKED + b"\r\n3 \r\nabc\r\n0\r\n\r\n"
)
for _name, _raw in [
    ("one", _BODY),
    ("several", b"1\r\na\r\n2\r\nbc\r\n0\r\n\r\n"),
    ("none", b"0\r\n\r\n"),
    ("hexadecimal in capitals", b"A\r\n0123456789\r\n0\r\n\r\n"),
    ("hexadecimal in small letters", b"a\r\n0123456789\r\n0\r\n\r\n"),
    ("leading zeros", b"0003\r\nabc\r\n0000\r\n\r\n"),
    ("an extension", b"3;a=b\r\nabc\r\n0\r\n\r\n"),
    ("an extension without a value", b"3;a\r\nabc\r\n0\r\n\r\n"),
    ("a quoted extension", b'3;a="b c"\r\nabc\r\n0\r\n\r\n'),
    ("an extension of the last one", b"3\r\nabc\r\n0;a=b\r\n\r\n"),
    ("data of line ends", b"4\r\n\r\n\r\n\r\n0\r\n\r\n"),
    ("data that looks like the end", b"5\r\n0\r\n\r\n\r\n0\r\n\r\n"),
]:
    _chunk.accept("9112-7.1", _name, POST + CHUNKED + b"\r\n" + _raw)

_trailer.accept("9112-7.1.2", "one", POST + CHUNKED + b"\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n")
_trailer.accept(
    "9110-6.5", "announced", POST + CHUNKED + b"Trailer: X\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n"
)
for _name, _raw in [
    ("a space before the colon", b"X : y"),
    ("no colon", b"X"),
    ("NUL", b"X: a\x00b"),
    ("a bare CR", b"X: a\rb"),
    ("a name with a bracket", b"X(: y"),
]:
    _trailer.refuse("9112-7.1.2", _name, POST + CHUNKED + b"\r\n0\r\n" + _raw + b"\r\n\r\n" + INNER)
_trailer.either(
    "9110-6.5.1", "Content-Length", POST + CHUNKED + b"\r\n0\r\nContent-Length: 9\r\n\r\n"
)
_trailer.either(
    "9110-6.5.1",
    "Transfer-Encoding",
    POST + CHUNKED + b"\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
)
_trailer.accept(
    "9110-6.5.1", "Host is not taken over", POST + CHUNKED + b"\r\n0\r\nHost: b\r\n\r\n"
)
_trailer.refuse(
    "9110-6.5", "four megabytes", POST + CHUNKED + b"\r\n0\r\nX: " + b"a" * (4 << 20) + b"\r\n\r\n"
)

_PLAIN = GET + HOST + b"\r\n"
_exchange.accept("9112-9.3.2", "three requests at once", _PLAIN * 3, answers=3)
_exchange.accept(
    "9112-9.3.2",
    "a body between two requests",
    _PLAIN + POST + b"Content-Length: 3\r\n\r\nabc",
    answers=2,
)
_exchange.accept(
    "9112-9.3.2",
    "chunks between two requests",
    POST + CHUNKED + b"\r\n" + _BODY + _PLAIN,
    answers=2,
)
_exchange.accept(
    "9112-2.2", "an empty line between two requests", _PLAIN + b"\r\n" + _PLAIN, answers=2
)
_exchange.refuse(
    "9112-9.3.2", "noise behind a request", _PLAIN + b"\x00\x01\x02\r\n\r\n", answers=1
)
_exchange.refuse(
    "9112-9.3.2", "a request without Host behind one", _PLAIN + GET + b"\r\n", answers=1
)
_exchange.accept(
    "9110-10.1.1",
    "Expect: 100-continue",
    POST + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
)
_exchange.accept(
    "9110-10.1.1",
    "Expect in capitals",
    POST + b"Expect: 100-CONTINUE\r\nContent-Length: 3\r\n\r\nabc",
)
_exchange.accept(
    "9110-10.1.1",
    "Expect with chunks",
    POST + b"Expect: 100-continue\r\n" + CHUNKED + b"\r\n" + _BODY,
)
_exchange.either("9110-10.1.1", "Expect without a body", POST + b"Expect: 100-continue\r\n\r\n")
_exchange.either(
    "9110-10.1.1", "an unknown expectation", POST + b"Expect: x\r\nContent-Length: 3\r\n\r\nabc"
)
_exchange.accept_and_close(
    "9110-10.1.1",
    "Expect in HTTP/1.0 is ignored",
    b"POST / HTTP/1.0\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
)
_exchange.accept("9110-9.3.2", "HEAD has no body", b"HEAD / HTTP/1.1\r\n" + HOST + b"\r\n")
_exchange.accept("9110-15.3.5", "204 has no body", b"GET /204 HTTP/1.1\r\n" + HOST + b"\r\n")
_exchange.accept("9110-15.4.5", "304 has no body", b"GET /304 HTTP/1.1\r\n" + HOST + b"\r\n")
