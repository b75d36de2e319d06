"""What HTTP callers with an Idempotency-Key are told."""

import asyncio

import httpx

from perdure import Actor, expose
from perdure.testing import async_test, running


class Till(Actor):
    total: int = 0

    @expose
    async def put(self, amount: int) -> int:
        self.total += amount
        return self.total

    @expose
    async def wait(self, amount: int) -> int:
        await GATE.wait()
        self.total += amount
        return self.total


GATE = asyncio.Event()


def client(app: object) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app),  # type: ignore[arg-type]
        base_url="http://shop.test",
        headers={"idempotency-key": "k-1"},
    )


@async_test
async def test_a_replay_is_marked() -> None:
    async with running(Till) as app, client(app) as http:
        first = await http.post("/till/a/put", json={"amount": 5})
        again = await http.post("/till/a/put", json={"amount": 5})
        other = await http.post("/till/a/put", json={"amount": 6})
    assert (first.json(), again.json()) == (5, 5)
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert other.status_code == 422


@async_test
async def test_a_call_under_way_is_told_and_may_come_again() -> None:
    async with running(Till) as app, client(app) as http:
        first = asyncio.create_task(http.post("/till/a/wait", json={"amount": 5}))
        while not app.awake().get("till"):
            await asyncio.sleep(0)
        running_still = await http.post("/till/a/wait", json={"amount": 5})
        assert running_still.status_code == 409
        assert running_still.json()["type"] == "urn:perdure:problem:request-running"
        assert running_still.headers["retry-after"] == "1"
        GATE.set()
        assert (await first).json() == 5
        assert (await http.post("/till/a/wait", json={"amount": 5})).json() == 5
