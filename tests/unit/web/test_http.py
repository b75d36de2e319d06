"""Order, limits and flow control of one connection."""

import json
import socket

import pytest
from tests.unit.web.serving import GOOD, errors_of, read_all, read_until, responses_of, running

from perdure.base.limits import Limits

HEAD = b"POST /later/%d HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
GET = b"GET /call/%b HTTP/1.1\r\nHost: a\r\n\r\n"


def test_a_plain_reply_is_exactly_this():
    with running() as server, server.connect() as client:
        client.sendall(GET % b"x?y=%20z")
        (response,) = responses_of(read_until(client, b"}"))
    assert response.json() == {"method": "GET", "path": "/call/x", "query": "y=%20z", "body": ""}
    assert list(response.headers) == [b"date", b"content-type", b"content-length"]
    assert response.headers[b"content-type"] == b"application/json"


def test_replies_leave_in_the_order_of_the_requests():
    with running() as server, server.connect() as client:
        client.sendall(HEAD % 1 + HEAD % 2 + HEAD % 3 + GOOD)
        kept = server.endpoint.kept
        server.wait_until(lambda: len(kept) == 3)
        server.call(lambda: [kept[i].reply(200, b"%d" % i) for i in (2, 0, 1)])
        responses = responses_of(read_all(client))
    assert [r.body for r in responses[:3]] == [b"0", b"1", b"2"]
    assert responses[3].json()["path"] == "/call/good"


def test_reading_pauses_at_the_pipeline_limit_and_goes_on_below_it():
    with running(limits=Limits(pipeline_depth_max=4)) as server, server.connect() as client:
        padding = b"X-Padding: " + b"x" * 300 + b"\r\n"
        request = HEAD.replace(b"Content", padding + b"Content")
        client.sendall(b"".join(request % i for i in range(20)) + GOOD)
        kept = server.endpoint.kept
        server.wait_until(lambda: len(kept) == 4)
        assert server.call(lambda: len(kept)) == 4
        for i in range(20):
            exchange = server.wait_until(lambda i=i: kept[i] if len(kept) > i else None)
            assert exchange.path == b"/later/%d" % i
            assert server.call(lambda i=i: len(kept)) <= i + 4
            server.call(lambda exchange=exchange: exchange.reply(200, exchange.path))
        responses = responses_of(read_all(client))
    assert len(responses) == 21
    assert all(r.status == 200 for r in responses)


def test_a_second_reply_is_an_assertion_error():
    with running() as server, server.connect() as client:
        client.sendall(HEAD % 1)
        server.wait_until(lambda: server.endpoint.kept)
        exchange = server.endpoint.kept[0]
        server.call(lambda: exchange.reply(200, b"1"))
        with pytest.raises(AssertionError):
            server.call(lambda: exchange.reply(200, b"2"))


def test_an_exchange_whose_client_left_is_closed_and_its_reply_goes_nowhere():
    with running() as server:
        with server.connect() as client:
            client.sendall(HEAD % 1)
            server.wait_until(lambda: server.endpoint.kept)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        exchange = server.endpoint.kept[0]
        server.wait_until(lambda: exchange.closed)
        server.call(lambda: exchange.reply(200, b"1"))
        assert not exchange.replied


def test_a_client_that_closed_its_sending_side_still_gets_its_reply():
    with running() as server, server.connect() as client:
        client.sendall(HEAD % 1)
        client.shutdown(socket.SHUT_WR)
        server.wait_until(lambda: server.endpoint.kept)
        server.call(lambda: server.endpoint.kept[0].reply(200, b"1"))
        (response,) = responses_of(read_all(client))
    assert response.body == b"1"


@pytest.mark.parametrize(
    ("version", "connection", "answered"),
    [
        (b"1.1", b"", b""),
        (b"1.1", b"close", b"close"),
        (b"1.0", b"", b"close"),
        (b"1.0", b"keep-alive", b"keep-alive"),
    ],
)
def test_the_connection_header_follows_version_and_request(version, connection, answered):
    line = b"Connection: %b\r\n" % connection if connection else b""
    request = b"GET /call/x HTTP/%b\r\nHost: a\r\n%b\r\n" % (version, line)
    with running() as server:
        stays = answered != b"close"
        responses = responses_of(server.talk(request + GOOD if stays else request))
    assert responses[0].headers.get(b"connection", b"") == answered
    assert len(responses) == 1 + stays


