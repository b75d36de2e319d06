"""Request ids, the access log and trusted proxies, over a socket."""

import logging
import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_network
from typing import Any

import pytest
from tests.unit.web.serving import Running, responses_of, running

from perdure.web.edge import Edge

CLOSE = b"Host: a\r\nConnection: close\r\n"


async def scope_app(scope: Any, receive: Any, send: Any) -> None:
    """Answers who it thinks is asking; /stream in two parts."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close"})
        return
    ids = [value for name, value in scope["headers"] if name == b"x-request-id"]
    body = f"{scope['client'][0]} {scope['scheme']} {ids[-1].decode() if ids else ''}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["path"] == "/stream":
        await send({"type": "http.response.body", "body": body, "more_body": True})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def server(caplog: pytest.LogCaptureFixture) -> Iterator[Running]:
    caplog.set_level(logging.INFO, "perdure.access")
    edge = Edge([ip_network("127.0.0.0/8")], with_log=True)
    with running(scope_app, edge=edge) as server:
        yield server


def lines(server: Running, caplog: pytest.LogCaptureFixture, count: int) -> list[Any]:
    def told() -> list[Any]:
        return [record for record in caplog.records if record.name == "perdure.access"]

    server.wait_until(lambda: len(told()) >= count)
    assert len(told()) == count
    return told()


def test_a_request_has_one_line_without_its_query(server: Running, caplog: Any) -> None:
    data = server.talk(
        b"GET /call/x?secret=1 HTTP/1.1\r\nX-Request-Id: abc-1\r\n" + CLOSE + b"\r\n"
    )
    (line,) = lines(server, caplog, 1)
    assert (line.method, line.path, line.status) == ("GET", "/call/x", 200)
    assert (line.request_id, line.client, line.bytes) == ("abc-1", "127.0.0.1", len(data))
    assert 0 <= line.duration_ms < 10_000
    assert "secret" not in str(vars(line))
    assert responses_of(data)[0].headers[b"x-request-id"] == b"abc-1"


@pytest.mark.parametrize("given", [b"a b", b"a" * 129, b"\xe4", b""])
def test_an_id_that_is_not_well_formed_is_replaced_everywhere(
    server: Running, caplog: Any, given: bytes
) -> None:
    data = server.talk(b"GET /app HTTP/1.1\r\nX-Request-Id: %b\r\n" % given + CLOSE + b"\r\n")
    (line,) = lines(server, caplog, 1)
    response = responses_of(data)[0]
    assert response.headers[b"x-request-id"].decode() == line.request_id
    assert line.request_id.encode() != given
    assert response.body.split(b" ")[2].decode() == line.request_id


def test_a_streamed_answer_counts_all_its_parts(server: Running, caplog: Any) -> None:
    data = server.talk(b"GET /stream HTTP/1.1\r\n" + CLOSE + b"\r\n")
    assert lines(server, caplog, 1)[0].bytes == len(data)


def test_what_was_refused_has_a_line_too(server: Running, caplog: Any) -> None:
    server.talk(b"GET / HTTP/1.1\r\n\r\n")
    assert lines(server, caplog, 1)[0].status == 400


def test_a_connection_that_goes_before_its_answer_has_a_line(server: Running, caplog: Any) -> None:
    with server.connect() as client:
        client.sendall(b"GET /later/x HTTP/1.1\r\nHost: a\r\n\r\n")
        server.wait_until(lambda: server.endpoint.kept)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert lines(server, caplog, 1)[0].status == 0


def test_a_websocket_has_its_line_at_its_end(server: Running, caplog: Any) -> None:
    handshake = (
        b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    with server.connect() as client:
        client.sendall(handshake)
        assert b"x-request-id: " in client.recv(4096)
        client.sendall(b"\x88\x82\x00\x00\x00\x00\x03\xe8")
        while client.recv(4096):
            pass
    assert lines(server, caplog, 1)[0].status == 101


def test_several_requests_of_one_connection_have_a_line_each(server: Running, caplog: Any) -> None:
    one = b"GET /call/x HTTP/1.1\r\nHost: a\r\n\r\n"
    server.talk(one * 3 + b"GET /app HTTP/1.1\r\n" + CLOSE + b"\r\n")
    ids = {line.request_id for line in lines(server, caplog, 4)}
    assert len(ids) == 4


def test_a_trusted_proxy_says_who_is_asking(server: Running, caplog: Any) -> None:
    head = b"GET /app HTTP/1.1\r\nX-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\n"
    body = responses_of(server.talk(head + CLOSE + b"\r\n"))[0].body
    assert body.startswith(b"1.2.3.4 https ")
    assert lines(server, caplog, 1)[0].client == "1.2.3.4"


def test_an_untrusted_one_is_not_listened_to(caplog: Any) -> None:
    head = b"GET /app HTTP/1.1\r\nX-Forwarded-For: 1.2.3.4\r\nForwarded: for=1.2.3.4\r\n"
    with running(scope_app, edge=Edge([ip_network("10.0.0.0/8")])) as server:
        body = responses_of(server.talk(head + CLOSE + b"\r\n"))[0].body
    assert body.startswith(b"127.0.0.1 http ")
    assert not [record for record in caplog.records if record.name == "perdure.access"]


def test_without_an_edge_there_is_no_id(caplog: Any) -> None:
    with running(scope_app) as server:
        data = server.talk(b"GET /call/x HTTP/1.1\r\n" + CLOSE + b"\r\n")
    assert b"x-request-id" not in data
