"""Bounds of one route: tighter than those of the process, for methods and for functions."""

import asyncio
import socket

import httpx
import pytest

from perdure import Actor, App, DefinitionError, Limits, expose
from perdure.testing import async_test
from perdure.web.server import Server


class Slow(Actor):
    size: int = 0

    @expose(timeout_s=0.02)
    async def wait(self) -> None:
        self.size = -1
        await asyncio.Event().wait()

    @expose(body_bytes_max=20)
    async def put(self, text: str) -> int:
        self.size = len(text)
        return self.size

    @expose(timeout_s=100, body_bytes_max=1 << 30)
    async def loose(self) -> None:
        await asyncio.Event().wait()


def _app(call_timeout_s: float = 10.0) -> App:
    app = App(Slow, store="memory:", limits=Limits(call_timeout_s=call_timeout_s))

    @app.post("/wait", timeout_s=0.02)
    async def wait() -> None:
        await asyncio.Event().wait()

    @app.post("/put", body_bytes_max=20)
    async def put(text: str) -> int:
        return len(text)

    return app


def _client(app: App) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app)  # type: ignore[arg-type]
    return httpx.AsyncClient(transport=transport, base_url="http://test")


@pytest.mark.parametrize("prefix", ["/slow/a", ""])
def test_a_route_has_bounds_of_its_own(prefix: str) -> None:
    @async_test
    async def asking() -> None:
        async with _app() as app, _client(app) as http:
            late = await http.post(f"{prefix}/wait")
            assert (late.status_code, late.json()["type"]) == (504, "urn:perdure:problem:deadline")
            large = await http.post(f"{prefix}/put", json={"text": "x" * 20})
            assert large.status_code == 413
            assert large.json()["type"] == "urn:perdure:problem:body-too-large"
            assert (await http.post(f"{prefix}/put", json={"text": "tea"})).json() == 3

    asking()


@async_test
async def test_a_route_cannot_have_more_than_the_process() -> None:
    async with _app(call_timeout_s=0.02) as app, _client(app) as http:
        assert (await http.post("/slow/a/loose")).status_code == 504


@async_test
async def test_the_time_spent_waiting_behind_others_counts() -> None:
    app = _app()
    listening = socket.create_server(("127.0.0.1", 0))
    server = Server(app, None, app.limits, sweep_period_s=0.01)
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    await app.start()
    await server.start([listening])
    async with httpx.AsyncClient(base_url=url) as http:
        first = asyncio.create_task(http.post("/slow/a/loose"))
        while not app.awake().get("slow"):
            await asyncio.sleep(0.001)
        assert (await http.post("/slow/a/wait")).status_code == 504
        assert not first.done()
        await app.stop(drain_s=0)
        assert (await first).status_code == 503
    await server.close()


@pytest.mark.parametrize("bounds", [{"timeout_s": 0}, {"timeout_s": -1.0}, {"body_bytes_max": 0}])
def test_bounds_that_let_nothing_through_are_refused(bounds: dict[str, int]) -> None:
    with pytest.raises(DefinitionError, match="above zero"):
        expose(**bounds)  # type: ignore[call-overload]
    with pytest.raises(DefinitionError, match="above zero"):
        App(store="memory:").get("/quote", **bounds)  # type: ignore[typeddict-item]