def test_a_head_reply_has_the_length_and_not_the_body():
    with running() as server:
        data = server.talk(b"HEAD /call/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    (response,) = responses_of(data, to_head=True)
    assert int(response.headers[b"content-length"]) > 0
    assert data.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("status", [204, 304])
def test_a_reply_without_content_has_neither_length_nor_body(status):
    with running() as server, server.connect() as client:
        client.sendall(HEAD % 1 + GOOD)
        server.wait_until(lambda: server.endpoint.kept)
        server.call(lambda: server.endpoint.kept[0].reply(status, b"lost", extra=b"x-a: b\r\n"))
        first, _ = responses_of(read_all(client))
    assert first.status == status
    assert first.headers[b"x-a"] == b"b"
    assert b"content-length" not in first.headers


def test_a_body_in_many_pieces_is_whole():
    body = b"x" * 300_000
    with running() as server, server.connect() as client:
        client.sendall(b"POST /call/x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n" % len(body))
        client.sendall(b"Connection: close\r\n\r\n" + body)
        (response,) = responses_of(read_all(client))
    assert response.json()["body"] == body.decode()


def test_repeated_headers_are_joined_when_asked_for():
    request = HEAD.replace(b"Content", b"X: 1\r\nX: 2\r\nCookie: a\r\nCookie: b\r\nContent")
    with running() as server, server.connect() as client:
        client.sendall(request % 1)
        exchange = server.wait_until(lambda: server.endpoint.kept and server.endpoint.kept[0])
        assert exchange.header(b"x") == b"1, 2"
        assert exchange.header(b"cookie") == b"a; b"
        assert exchange.header(b"host") == b"a"
        assert exchange.header(b"none") is None
        assert b"cookie" not in repr(exchange).encode()
        assert exchange.asgi_scope()["path"] == "/later/1"


def test_continue_waits_for_the_replies_before_it():
    expecting = HEAD.replace(b"Content-Length: 0", b"Expect: 100-continue\r\nContent-Length: 1")
    with running() as server, server.connect() as client:
        client.sendall(HEAD % 1 + expecting % 2)
        kept = server.endpoint.kept
        server.wait_until(lambda: len(kept) == 1)
        server.call(lambda: kept[0].reply(200, b"1"))
        data = read_until(client, b"100 Continue\r\n\r\n")
        assert [r.status for r in responses_of(data)] == [200, 100]
        client.sendall(b"x")
        server.wait_until(lambda: len(kept) == 2)
        assert kept[1].body == b"x"


def test_a_handler_that_fails_is_a_problem_without_its_message(caplog):
    with running() as server:
        request = b"GET /raise/x HTTP/1.1\r\nHost: a\r\nCookie: secret\r\n\r\n"
        first, second = responses_of(server.talk(request + GOOD))
    assert first.json()["type"] == "urn:perdure:problem:internal"
    assert b"secret" not in first.body
    assert second.status == 200
    assert errors_of(caplog) == ["handler failed"]
    assert "cookie" not in json.dumps([str(vars(record)).lower() for record in caplog.records])


def test_a_reader_that_takes_nothing_is_cut_off():
    limits = Limits(write_timeout_s=0.2)
    with running(limits=limits) as server, server.connect() as client:
        client.sendall(HEAD % 1)
        exchange = server.wait_until(lambda: server.endpoint.kept and server.endpoint.kept[0])
        server.call(lambda: exchange.reply(200, b"x" * (16 << 20)))
        server.wait_until(lambda: server.server.statistics().connections == 0)
        assert len(read_all(client)) < 16 << 20


def test_a_reader_that_takes_nothing_is_not_read_from():
    with running() as server, server.connect() as client:
        client.sendall(HEAD % 1)
        kept = server.endpoint.kept
        server.wait_until(lambda: len(kept) == 1)
        server.call(lambda: kept[0].reply(200, b"x" * (8 << 20)))
        client.sendall(HEAD % 2)
        assert server.call(lambda: len(kept)) == 1
        taken = 0
        while taken < 8 << 20:
            taken += len(client.recv(1 << 20))
        server.wait_until(lambda: len(kept) == 2)


def test_too_many_connections_are_told_so():
    with running(limits=Limits(connections_max=1)) as server, server.connect() as first:
        first.sendall(GET % b"x")
        read_until(first, b"}")
        (response,) = responses_of(server.talk())
        statistics = server.server.statistics()
    assert response.status == 503
    assert response.headers[b"retry-after"] == b"1"
    assert response.json()["type"] == "urn:perdure:problem:too-many-connections"
    assert statistics.connections_refused == 1
    assert statistics.requests_total == 1


def test_without_an_app_what_no_route_matches_is_not_found():
    with running() as server:
        first, second = responses_of(server.talk((GET % b"x").replace(b"/call", b"/none") + GOOD))
    assert first.status == 404
    assert first.headers[b"content-type"] == b"application/problem+json"
    assert second.status == 200


def test_a_call_that_nobody_answers_gets_504_and_its_late_answer_goes_nowhere() -> None:
    with running(limits=Limits(call_timeout_s=0.1)) as server, server.connect() as client:
        client.sendall(b"GET /later/x HTTP/1.1\r\nHost: a\r\n\r\n")
        data = read_until(client, b"}")
        (late,) = server.endpoint.kept
        server.call(lambda: late.reply(200, b'"late"'))
        client.sendall(GOOD)
        data += read_all(client)
    first, second = responses_of(data)
    assert (first.status, first.json()["type"]) == (504, "urn:perdure:problem:deadline")
    assert second.status == 200
