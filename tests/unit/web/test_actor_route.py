"""What the route to actors refuses, and in which order, seen through the ASGI form of an App."""

import asyncio
from typing import Any

import httpx
from starlette.requests import HTTPConnection

from perdure import Actor, App, Caller, StoreBrokenError, expose
from perdure.store.api import Batch, Committed
from perdure.store.memory import MemoryStore
from perdure.testing import async_test, running


class Bell(Actor):
    rings: int = 0

    @expose
    async def ring(self, times: int = 1) -> int:
        self.rings += times
        return self.rings


class Größe(Actor):
    value: int = 0

    @expose
    async def erhöhe(self) -> int:
        self.value += 1
        return self.value


def _client(app: App) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


async def _nobody(_connection: HTTPConnection) -> Caller | None:
    return None


@async_test
async def test_a_guest_learns_nothing_of_a_method_that_is_not_for_guests() -> None:
    app = App(Bell, identify=_nobody, store="memory:")
    async with app, _client(app) as http:
        reply = await http.post("/bell/a/ring", content=b"nonsense")
        assert reply.status_code == 401
        assert reply.headers["www-authenticate"]


@async_test
async def test_an_idempotency_key_of_quotes_only_is_refused() -> None:
    async with running(Bell) as app, _client(app) as http:
        reply = await http.post("/bell/a/ring", headers={"idempotency-key": '""'})
        assert reply.status_code == 422
        assert reply.json()["field"] == "Idempotency-Key"


@async_test
async def test_half_a_request_does_not_run() -> None:
    messages = iter([{"type": "http.request", "more_body": True}, {"type": "http.disconnect"}])
    sent: list[Any] = []

    async def receive() -> Any:
        return next(messages)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/bell/a/ring", "headers": []}
    async with running(Bell) as app:
        await app(scope, receive, send)
        assert not sent
        assert await Bell.at("a").ring() == 1, "only this call rang"


@async_test
async def test_names_may_be_of_any_letters() -> None:
    async with running(Größe) as app, _client(app) as http:
        assert (await http.post("/größe/a/erhöhe")).json() == 1


@async_test
async def test_a_stop_answers_a_request_that_waits_for_identify() -> None:
    asked = asyncio.Event()

    async def identify(_connection: HTTPConnection) -> Caller | None:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError("never reached")

    app = App(Bell, identify=identify, store="memory:")
    async with _client(app) as http:
        await app.start()
        waiting = asyncio.create_task(http.post("/bell/a/ring"))
        await asked.wait()
        await app.stop(drain_s=0.01)
        assert (await waiting).status_code == 503


@async_test
async def test_readiness_ends_with_the_store() -> None:
    class Broken(MemoryStore):
        async def commit(self, batch: Batch) -> Committed:
            raise StoreBrokenError("the disk failed")

    async with running(Bell, store=Broken()) as app, _client(app) as http:
        assert (await http.get("/-/ready")).status_code == 200
        assert (await http.post("/bell/a/ring")).status_code == 503
        assert (await http.get("/-/ready")).status_code == 503
        assert (await http.get("/-/live")).status_code == 200
