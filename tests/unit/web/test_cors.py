"""CORS: pages of other origins get in where it says so, with what it says, and nowhere else."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import websockets
from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from perdure import Actor, App, Caller, Cors, DefinitionError, expose, live, read
from perdure.testing import async_test
from perdure.web.server import Server

SHOP = "https://shop.example"
OTHER = "https://evil.example"
ASKING = {"access-control-request-method": "POST"}


class Till(Actor):
    total: int = 0

    @expose
    async def put(self, amount: int) -> int:
        self.total += amount
        return self.total

    @expose
    @live
    async def show(self) -> int:
        return self.total

    @expose
    @read
    async def whose(self) -> str | None:
        return self.caller.id if self.caller else None


def make(cors: Cors | None, **options: Any) -> App:
    site = Starlette(routes=[Route("/site", lambda _request: PlainTextResponse("site"))])
    app = App(Till, store="memory:", cors=cors, mount=site, **options)

    @app.put("/rate/{name}")
    async def rate(name: str) -> str:
        return name

    @app.get("/rate/{name}")
    async def rated(name: str) -> str:
        return name

    return app


@asynccontextmanager
async def served(app: App) -> AsyncIterator[httpx.AsyncClient]:
    """By our own server, on a socket."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = Server(app, app.site, app.limits)
    async with app:
        await server.start([listening])
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        async with httpx.AsyncClient(base_url=url) as http:
            yield http
        await server.close()


@asynccontextmanager
async def mounted(app: App) -> AsyncIterator[httpx.AsyncClient]:
    """By another ASGI server."""
    transport = httpx.ASGITransport(app)  # type: ignore[arg-type]
    async with app, httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        yield http


both = pytest.mark.parametrize("serving", [served, mounted])


def told(reply: httpx.Response) -> dict[str, str]:
    """What it says about other origins."""
    return {
        name: value
        for name, value in reply.headers.items()
        if name.startswith("access-control") or name == "vary"
    }


@both
def test_an_origin_that_is_named_is_let_in(serving: Any) -> None:
    @async_test
    async def asking() -> None:
        cors = Cors(origins=["http://localhost:3000", SHOP], headers=["X-Mine"], expose=["X-Ours"])
        async with serving(make(cors)) as http:
            first = await http.options("/till/a/put", headers={"origin": SHOP, **ASKING})
            assert (first.status_code, first.content) == (204, b"")
            assert first.headers["access-control-allow-origin"] == SHOP
            assert first.headers["access-control-allow-methods"] == "GET, HEAD, POST"
            taken = first.headers["access-control-allow-headers"].split(", ")
            assert {"Content-Type", "Idempotency-Key", "If-Match", "X-Mine"} <= set(taken)
            assert first.headers["access-control-max-age"] == "600"
            assert first.headers["vary"] == "Origin"
            done = await http.post(
                "/till/a/put",
                json={"amount": 5},
                headers={"origin": SHOP, "sec-fetch-site": "cross-site"},
            )
            assert (done.status_code, done.json()) == (200, 5)
            assert told(done).keys() == {
                "access-control-allow-origin",
                "access-control-expose-headers",
                "vary",
            }
            exposed = done.headers["access-control-expose-headers"].split(", ")
            assert {"ETag", "Retry-After", "X-Ours"} <= set(exposed)
            shown = await http.get("/till/a/show", headers={"origin": SHOP})
            assert (shown.json(), told(shown)) == (5, told(done))
            # a refusal can be read as well
            refused = await http.post("/till/a/put", json={"amount": "x"}, headers={"origin": SHOP})
            assert (refused.status_code, told(refused)) == (422, told(done))

    asking()


@both
def test_an_origin_that_is_not_named_stays_out(serving: Any) -> None:
    @async_test
    async def asking() -> None:
        async with serving(make(Cors(origins=[SHOP]))) as http:
            for origin in (OTHER, "null", SHOP + ":8443", SHOP.upper(), "http://shop.example"):
                headers = {"origin": origin}
                first = await http.options("/till/a/put", headers=headers | ASKING)
                assert first.status_code == 403
                done = await http.post("/till/a/put", json={"amount": 5}, headers=headers)
                assert done.status_code == 403
                shown = await http.get("/till/a/show", headers=headers)
                assert (shown.status_code, shown.json()) == (200, 0)
                assert told(first) == told(done) == told(shown) == {"vary": "Origin"}

    asking()


@both
def test_without_cors_or_without_an_origin_nothing_is_said(serving: Any) -> None:
    @async_test
    async def asking() -> None:
        async with serving(make(None)) as http:
            first = await http.options("/till/a/put", headers={"origin": SHOP, **ASKING})
            done = await http.post("/till/a/put", json={"amount": 5}, headers={"origin": SHOP})
            assert (first.status_code, done.status_code) == (405, 403)
            assert told(first) == told(done) == {}
        async with serving(make(Cors(origins="*"))) as http:
            done = await http.post("/till/a/put", json={"amount": 5})
            assert (done.json(), told(done)) == (5, {})
            assert (await http.options("/till/a/put")).status_code == 405

    asking()


