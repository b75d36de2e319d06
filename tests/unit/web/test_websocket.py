"""WebSockets, spoken to by the client half of the library."""

import asyncio
import json
from contextlib import contextmanager

import pytest
from tests.unit.web.serving import WAIT_S, Running, errors_of, responses_of, running
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from perdure.base.limits import Limits

HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


async def echo_app(scope, receive, send):
    assert await receive() == {"type": "websocket.connect"}
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send(message | {"type": "websocket.send"})


@contextmanager
def connected(server: Running, path="/", **options):
    with connect(f"ws://127.0.0.1:{server.port}{path}", open_timeout=WAIT_S, **options) as client:
        yield client


def test_text_and_binary_come_back_compressed_or_not():
    with running(echo_app) as server:
        for compression in ("deflate", None):
            with connected(server, compression=compression) as client:
                client.send("ä" * 70_000)
                assert client.recv(WAIT_S) == "ä" * 70_000
                client.send(b"\x00\xff")
                assert client.recv(WAIT_S) == b"\x00\xff"
                client.send(["frag", "ments"])
                assert client.recv(WAIT_S) == "fragments"
                client.send("")
                assert client.recv(WAIT_S) == ""


def test_the_scope_headers_and_subprotocol_are_passed_both_ways():
    scopes = []

    async def app(scope, receive, send):
        scopes.append(scope)
        await receive()
        headers = [(b"x-a", b"b")]
        await send({"type": "websocket.accept", "subprotocol": "two", "headers": headers})
        await receive()

    with (
        running(app) as server,
        connected(server, "/a%20b?c=d", subprotocols=["one", "two"]) as client,
    ):
        assert client.subprotocol == "two"
        assert client.response.headers["x-a"] == "b"
    (scope,) = scopes
    assert scope["type"] == "websocket"
    assert (scope["path"], scope["query_string"], scope["scheme"]) == ("/a b", b"c=d", "ws")
    assert scope["subprotocols"] == ["one", "two"]
    assert "method" not in scope


def test_pings_are_answered():
    with running(echo_app) as server, connected(server) as client:
        assert client.ping().wait(WAIT_S)


def test_a_message_over_the_limit_closes_with_1009():
    limits = Limits(websocket_message_bytes_max=1000)
    with running(echo_app, limits) as server:
        for message in ("x" * 1001, ["x" * 600, "x" * 600]):
            with connected(server) as client:
                client.send(message)
                with pytest.raises(ConnectionClosed):
                    client.recv(WAIT_S)
                assert client.close_code == 1009


def test_text_that_is_not_utf8_closes_with_1007():
    with running(echo_app) as server, connected(server) as client:
        client.send(b"\xff", text=True)
        with pytest.raises(ConnectionClosed):
            client.recv(WAIT_S)
        assert client.close_code == 1007


