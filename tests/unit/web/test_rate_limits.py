"""Rates over HTTP, in one process: who is counted for what, and what answers tell."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx
import pytest
from starlette.requests import HTTPConnection
from tests.unit.web.test_live_asgi import under_uvicorn
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from perdure import (
    Actor,
    App,
    Caller,
    DefinitionError,
    DomainError,
    NotRunningError,
    Rate,
    RateLimitError,
    anyone,
    expose,
    live,
    owner,
    read,
)
from perdure.testing import VirtualClock, async_test
from perdure.web.openapi import Docs, openapi_of
from perdure.web.problems import error_of
from perdure.web.rate_limits import _address
from perdure.web.server import Server


class Empty(DomainError):
    status = 410


class Shelf(Actor):
    left: int = 100

    @expose(access=anyone, rate=Rate(3, per_s=60))
    @read
    async def look(self, shelf: int = 0) -> int:
        return self.left + shelf

    @expose(access=anyone, rate=Rate(2, per_s=10, burst=1, name="taking"))
    async def take(self) -> int:
        self.left -= 1
        return self.left

    @expose(access=anyone, rate=Rate(2, per_s=10, burst=1, name="taking"))
    async def break_one(self) -> int:
        raise Empty("there is nothing to break")

    @expose(access=owner, rate=Rate(2))
    async def own(self) -> str:
        return "yours"

    @expose(access=anyone, rate=[Rate(2, per_s=1), Rate(3, per_s=3600)])
    async def twice(self) -> None: ...

    @expose(access=anyone, rate=Rate(2, by=lambda _caller, key: key if key != "free" else None))
    async def by_key(self) -> None: ...

    @expose(access=anyone, rate=[Rate(9, name="guest"), Rate(1, by=lambda _c, key: key, name="k")])
    async def both(self) -> None: ...

    @expose(access=anyone, rate=Rate(2, per_s=60, by="address"))
    @live
    async def watched(self) -> int:
        return self.left

    @expose(access=anyone)
    @read
    async def unlimited(self) -> int:
        return self.left


async def _by_header(connection: HTTPConnection) -> Caller | None:
    name = connection.headers.get("x-name")
    return Caller(name) if name else None


def _client(app: Any, address: str = "192.0.2.1", **headers: str) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, client=(address, 1))
    return httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers)


@asynccontextmanager
async def _served(app: App) -> AsyncIterator[int]:
    """The app behind its own server; gives the port."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = Server(app, None, app.limits, sweep_period_s=0.01)
    async with app:
        await server.start([listening])
        try:
            yield int(listening.getsockname()[1])
        finally:
            await server.close()


async def _statuses(http: httpx.AsyncClient, path: str, count: int) -> list[int]:
    return [(await http.post(path)).status_code for _ in range(count)]


@async_test
async def test_answers_tell_what_is_left_and_refusals_when_to_come_back() -> None:
    clock = VirtualClock()
    app = App(Shelf, store="memory:", clock=clock)
    async with app, _client(app) as http:
        for left in (2, 1):
            reply = await http.get("/shelf/a/look")
            assert (reply.status_code, reply.json()) == (200, 100)
            assert reply.headers["ratelimit"] == f'"shelf.look";r={left};t=20'
            assert reply.headers["ratelimit-policy"] == '"shelf.look";q=3;w=60'
        await clock.advance(5)
        reply = await http.get("/shelf/a/look")
        assert reply.headers["ratelimit"] == '"shelf.look";r=0;t=15'
        await clock.advance(4.5)
        reply = await http.get("/shelf/a/look")
        assert reply.status_code == 429
        assert reply.headers["ratelimit"] == '"shelf.look";r=0;t=11'
        assert reply.headers["ratelimit-policy"] == '"shelf.look";q=3;w=60'
        assert reply.headers["retry-after"] == "11"
        assert reply.json() == {
            "type": "urn:perdure:problem:rate-limited",
            "title": "Too many requests",
            "status": 429,
            "detail": "this comes too often (shelf.look); try again in 11 s",
            "violated-policies": ["shelf.look"],
        }
        error = error_of(reply.json())
        assert isinstance(error, RateLimitError)
        assert error.policies == ("shelf.look",)
        await clock.advance(11)
        assert (await http.get("/shelf/a/look")).status_code == 200
        assert (await http.get("/shelf/a/look")).status_code == 429
        assert "ratelimit" not in (await http.get("/shelf/a/unlimited")).headers


