"""Queries behind a route: what a client gets when a search, a cursor or a value is refused."""

from typing import Annotated

import httpx
import msgspec

from perdure import Actor, App, expose, indexed, interleave, read, unique
from perdure.testing import async_test, running


class Guest(Actor):
    email: Annotated[str | None, unique] = None
    nights: Annotated[int, indexed] = 0

    @expose
    async def check_in(self, email: str, nights: int) -> None:
        self.email, self.nights = email, nights


class Found(msgspec.Struct):
    keys: list[str]
    next: str | None


class Guests(Actor):
    @expose
    @read
    @interleave
    async def page(self, nights: int, limit: int = 2, after: str | None = None) -> Found:
        found = await Guest.where(nights__ge=nights).order_by("-nights").limit(limit).after(after)
        return Found([row.key for row in found], found.next)


def _client(app: App) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


@async_test
async def test_a_client_pages_through_a_listing() -> None:
    async with running(Guest, Guests) as app, _client(app) as http:
        for number in range(5):
            await Guest.at(f"g{number}").check_in(f"g{number}@b.c", number)
        first = (await http.get("/guests/all/page?nights=1")).json()
        assert first["keys"] == ["g4", "g3"]
        second = (await http.get(f"/guests/all/page?nights=1&after={first['next']}")).json()
        assert second == {"keys": ["g2", "g1"], "next": None}


@async_test
async def test_bad_cursors_and_limits_are_the_clients_mistake() -> None:
    async with running(Guest, Guests) as app, _client(app) as http:
        for query in ("after=garbled", "limit=0", "limit=5000"):
            reply = await http.get(f"/guests/all/page?nights=1&{query}")
            assert (reply.status_code, reply.json()["status"]) == (422, 422)
            assert reply.json()["type"] == "urn:perdure:problem:bad-arguments"
        assert reply.json()["field"] == "limit"


@async_test
async def test_a_value_that_is_taken_is_a_conflict_that_names_the_field() -> None:
    async with running(Guest, Guests) as app, _client(app) as http:
        arguments = {"email": "a@b.c", "nights": 1}
        assert (await http.post("/guest/a/check_in", json=arguments)).status_code == 200
        reply = await http.post("/guest/b/check_in", json=arguments)
        assert reply.status_code == 409
        told = reply.json()
        assert (told["type"], told["field"]) == ("urn:perdure:problem:not-unique", "email")
        assert (await http.post("/guest/a/check_in", json=arguments)).status_code == 200
