"""`LiveClient`, through restarts of its server."""

import asyncio
import socket
from typing import Any

import pytest
from starlette.requests import HTTPConnection
from tests.unit.web.live_serving import Board, serving, until

from perdure import App, Caller, LiveClient, NotFoundError, NotSignedInError, PerdureError
from perdure.store.memory import MemoryStore
from perdure.testing import async_test, running
from perdure.web.server import Server


@async_test
async def test_the_client_gives_whole_values() -> None:
    async with running(Board) as app, serving(app) as (port, _):
        values = aiter(LiveClient(f"http://127.0.0.1:{port}/board/a/view?only=t"))
        assert await anext(values) == {}
        await Board.at("a").put({"tea": {"a": 1, "b": "x" * 30}, "mug": 1})
        assert await anext(values) == {"tea": {"a": 1, "b": "x" * 30}}
        await Board.at("a").put({"tea": {"a": 2, "b": "x" * 30}, "mug": 1})
        assert await anext(values) == {"tea": {"a": 2, "b": "x" * 30}}
        await values.aclose()
        await until(lambda: app.statistics()["live_subscribers"] == 0)


@async_test
async def test_the_client_outlives_its_server() -> None:
    store, seen = MemoryStore(), []
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]

    async def follow() -> None:
        async for fields in LiveClient(f"http://127.0.0.1:{port}/board/a"):
            seen.append(fields["moves"])

    following = asyncio.create_task(follow())
    for start in range(4):
        app = App(Board, store=store)
        async with app:
            if start:
                await Board.at("a").put({})
            server = Server(app, limits=app.limits)
            await server.start([socket.create_server(("127.0.0.1", port))])
            await until(lambda start=start: seen and seen[-1] == start)
            await server.close()
    following.cancel()
    assert seen == [0, 1, 2, 3]


async def _nobody(_connection: HTTPConnection) -> Caller | None:
    return None


@async_test
async def test_refusals_are_raised_as_what_they_are() -> None:
    app = App(Board, identify=_nobody, store=MemoryStore())
    async with app, serving(app) as (port, _):
        expected: list[tuple[str, Any]] = [("/board/a", NotSignedInError), ("/x/a", NotFoundError)]
        for path, error in expected:
            with pytest.raises(error):
                await anext(aiter(LiveClient(f"http://127.0.0.1:{port}{path}")))
    async with running(Board) as app, serving(app) as (port, _):
        with pytest.raises(PerdureError) as failure:
            path = "/board/a/view?only=trouble"
            await anext(aiter(LiveClient(f"http://127.0.0.1:{port}{path}")))
        assert failure.value.status == 500
