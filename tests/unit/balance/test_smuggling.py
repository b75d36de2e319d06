"""Requests that two parties could read differently: refused, and never seen by a backend."""

import re

import pytest
import uvloop
from tests.unit.balance.scripted import balancing, ok, say

H = b"Host: a\r\n"
CASES = {
    b"POST / HTTP/1.1\r\n"
    + H
    + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n": 400,
    b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello": 400,
    b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 5, 5\r\n\r\nhello": 400,
    b"POST / HTTP/1.1\r\n" + H + b"Content-Length: +5\r\n\r\nhello": 400,
    b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 0x5\r\n\r\nhello": 400,
    b"POST / HTTP/1.1\r\n" + H + b"Content-Length : 5\r\n\r\nhello": 400,
    b"POST / HTTP/1.1\r\n"
    + H
    + b"Content-Length: 5\r\nConnection: content-length\r\n\r\nhello": 400,
    b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n": 501,
    b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n": 400,
    b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n": 400,
    b"POST / HTTP/1.0\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n": 400,
    b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n": 400,
    b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n": 400,
    b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n1\na\r\n0\r\n\r\n": 400,
    b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n-1\r\na\r\n0\r\n\r\n": 400,
    b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n": 400,
    b"GET / HTTP/1.1\r\n\r\n": 400,
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n": 400,
    b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n": 400,
    b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n": 400,
    b"GET / HTTP/1.1\r\nHost: a\r\nA: 1\r\n folded\r\n\r\n": 400,
    b"GET / HTTP/1.1\r\nHost: a\r\nA: 1\nB: 2\r\n\r\n": 400,
    b"GET / HTTP/1.1\r\nHost: a\r\nA: 1\rB: 2\r\n\r\n": 400,
    b"GET / HTTP/1.1\r\nHost: a\r\nA: \x00\r\n\r\n": 400,
    b"GET / HTTP/1.1\r\nHost: a\r\nB\xc3: 1\r\n\r\n": 400,
    b"GET / HTTP/1.1\r\nHost: a\r\n: 1\r\n\r\n": 400,
    b"GET / HTTP/1.1\nHost: a\n\n\r\n\r\n": 400,
    b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n": 400,
    b"GET /#f HTTP/1.1\r\nHost: a\r\n\r\n": 400,
    b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n": 400,
    b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n": 400,
    b"GET / HTTP/1.2\r\nHost: a\r\n\r\n": 505,
    b"GET / HTTP/2.0\r\nHost: a\r\n\r\n": 505,
    b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n": 400,
    b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n": 414,
    b"GET / HTTP/1.1\r\nHost: a\r\nA: " + b"a" * 50_000 + b"\r\n\r\n": 431,
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n": 413,
    b"GET / HTTP/1.1\r\nHost: a\r\nExpect: magic\r\n\r\n": 417,
}


@pytest.mark.parametrize("raw", CASES, ids=range(len(CASES)))
@pytest.mark.parametrize("is_first", [True, False])
def test_what_is_not_clear_is_refused(raw: bytes, *, is_first: bool) -> None:
    """Also behind a good request on the same connection, and nothing behind it is read."""

    async def body() -> None:
        async with balancing(say(ok())) as (front, (backend,)):
            before = b"" if is_first else b"GET /good HTTP/1.1\r\nHost: a\r\n\r\n"
            told = await front.ask(before + raw + b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
            assert b"HTTP/1.1 %d" % CASES[raw] in told
            assert len(re.findall(rb"HTTP/1.1 \d", told)) == (1 if is_first else 2)
            assert b"smuggled" not in backend.seen

    uvloop.run(body())


def test_an_upgrade_to_something_else_is_forgotten() -> None:
    async def body() -> None:
        async with balancing(say(ok())) as (front, (backend,)):
            raw = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade, HTTP2-Settings\r\n"
            await front.ask(raw + b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ\r\n\r\n")
            assert b"h2c" not in backend.seen
            assert b"http2-settings" not in backend.seen

    uvloop.run(body())
