"""The App as an ASGI application: starting with the server that runs it."""

import asyncio
from typing import Any

import pytest

from perdure import Actor, App


class Note(Actor):
    text: str = ""


async def page(_scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


async def run_lifespan(app: App) -> list[str]:
    told = [{"type": "lifespan.shutdown"}, {"type": "lifespan.startup"}]
    heard: list[str] = []

    async def receive() -> dict[str, str]:
        return told.pop()

    async def send(message: dict[str, str]) -> None:
        heard.append(message["type"].removeprefix("lifespan."))

    await app({"type": "lifespan"}, receive, send)
    return heard


@pytest.mark.parametrize("mount", [None, page])
def test_a_store_that_cannot_open_fails_the_startup(mount: Any) -> None:
    app = App(Note, mount=mount, store="nonsense:")
    assert asyncio.run(run_lifespan(app)) == ["startup.failed"]


@pytest.mark.parametrize("mount", [None, page])
def test_the_app_starts_and_stops_with_the_server(mount: Any) -> None:
    app = App(Note, mount=mount, store="memory:")
    assert asyncio.run(run_lifespan(app)) == ["startup.complete", "shutdown.complete"]
    assert not app.ready