def test_the_close_of_either_side_reaches_the_other():
    heard = []

    async def app(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        if scope["path"] == "/close":
            await send({"type": "websocket.close", "code": 4001, "reason": "enough"})
        heard.append(await receive())

    with running(app) as server:
        with connected(server) as client:
            client.close(4002, "bye")
        server.wait_until(lambda: heard)
        with connected(server, "/close") as client, pytest.raises(ConnectionClosed):
            client.recv(WAIT_S)
        assert (client.close_code, client.close_reason) == (4001, "enough")
        server.wait_until(lambda: server.server.statistics().connections == 0)
    assert heard[0] == {"type": "websocket.disconnect", "code": 4002, "reason": "bye"}


def test_an_app_that_returns_closes_normally_and_one_that_fails_with_1011(caplog):
    async def app(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        if scope["path"] == "/fail":
            raise RuntimeError("secret")

    with running(app) as server:
        for path, code in (("/", 1000), ("/fail", 1011)):
            with connected(server, path) as client, pytest.raises(ConnectionClosed):
                client.recv(WAIT_S)
            assert client.close_code == code
    assert errors_of(caplog) == ["asgi app failed"]


@pytest.mark.parametrize(
    ("messages", "status", "body"),
    [
        ([{"type": "websocket.close"}], 403, "forbidden"),
        (
            [
                {
                    "type": "websocket.http.response.start",
                    "status": 401,
                    "headers": [(b"content-type", b"text/plain"), (b"x-a", b"b")],
                },
                {"type": "websocket.http.response.body", "body": b"sign ", "more_body": True},
                {"type": "websocket.http.response.body", "body": b"in"},
            ],
            401,
            "sign in",
        ),
        ([], 500, "internal"),
        ([{"type": "websocket.send", "text": "too early"}], 500, "internal"),
    ],
)
def test_an_app_may_deny_before_it_accepts(messages, status, body):
    async def app(scope, receive, send):
        await receive()
        for message in messages:
            await send(message)

    with running(app) as server:
        with pytest.raises(InvalidStatus) as denied, connected(server):
            pass
        server.wait_until(lambda: server.server.statistics().websockets == 0)
    assert denied.value.response.status_code == status
    assert body in denied.value.response.body.decode()


def test_without_an_app_there_is_no_websocket():
    with running() as server:
        (response,) = responses_of(server.talk(HANDSHAKE + b"\r\n"))
    assert response.status == 404


def test_frames_before_the_accept_cut_the_connection():
    go = asyncio.Event()

    async def app(scope, receive, send):
        await receive()
        await go.wait()

    with running(app) as server:
        assert server.talk(HANDSHAKE + b"\r\n\x81\x80\x00\x00\x00\x00") == b""
        server.call(go.set)


def test_an_app_that_does_not_receive_stops_the_reading():
    go = asyncio.Event()

    async def app(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        await go.wait()
        total = 0
        while total < 100 * 100_000:
            total += len((await receive())["bytes"])
        await send({"type": "websocket.send", "text": str(total)})

    with running(app) as server, connected(server, compression=None) as client:
        paused = server.begin(_until_paused(server, go))
        for _ in range(100):
            client.send(b"x" * 100_000)
        assert client.recv(WAIT_S) == str(100 * 100_000)
        assert paused.result(WAIT_S)


async def _until_paused(server: Running, go: asyncio.Event) -> bool:
    async with asyncio.timeout(WAIT_S):
        while True:
            for connection in server.server._shared.connections:
                if getattr(connection, "_is_paused", False):
                    go.set()
                    return True
            await asyncio.sleep(0.001)


def test_draining_closes_with_1012():
    with running(echo_app, drain_grace_s=0.01) as server, connected(server) as client:
        draining = server.begin(server.server.drain())
        with pytest.raises(ConnectionClosed):
            client.recv(WAIT_S)
        assert client.close_code == 1012
        draining.result(WAIT_S)


def test_a_lost_client_is_a_disconnect_with_1006():
    heard = []

    async def app(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        heard.append(await receive())
        with pytest.raises(ConnectionResetError):
            await send({"type": "websocket.send", "text": "x"})
        heard.append(await receive())

    with running(app) as server:
        with server.connect() as client:
            client.sendall(HANDSHAKE + b"\r\n")
            assert b"101" in client.recv(4096)
        server.wait_until(lambda: len(heard) == 2)
    assert heard[0]["code"] == heard[1]["code"] == 1006


def test_starlette_echoes_json():
    from starlette.applications import Starlette
    from starlette.routing import WebSocketRoute
    from starlette.websockets import WebSocket

    async def echo(socket: WebSocket) -> None:
        await socket.accept()
        async for message in socket.iter_json():
            await socket.send_json({"got": message})

    app = Starlette(routes=[WebSocketRoute("/echo", echo)])
    with running(app) as server:
        with connected(server, "/echo") as client:
            client.send("[1]")
            assert json.loads(client.recv(WAIT_S)) == {"got": [1]}
        with pytest.raises(InvalidStatus) as denied, connected(server, "/none"):
            pass
    assert denied.value.response.status_code in (403, 404)
