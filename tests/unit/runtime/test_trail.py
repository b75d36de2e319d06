"""Request ids: they go with the work, wherever it goes."""

import logging

import httpx
import pytest
from tests.unit.runtime.several import several

from perdure import Actor, App, expose, request_id
from perdure.base.trail import Trail, current_trail
from perdure.testing import async_test


@pytest.fixture(autouse=True)
def _named():
    token = current_trail.set(Trail("r-42"))
    yield
    current_trail.reset(token)


class Scribe(Actor):
    ids: list[str | None] = []

    async def write(self) -> None:
        self.ids.append(request_id())

    @expose
    async def pass_on(self) -> str | None:
        Scribe.at("second").tell.write()
        return request_id()

    @expose
    async def stumble(self) -> None:
        raise RuntimeError("oh")

    async def all(self) -> list[str | None]:
        return self.ids


@async_test
async def test_calls_over_processes_follow_the_request():
    async with several(2) as cluster:
        web = await cluster.open_gateway()
        [here], [there] = cluster.keys(0), cluster.keys(1)
        assert await web.Account.at(here).follow([there, here + "x"]) == ["r-42"] * 3
        current_trail.set(None)
        assert await web.Account.at(here).follow([there]) == [None, None]


@async_test
async def test_a_message_follows_the_request_that_sent_it():
    async with App(Scribe, store="memory:"):
        assert await Scribe.at("first").pass_on() == "r-42"
        current_trail.set(None)
        ids: list[str | None] = []

        async def has_come() -> bool:
            ids[:] = await Scribe.at("second").all()
            return bool(ids)

        while not await has_come():
            pass
        assert ids == ["r-42"]


@async_test
async def test_the_log_line_of_a_failed_turn_names_the_request(caplog):
    app = App(Scribe, store="memory:")
    transport = httpx.ASGITransport(app)
    async with app, httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        with caplog.at_level(logging.ERROR, "perdure.web"):
            assert (await http.post("/scribe/a/stumble")).status_code == 500
    [record] = [one for one in caplog.records if one.message == "turn failed"]
    assert record.request_id == "r-42"
