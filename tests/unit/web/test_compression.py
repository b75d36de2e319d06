"""Compressed answers: of actors, and of a mounted application."""

import asyncio
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.unit.web.serving import Response, Running, responses_of, running

from perdure.web import compression
from perdure.web.compression import Compressing, compressed, is_compressible
from perdure.web.exchange import Exchange

LONG = b'{"text":"' + b"tea " * 1000 + b'"}'


def plain_of(coding: bytes | None, data: bytes) -> bytes:
    if coding == b"gzip":
        return zlib.decompress(data, 16 + zlib.MAX_WBITS)
    if coding == b"zstd":
        return pytest.importorskip("zstandard").ZstdDecompressor().decompressobj().decompress(data)
    return data


def app_of(*parts: bytes, status: int = 200, **fields: str) -> Callable[..., Any]:
    headers = [(n.replace("_", "-").encode(), v.encode()) for n, v in fields.items()]
    headers = headers if fields.get("content_type") else [(b"content-type", b"text/html"), *headers]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": headers})
        for part in parts[:-1]:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": parts[-1]})

    return Compressing(app)


def ask(server: Running, *lines: str, path: str = "/", method: str = "GET") -> Response:
    head = [f"{method} {path} HTTP/1.1", "Host: a", "Connection: close", *lines]
    data = server.talk("\r\n".join(head).encode() + b"\r\n\r\n")
    return responses_of(data, to_head=method == "HEAD")[0]


def asked(app: Any, *lines: str, method: str = "GET") -> Response:
    with running(app) as server:
        return ask(server, *lines, method=method)


@pytest.fixture(scope="module")
def calls() -> Iterator[Running]:
    def handle(_route: object, exchange: Exchange) -> None:
        exchange.reply(200, LONG if exchange.path == b"/call/long" else b'"short"')

    with running(compress=True) as server:
        server.endpoint.handle = handle  # type: ignore[method-assign]
        yield server


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_a_long_answer_of_an_actor_is_compressed(calls: Running, coding: str) -> None:
    if coding == "zstd":
        pytest.importorskip("zstandard")
    response = ask(calls, f"Accept-Encoding: {coding}", path="/call/long")
    assert response.headers[b"content-encoding"] == coding.encode()
    assert response.headers[b"vary"] == b"accept-encoding"
    assert len(response.body) < len(LONG) // 10
    assert plain_of(coding.encode(), response.body) == LONG


def test_who_does_not_accept_it_gets_the_plain_answer(calls: Running) -> None:
    response = ask(calls, "Accept-Encoding: gzip;q=0", path="/call/long")
    assert b"content-encoding" not in response.headers
    assert response.headers[b"vary"] == b"accept-encoding"
    assert response.body == LONG


def test_a_short_answer_is_left_alone(calls: Running) -> None:
    response = ask(calls, "Accept-Encoding: gzip", path="/call/short")
    assert response.body == b'"short"'
    assert b"vary" not in response.headers


def test_nothing_is_compressed_unless_the_app_asks_for_it() -> None:
    with running() as server:
        server.endpoint.handle = lambda _, exchange: exchange.reply(200, LONG)  # type: ignore[method-assign]
        assert ask(server, "Accept-Encoding: gzip", path="/call/x").body == LONG


def test_an_answer_of_the_mounted_app_is_compressed_and_its_tag_weakened() -> None:
    app = app_of(LONG, content_length=str(len(LONG)), etag='"1"')
    response = asked(app, "Accept-Encoding: gzip")
    assert plain_of(b"gzip", response.body) == LONG
    assert response.headers[b"etag"] == b'w/"1"'
    assert response.headers[b"vary"] == b"accept-encoding"


@pytest.mark.parametrize(
    ("app", "why"),
    [
        (app_of(LONG, content_type="image/png"), "type"),
        (app_of(LONG, content_type="text/event-stream"), "events"),
        (app_of(LONG, content_encoding="br"), "encoded"),
        (app_of(LONG, cache_control="No-Transform"), "no-transform"),
        (app_of(LONG, status=206), "part"),
        (app_of(b"short"), "short"),
        (app_of(b"sho", b"rt", content_length="5"), "short by its length"),
    ],
)
def test_what_must_not_be_compressed_is_not(app: Any, why: str) -> None:
    response = asked(app, "Accept-Encoding: gzip")
    assert response.body in (LONG, b"short"), why
    assert response.headers.get(b"content-encoding") in (None, b"br")


def test_vary_is_added_to_what_is_there_and_not_twice() -> None:
    headers = compression._with_vary([(b"vary", b"cookie")])
    assert headers == [(b"vary", b"cookie"), (b"vary", b"accept-encoding")]
    assert compression._with_vary([(b"vary", b"Cookie, Accept-Encoding")]) == [
        (b"vary", b"Cookie, Accept-Encoding")
    ]


def test_head_says_that_the_answer_varies() -> None:
    response = asked(app_of(LONG), "Accept-Encoding: gzip", method="HEAD")
    assert response.headers[b"vary"] == b"accept-encoding"
    assert b"content-encoding" not in response.headers


async def _sent(app: Any, coding: str) -> list[Any]:
    sent = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "headers": [(b"accept-encoding", coding.encode())]}
    await app(scope, None, send)
    return sent


@pytest.mark.parametrize("coding", compression._CODINGS)
def test_each_part_of_a_stream_can_be_read_at_once(coding: str) -> None:
    parts = [b"first ", b"", b"x" * 100_000, b"last"]
    start, *bodies = asyncio.run(_sent(app_of(*parts), coding))
    assert (b"content-encoding", coding.encode()) in start["headers"]
    if coding == "gzip":
        reader: Any = zlib.decompressobj(16 + zlib.MAX_WBITS)
    else:
        reader = pytest.importorskip("zstandard").ZstdDecompressor().decompressobj()
    assert [reader.decompress(message["body"]) for message in bodies] == parts


@pytest.mark.parametrize(
    ("kind", "is_so"),
    [
        (b"text/html; charset=utf-8", True),
        (b"application/problem+json", True),
        (b"image/svg+xml", True),
        (b"TEXT/PLAIN", True),
        (b"text/event-stream", False),
        (b"video/mp4", False),
        (b"", False),
    ],
)
def test_only_text_gets_smaller(kind: bytes, is_so: bool) -> None:
    assert is_compressible(kind) is is_so


def test_without_zstandard_there_is_gzip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "_CODINGS", ("gzip",))
    body, lines = compressed(LONG, b"zstd, gzip")
    assert plain_of(b"gzip", body) == LONG
    assert b"content-encoding: gzip\r\n" in lines