@async_test
async def test_the_same_over_the_own_server() -> None:
    async with (
        _served(App(Shelf, store="memory:")) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http,
    ):
        replies = [await http.get("/shelf/a/look") for _ in range(4)]
        assert [one.status_code for one in replies] == [200, 200, 200, 429]
        assert [one.headers["ratelimit"][:16] for one in replies] == [
            f'"shelf.look";r={left}' for left in (2, 1, 0, 0)
        ]
        assert replies[3].headers["retry-after"] == "20"
        assert "ratelimit" not in (await http.get("/shelf/a/unlimited")).headers


@async_test
async def test_the_first_requests_of_many_connections_are_allowed_and_no_others() -> None:
    async with _served(App(Shelf, store="memory:")) as port:

        async def asking() -> list[int]:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
                return [(await http.get("/shelf/a/look")).status_code for _ in range(5)]

        each = await asyncio.gather(*(asking() for _ in range(8)))
    statuses = [status for one in each for status in one]
    assert sorted(statuses) == [200] * 3 + [429] * 37


@async_test
async def test_routes_whose_rates_have_one_name_share_a_count() -> None:
    app = App(Shelf, store="memory:", clock=VirtualClock())
    async with app, _client(app) as http:
        reply = await http.post("/shelf/a/break_one")
        assert (reply.status_code, reply.headers["ratelimit"]) == (410, '"taking";r=0;t=5')
        assert reply.headers["ratelimit-policy"] == '"taking";q=2;w=10;perdure-burst=1'
        assert (await http.post("/shelf/b/take")).status_code == 429
        assert (await http.get("/shelf/b/look")).status_code == 200


@async_test
async def test_who_is_signed_in_is_counted_by_id_and_guests_by_address() -> None:
    app = App(Shelf, store="memory:", identify=_by_header, clock=VirtualClock())
    async with app, _client(app) as one, _client(app, "192.0.2.2") as other:
        ann, bob = {"x-name": "ann"}, {"x-name": "192.0.2.1"}
        assert await _statuses(one, "/shelf/a/look", 4) == [200] * 3 + [429]
        assert await _statuses(other, "/shelf/a/look", 1) == [200]
        for client in (one, other, one):
            assert (await client.get("/shelf/a/look", headers=ann)).status_code == 200
        assert (await other.get("/shelf/a/look", headers=ann)).status_code == 429
        assert (await one.get("/shelf/a/look", headers=bob)).status_code == 200


@async_test
async def test_who_is_refused_by_access_is_counted_by_address_and_so_are_guesses() -> None:
    app = App(Shelf, store="memory:", identify=_by_header, clock=VirtualClock())
    async with app, _client(app) as http:
        replies = [await http.post("/shelf/ann/own") for _ in range(3)]
        assert [one.status_code for one in replies] == [401, 401, 429]
        assert "www-authenticate" in replies[0].headers
        ann = {"x-name": "ann"}
        assert (await http.post("/shelf/ann/own", headers=ann)).status_code == 200
        assert (await http.post("/shelf/bob/own", headers=ann)).status_code == 403
        assert (await http.post("/shelf/ann/own", headers=ann)).status_code == 429


@async_test
async def test_what_is_no_call_of_the_route_is_not_counted() -> None:
    for identify in (None, _by_header):
        await _is_not_counted(App(Shelf, store="memory:", identify=identify, clock=VirtualClock()))


