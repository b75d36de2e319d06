"""Live views where the App is an ASGI application of another server."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from starlette.requests import HTTPConnection
from tests.unit.web.live_serving import Board, socket_to, until, watching
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from perdure import App, Caller, Limits
from perdure.store.memory import MemoryStore
from perdure.testing import async_test, running, spin

VIEW = "/board/a/view/live"


@asynccontextmanager
async def under_uvicorn(app: App) -> AsyncIterator[int]:
    config = uvicorn.Config(
        app, port=0, log_level="critical", timeout_graceful_shutdown=1, ws="wsproto"
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await serving


@async_test
async def test_events_come_through_uvicorn_and_a_client_that_leaves_is_noticed() -> None:
    app = App(Board, store=MemoryStore(), limits=Limits(live_heartbeat_s=0.02))
    async with under_uvicorn(app) as port:
        async with watching(port, f"{VIEW}?only=t") as client:
            assert client.headers["content-type"] == "text/event-stream"
            client.reader = Unchunked(client.reader)  # type: ignore[assignment]
            assert (await client.event()).event == "snapshot"  # type: ignore[union-attr]
            await Board.at("a").put({"tea": 1, "tub": "x" * 30})
            await client.event()
            await Board.at("a").put({"tea": 2, "tub": "x" * 30})
            assert (await client.event()).event == "patch"  # type: ignore[union-attr]
            assert client.value == {"tea": 2, "tub": "x" * 30}
            reading = asyncio.create_task(client.event())
            await until(lambda: client.comments >= 2)
            reading.cancel()
        await until(lambda: app.statistics()["live_subscribers"] == 0)


class Unchunked:
    """The lines of a chunked body."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader, self._body = reader, b""

    async def readline(self) -> bytes:
        while b"\n" not in self._body:
            size = int(await self._reader.readline(), 16)
            self._body += (await self._reader.readexactly(size + 2))[:-2]
            if not size:
                return b""
        line, _, self._body = self._body.partition(b"\n")
        return line + b"\n"


@async_test
async def test_messages_come_through_uvicorn() -> None:
    app = App(Board, store=MemoryStore())
    async with under_uvicorn(app) as port:
        async with socket_to(port, VIEW) as web_socket:
            assert json.loads(await web_socket.recv())["data"] == {}
            await Board.at("a").put({"tea": 1})
            message = json.loads(await web_socket.recv())
            assert message["data"] == {"tea": 1}
        async with socket_to(port, f"{VIEW}?last_event_id={message['id']}") as web_socket:
            await until(lambda: app.statistics()["live_subscribers"] == 1)
            await spin()
            await Board.at("a").put({"tea": 1, "text": "x" * 30})
            assert json.loads(await web_socket.recv())["data"]["text"] == "x" * 30
        await until(lambda: app.statistics()["live_subscribers"] == 0)


@async_test
async def test_an_error_and_a_stop_end_both() -> None:
    async with running(Board) as app, under_uvicorn(app) as port:
        async with watching(port, f"{VIEW}?only=trouble") as client:
            client.reader = Unchunked(client.reader)  # type: ignore[assignment]
            assert (await client.event()).data["status"] == 500  # type: ignore[union-attr]
            assert await client.event() is None
        async with socket_to(port, f"{VIEW}?only=trouble") as web_socket:
            assert json.loads(await web_socket.recv())["event"] == "error"
            with pytest.raises(ConnectionClosedError):
                await web_socket.recv()
            assert web_socket.close_code == 1011
        async with watching(port, VIEW) as client, socket_to(port, VIEW) as web_socket:
            client.reader = Unchunked(client.reader)  # type: ignore[assignment]
            await client.event()
            await web_socket.recv()
            app._node.live.stop()  # type: ignore[union-attr]
            assert await client.event() is None
            assert len(client.retries) == 2
            with pytest.raises(ConnectionClosedError):
                await web_socket.recv()
            assert web_socket.close_code == 1012


async def _nobody(_connection: HTTPConnection) -> Caller | None:
    return None


@async_test
async def test_a_guest_is_refused_on_both_ways() -> None:
    app = App(Board, identify=_nobody, store=MemoryStore())
    async with under_uvicorn(app) as port:
        async with watching(port, VIEW) as client:
            assert client.status == 401
        with pytest.raises(InvalidStatus) as refusal:
            await socket_to(port, VIEW)
        assert refusal.value.response.status_code in {401, 403}


@async_test
async def test_a_send_that_never_ends_is_given_up() -> None:
    limits = Limits(write_timeout_s=0.05)
    async with running(Board, limits=limits) as app:
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            if not sent and not asked:
                asked.append(True)
                return {"type": "http.request", "body": b""}
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)
            if len(sent) > 2:
                await asyncio.Event().wait()

        asked: list[bool] = []
        scope = {"type": "http", "method": "GET", "path": VIEW, "headers": []}
        await app(scope, receive, send)
        assert [message["type"] for message in sent] == [
            "http.response.start",
            "http.response.body",
            "http.response.body",
        ]
        assert app.statistics()["live_subscribers"] == 0
