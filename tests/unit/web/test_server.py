"""Starting, counting, draining and closing."""

import asyncio
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest
from tests.unit.web.serving import (
    GOOD,
    WAIT_S,
    length_app,
    read_all,
    read_until,
    responses_of,
    running,
)

from perdure.base.limits import Limits

GET = b"GET /call/x HTTP/1.1\r\nHost: a\r\n\r\n"
LATER = GET.replace(b"/call/", b"/later/")


def test_statistics_count():
    with running(length_app) as server, server.connect() as client:
        client.sendall(GET + GET.replace(b"/call", b"/app"))
        assert len(responses_of(read_until(client, b"\r\n\r\n0"))) == 2
        server.talk(b"BREW / HTTP/1.1\r\n\r\n")
        server.wait_until(lambda: server.server.statistics().connections == 1)
        statistics = server.server.statistics()
    assert statistics.connections_total == 2
    assert statistics.requests_total == 2
    assert statistics.requests_refused == 1
    assert statistics.websockets == statistics.asgi_tasks == 0


def test_draining_answers_what_runs_and_says_close():
    limits = Limits(drain_s=WAIT_S)
    with running(limits=limits, drain_grace_s=0.05) as server:
        with server.connect() as idle, server.connect() as busy:
            for client in (idle, busy):
                client.sendall(GET)
                read_until(client, b"}")
            busy.sendall(LATER)
            kept = server.endpoint.kept
            server.wait_until(lambda: kept)
            draining = server.begin(server.server.drain())
            assert read_all(idle) == b""
            server.call(lambda: kept[0].reply(200, b"done"))
            (response,) = responses_of(read_all(busy))
            draining.result(WAIT_S)
        with pytest.raises(ConnectionRefusedError):
            server.connect()
    assert response.body == b"done"
    assert response.headers[b"connection"] == b"close"


def test_while_it_drains_a_websocket_is_sent_elsewhere():
    upgrade = GET.replace(b"/call/", b"/app/")[:-2] + (
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    with running(length_app, drain_grace_s=0.5) as server:
        with server.connect() as waiting:
            waiting.sendall(LATER)
            kept = server.endpoint.kept
            server.wait_until(lambda: kept)
            draining = server.begin(server.server.drain())
            server.wait_until(lambda: server.server._shared.dates.closing)
            (refused,) = responses_of(server.talk(upgrade))
            server.call(lambda: kept[0].reply(200, b"done"))
            read_all(waiting)
        draining.result(WAIT_S)
    assert refused.status == 503
    assert refused.headers[b"retry-after"] == b"1"


def test_while_it_drains_it_still_accepts_for_a_grace():
    with running(drain_grace_s=0.5) as server:
        with server.connect() as waiting:
            waiting.sendall(LATER)
            kept = server.endpoint.kept
            server.wait_until(lambda: kept)
            draining = server.begin(server.server.drain())
            server.wait_until(lambda: server.server._shared.dates.closing)
            (plain,) = responses_of(server.talk(GET))
            first, second = responses_of(server.talk(GET + GET))
            server.call(lambda: kept[0].reply(200, b"done"))
            assert b"done" in read_all(waiting)
        draining.result(WAIT_S)
    assert plain.headers[b"connection"] == second.headers[b"connection"] == b"close"
    assert b"connection" not in first.headers


def test_a_connection_that_was_just_taken_may_still_bring_its_first_request():
    with running(drain_grace_s=0.05) as server:
        with server.connect() as fresh:
            server.wait_until(lambda: server.server.statistics().connections)
            draining = server.begin(server.server.drain(grace_s=WAIT_S))
            server.wait_until(lambda: server.server._shared.dates.closing)
            server.call(server.server._close_listeners)
            server.call(lambda: [one.drain() for one in server.server._shared.connections])
            fresh.sendall(GET)
            (response,) = responses_of(read_all(fresh))
            assert response.status == 200
            assert response.headers[b"connection"] == b"close"
        draining.cancel()


def test_a_connection_that_brings_no_request_does_not_hold_up_a_stop():
    with running(drain_grace_s=0.05) as server, server.connect() as silent:
        server.wait_until(lambda: server.server.statistics().connections)
        draining = server.begin(server.server.drain())
        assert read_all(silent) == b""
        draining.result(WAIT_S)


def test_a_stream_hears_at_once_that_the_process_stops():
    async def app(scope, receive, send):
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"data", "more_body": True})
        await scope["extensions"]["perdure.draining"]["event"].wait()
        await send({"type": "http.response.body", "body": b"bye"})

    limits = Limits(drain_s=WAIT_S, drain_grace_s=WAIT_S)
    with running(app, limits) as server, server.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        read_until(client, b"data")
        draining = server.begin(server.server.drain())
        read_until(client, b"bye")  # within the grace: nothing else has been closed yet
        draining.cancel()


def test_a_stream_hears_of_the_drain_deadline():
    heard = []

    async def app(scope, receive, send):
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"data", "more_body": True})
        heard.append(await receive())
        await send({"type": "http.response.body", "body": b"end"})

    limits = Limits(drain_s=0.1)
    with running(app, limits, drain_grace_s=0.01) as server, server.connect() as client:
        client.sendall(GET.replace(b"/call", b"/app"))
        head = read_until(client, b"data\r\n")
        server.begin(server.server.drain()).result(WAIT_S)
        (response,) = responses_of(head + read_all(client))
    assert heard == [{"type": "http.disconnect"}]
    assert response.body == b"dataend"


def test_what_does_not_end_at_the_drain_deadline_is_cut():
    ended = []

    async def app(scope, receive, send):
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    limits = Limits(drain_s=0.1)
    with running(app, limits, drain_grace_s=0.01) as server, server.connect() as client:
        client.sendall(GET.replace(b"/call", b"/app"))
        server.wait_until(lambda: server.server.statistics().asgi_tasks)
        server.begin(server.server.drain()).result(WAIT_S)
        assert ended
        (response,) = responses_of(read_all(client))
    assert response.status == 503


def test_close_is_at_once_and_twice_is_harmless():
    with running() as server, server.connect() as client:
        client.sendall(LATER)
        server.wait_until(lambda: server.endpoint.kept)
        server.run(server.server.close())
        server.run(server.server.close())
        assert read_all(client) == b""
        assert server.endpoint.kept[0].closed


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate with openssl")
def test_tls_works_and_is_told_to_the_app(tmp_path: Path):
    schemes = []

    async def app(scope, receive, send):
        schemes.append(scope["scheme"])
        await length_app(scope, receive, send)

    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=a"]
    files = ["-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem"]
    subprocess.run([*command, *files], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    trusting = ssl.create_default_context(cafile=tmp_path / "cert.pem")
    trusting.check_hostname = False
    with (
        running(app, ssl_context=context) as server,
        server.connect() as plain,
        trusting.wrap_socket(plain) as client,
    ):
        client.sendall(GET.replace(b"/call", b"/app") + GOOD)
        assert [r.status for r in responses_of(read_all(client))] == [200, 200]
    assert schemes == ["https"]