async def _is_not_counted(app: App) -> None:
    async with app, _client(app) as http:
        for _ in range(5):
            assert (await http.put("/shelf/a/look")).status_code == 405
            assert (await http.get("/shelf/a/take")).status_code == 405
            assert (await http.get("/shelf/%00/look")).status_code == 400
            foreign = {"origin": "http://elsewhere"}
            assert (await http.post("/shelf/a/look", headers=foreign)).status_code == 403
            assert (await http.get("/shelf/a/nothing")).status_code == 404
        reply = await http.get("/shelf/a/look?shelf=first")
        assert (reply.status_code, reply.headers["ratelimit"]) == (422, '"shelf.look";r=2;t=20')


@async_test
async def test_several_rates_must_all_allow_and_a_refused_request_spends_none() -> None:
    clock = VirtualClock()
    app = App(Shelf, store="memory:", clock=clock)
    async with app, _client(app) as http:
        reply = await http.post("/shelf/a/twice")
        assert reply.headers["ratelimit"] == '"shelf.twice";r=1;t=1, "shelf.twice 2";r=2;t=1200'
        policies = '"shelf.twice";q=2;w=1, "shelf.twice 2";q=3;w=3600'
        assert reply.headers["ratelimit-policy"] == policies
        assert await _statuses(http, "/shelf/a/twice", 5) == [200] + [429] * 4
        await clock.advance(2)
        reply = await http.post("/shelf/a/twice")
        assert reply.headers["ratelimit"] == '"shelf.twice";r=1;t=1, "shelf.twice 2";r=0;t=1198'
        reply = await http.post("/shelf/a/twice")
        assert reply.json()["violated-policies"] == ["shelf.twice 2"]
        assert reply.headers["ratelimit"] == '"shelf.twice 2";r=0;t=1198'
        assert reply.headers["retry-after"] == "1198"


@async_test
async def test_rates_of_different_subjects_spend_nothing_either_if_one_refuses() -> None:
    app = App(Shelf, store="memory:", clock=VirtualClock())
    async with app, _client(app) as http:
        assert await _statuses(http, "/shelf/a/both", 6) == [200] + [429] * 5
        reply = await http.post("/shelf/b/both")
        assert reply.headers["ratelimit"] == '"guest";r=7;t=7, "k";r=0;t=60'


@async_test
async def test_a_function_says_whose_requests_are_counted_together() -> None:
    app = App(Shelf, store="memory:", clock=VirtualClock())
    async with app, _client(app) as one, _client(app, "192.0.2.2") as other:
        assert await _statuses(one, "/shelf/a/by_key", 2) == [200, 200]
        assert await _statuses(other, "/shelf/a/by_key", 1) == [429]
        assert await _statuses(one, "/shelf/b/by_key", 1) == [200]
        reply = await one.post("/shelf/free/by_key")
        assert "ratelimit" not in reply.headers
        assert await _statuses(one, "/shelf/free/by_key", 5) == [200] * 5
        long = "k" * 500
        assert await _statuses(one, f"/shelf/{long}/by_key", 3) == [200, 200, 429]
        assert await _statuses(one, f"/shelf/{long}k/by_key", 1) == [200]


@async_test
async def test_a_function_that_fails_is_an_error_of_the_app_and_lets_nobody_in() -> None:
    answers: dict[str, Any] = {"text": "x", "number": 5}
    rate = Rate(1, by=lambda _caller, key: answers[key])

    class Guarded(Actor):
        @expose(rate=rate)
        async def call(self) -> None: ...

    app = App(Guarded, store="memory:")

    @app.post("/quote/{key}", rate=rate)
    async def quote(key: str) -> str:
        return key

    async with app, _client(app) as http:
        for path in ("/quote/{}", "/guarded/{}/call"):
            assert await _statuses(http, path.format("text"), 2) == [200, 429]
            for key in ("none", "number"):
                reply = await http.post(path.format(key))
                assert reply.json() == {
                    "type": "urn:perdure:problem:internal",
                    "title": "Internal error",
                    "status": 500,
                }