@both
def test_all_origins_are_let_in_but_not_with_cookies(serving: Any) -> None:
    @async_test
    async def asking() -> None:
        async with serving(make(Cors(origins="*"))) as http:
            headers = {"origin": OTHER}
            done = await http.post("/till/a/put", json={"amount": 5}, headers=headers)
            assert done.json() == 5
            assert told(done)["access-control-allow-origin"] == "*"
            assert "vary" not in told(done)
            for name, value in (("cookie", "session=1"), ("authorization", "Basic YTpi")):
                brought = headers | {name: value}
                refused = await http.post("/till/a/put", json={"amount": 5}, headers=brought)
                assert refused.status_code == 403
                assert "without cookies" in refused.json()["detail"]
                shown = await http.get("/till/a/show", headers=brought)
                assert (shown.json(), told(shown)) == (5, {"vary": "Origin"})
            bearer = headers | {"authorization": "Bearer t"}  # no browser sends that by itself
            assert (await http.post("/till/a/put", json={"amount": 1}, headers=bearer)).json() == 6

    asking()


async def _by_cookie(connection: HTTPConnection) -> Caller | None:
    name = connection.cookies.get("session")
    return Caller(name) if name else None


@both
def test_with_credentials_a_cookie_counts(serving: Any) -> None:
    @async_test
    async def asking() -> None:
        cors = Cors(origins=[SHOP], credentials=True)
        async with serving(make(cors, identify=_by_cookie)) as http:
            headers = {"origin": SHOP, "cookie": "session=ann"}
            done = await http.post("/till/a/whose", headers=headers)
            assert done.json() == "ann"
            assert told(done)["access-control-allow-credentials"] == "true"
            assert told(done)["access-control-allow-origin"] == SHOP
            first = await http.options("/till/a/whose", headers={"origin": SHOP, **ASKING})
            assert first.status_code == 204  # a browser asks without its cookies
            assert told(first)["access-control-allow-credentials"] == "true"
            guest = await http.post("/till/a/whose", headers={"origin": SHOP})
            assert guest.status_code == 401
            assert told(guest)["access-control-allow-origin"] == SHOP
            stranger = await http.post("/till/a/whose", headers=headers | {"origin": OTHER})
            assert stranger.status_code == 403

    asking()


@both
def test_functions_say_their_own_methods_and_the_mounted_app_is_let_alone(serving: Any) -> None:
    @async_test
    async def asking() -> None:
        async with serving(make(Cors(origins=[SHOP]))) as http:
            headers = {"origin": SHOP}
            first = await http.options("/rate/tea", headers=headers | ASKING)
            assert first.headers["access-control-allow-methods"] == "GET, HEAD, PUT"
            done = await http.put("/rate/tea", headers=headers)
            assert (done.json(), told(done)["access-control-allow-origin"]) == ("tea", SHOP)
            site = await http.get("/site", headers=headers)
            assert (site.text, told(site)) == ("site", {})
            for own in ("/-/metrics", "/-/openapi.json", "/-/ready"):
                assert told(await http.get(own, headers=headers)) == {}
            script = await http.get("/-/live.js", headers=headers)
            assert told(script)["access-control-allow-origin"] == SHOP

    asking()


@async_test
async def test_live_views_can_be_watched_from_there() -> None:
    async with served(make(Cors(origins=[SHOP]))) as http:
        async with http.stream("GET", "/till/a/show/live", headers={"origin": SHOP}) as stream:
            assert stream.status_code == 200
            assert told(stream)["access-control-allow-origin"] == SHOP
        for headers in ({"origin": OTHER}, {"origin": SHOP, "cookie": "a=b"}):
            refused = await http.get("/till/a/show/live", headers=headers)
            assert refused.status_code == 403
        url = f"ws://{http.base_url.netloc.decode()}/till/a/show/live"
        async with websockets.connect(url, origin=websockets.Origin(SHOP)) as socket_:
            assert json.loads(await asyncio.wait_for(socket_.recv(), 10))["data"] == 0
        for origin, cookie in ((OTHER, {}), (SHOP, {"cookie": "a=b"})):
            with pytest.raises(websockets.InvalidStatus) as refusal:
                await websockets.connect(
                    url, origin=websockets.Origin(origin), additional_headers=cookie
                )
            assert refusal.value.response.status_code == 403


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"origins": "*", "credentials": True}, "name the origins"),
        ({"origins": SHOP}, "origins is a list"),
        ({"origins": []}, "origins is a list"),
        ({"origins": ["*"]}, 'write origins="\\*"'),
        ({"origins": ["shop.example"]}, "no origin as browsers send it"),
        ({"origins": [SHOP + "/"]}, "no origin as browsers send it"),
        ({"origins": ["https://Shop.example"]}, "no origin as browsers send it"),
        ({"origins": [SHOP + ":443"]}, "usual port"),
        ({"origins": ["http://shop.example:80"]}, "usual port"),
        ({"origins": ["null"]}, "no origin as browsers send it"),
        ({"origins": [SHOP], "headers": ["X Mine"]}, "no name of a header"),
        ({"origins": [SHOP], "expose": ["x\r\ny"]}, "no name of a header"),
        ({"origins": [SHOP], "max_age_s": -1}, "max_age_s"),
    ],
)
def test_what_cannot_work_is_refused_at_once(options: Any, why: str) -> None:
    with pytest.raises(DefinitionError, match=why):
        Cors(**options)