@async_test
async def test_functions_have_rates_too_and_the_app_one_for_all_routes() -> None:
    clock = VirtualClock()
    app = App(Shelf, store="memory:", rate=Rate(4, per_s=40), clock=clock)

    @app.get("/quote/{sku}", rate=Rate(2, per_s=60))
    async def quote(sku: str) -> str:
        return sku

    @app.get("/free")
    async def free() -> None: ...

    async with app, _client(app) as http:
        reply = await http.get("/quote/tea")
        assert reply.headers["ratelimit"] == '"all";r=3;t=10, "GET /quote/{sku}";r=1;t=30'
        assert (await http.get("/free")).headers["ratelimit"] == '"all";r=2;t=10'
        assert (await http.get("/shelf/a/unlimited")).headers["ratelimit"] == '"all";r=1;t=10'
        assert (await http.get("/quote/rum")).status_code == 200
        assert (await http.get("/free")).status_code == 429
        assert (await http.get("/-/ready")).status_code == 200
        await clock.advance(10)
        reply = await http.get("/quote/rum")
        assert reply.json()["violated-policies"] == ["GET /quote/{sku}"]
        assert (await http.get("/free")).status_code == 200


@async_test
async def test_a_live_view_counts_when_it_is_opened() -> None:
    for serve in (_served, under_uvicorn):
        await _counts_openings(serve)


async def _counts_openings(serve: Callable[[App], AbstractAsyncContextManager[int]]) -> None:
    async with serve(App(Shelf, store="memory:")) as port:
        url = f"127.0.0.1:{port}/shelf/a/watched"
        async with connect(f"ws://{url}/live") as watching:
            response = watching.response
            assert response is not None
            assert response.headers["ratelimit"] == '"shelf.watched";r=1;t=30'
            await watching.recv()
        async with (
            httpx.AsyncClient() as http,
            http.stream("GET", f"http://{url}/live") as stream,
        ):
            assert stream.headers["ratelimit"] == '"shelf.watched";r=0;t=30'
            assert stream.headers["ratelimit-policy"] == '"shelf.watched";q=2;w=60'
        async with httpx.AsyncClient() as http:
            assert (await http.get(f"http://{url}/live")).status_code == 429
        with pytest.raises(InvalidStatus) as refused:
            async with connect(f"ws://{url}/live"):
                pass
        assert refused.value.response.status_code == 429
        assert refused.value.response.headers["retry-after"] in {"29", "30"}
        assert refused.value.response.headers["ratelimit"].startswith('"shelf.watched";r=0;t=')


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("no address", "none", False),
        ("x" * 200, "x" * 201, False),
    ],
)
def test_addresses_of_one_subscriber_are_one(one: str, other: str, is_same: bool) -> None:
    assert (_address(one) == _address(other)) == is_same


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: Rate(0), "limit is 0"),
        (lambda: Rate(1.5), "limit is 1.5"),
        (lambda: Rate(True), "limit is True"),
        (lambda: Rate(1, per_s=0), "per_s is 0"),
        (lambda: Rate(1, per_s=0.5), "per_s is 0.5"),
        (lambda: Rate(1, burst=0), "burst is 0"),
        (lambda: Rate(1, per_s=10**9, burst=10**9), "billion seconds"),
        (lambda: Rate(1, by="ip"), "by is 'ip'"),
        (lambda: Rate(1, by=_by_header), "cannot be async"),
        (lambda: Rate(1, name='a"b'), "printable"),
        (lambda: Rate(1, name="ä"), "printable"),
        (lambda: Rate(1, name=""), "printable"),
        (lambda: expose(rate=100), "rate is 100; it must be a Rate"),
        (lambda: App(store="memory:", rate="100/m"), "must be a Rate"),
        (lambda: App(store="memory:").get("/a", rate=[Rate(1), 2]), "rate is 2; it must"),
    ],
)
def test_rates_that_cannot_work_are_refused(make: Any, why: str) -> None:
    with pytest.raises(DefinitionError, match=why):
        make()


@async_test
async def test_one_name_is_one_rate() -> None:
    app = App(store="memory:", rate=Rate(10, name="shared"))

    @app.get("/quote", rate=Rate(11, name="shared"))
    async def quote() -> None: ...

    with pytest.raises(DefinitionError, match="two rates are named 'shared', and differ"):
        await app.start()
    assert not app.is_ready


@async_test
async def test_code_of_the_application_can_count_too() -> None:
    app = App(Shelf, store="memory:")
    with pytest.raises(NotRunningError):
        await app.spend(Rate(1, name="x"), "a")
    async with app, _client(app) as http:
        by_address = Rate(1, by="address", name="x")
        await app.spend(by_address, "2001:db8::1")
        with pytest.raises(RateLimitError, match="too often") as refused:
            await app.spend(by_address, "2001:db8::2")
        assert (refused.value.retry_after_s, refused.value.policies) == (60, ("x",))
        await app.spend(by_address, "2001:db9::1")
        with pytest.raises(DefinitionError, match="needs a name"):
            await app.spend(Rate(1), "a")
        with pytest.raises(DefinitionError, match="two rates are named 'taking'"):
            await app.spend(Rate(1, name="taking"), "a")
        assert (await http.post("/shelf/a/take")).status_code == 200


@async_test
async def test_code_and_routes_share_a_name() -> None:
    app = App(Shelf, store="memory:", identify=_by_header)
    async with app, _client(app, **{"x-name": "ann"}) as http:
        await app.spend(Rate(2, per_s=10, burst=1, name="taking"), "ann")
        assert (await http.post("/shelf/a/take")).status_code == 429


@async_test
async def test_refusals_are_counted_by_rate() -> None:
    app = App(Shelf, store="memory:")
    async with app, _client(app, "127.0.0.1", host="localhost") as http:
        await _statuses(http, "/shelf/a/look", 5)
        text = (await http.get("/-/metrics")).text
    assert 'perdure_rate_limited_total{rate="shelf.look"} 2' in text
    assert "perdure_rate_subjects 1" in text
    assert "perdure_rate_decided_alone_total 0" in text


@async_test
async def test_nothing_of_it_is_seen_where_actors_are_listed() -> None:
    app = App(Shelf, store="memory:")
    async with app, _client(app) as http:
        await _statuses(http, "/shelf/a/look", 2)
        assert set(app.awake()) == {"shelf"}
        assert (await http.get("/rate-bucket/1/take")).status_code == 404
        document = (await http.get("/-/openapi.json")).json()
    assert not [path for path in document["paths"] if "bucket" in path]


def test_the_documentation_tells_which_operations_are_limited() -> None:
    def limited(app: App) -> set[str]:
        document = openapi_of(app.operations(), Docs(), None)
        found = set()
        for path, methods in document["paths"].items():
            for operation in methods.values():
                responses = operation["responses"]
                if is_limited := "429" in responses:
                    found.add(path)
                assert ("RateLimit" in responses["200"].get("headers", ())) == is_limited
        return found

    some = limited(App(Shelf, store="memory:"))
    assert {"/shelf/{key}/look", "/shelf/{key}/watched/live"} <= some
    assert "/shelf/{key}/unlimited" not in some
    everything = limited(App(Shelf, store="memory:", rate=Rate(9)))
    assert "/shelf/{key}/unlimited" in everything
    response = openapi_of([], Docs(), None)["components"]["responses"]["Problem429"]
    assert set(response["headers"]) == {"Retry-After", "RateLimit", "RateLimit-Policy"}
    schema = response["content"]["application/problem+json"]["schema"]
    assert schema["properties"]["type"]["anyOf"][0]["enum"] == ["urn:perdure:problem:rate-limited"]
