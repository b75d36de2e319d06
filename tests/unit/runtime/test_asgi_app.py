"""The App as an ASGI application: routes, access rules, cross-site checks, mounting, uvicorn."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from starlette.requests import HTTPConnection

from perdure import Actor, App, Caller, DomainError, Limits, expose, owner, read
from perdure.testing import async_test


class TooMany(DomainError):
    status = 409


class Cart(Actor):
    lines: dict[str, int] = {}

    @expose
    async def add(self, sku: str, qty: int = 1) -> dict[str, int]:
        if qty > 99:
            raise TooMany("at most 99")
        self.lines[sku] = self.lines.get(sku, 0) + qty
        return self.lines

    @expose
    @read
    async def view(self, only: str | None = None, limit: int = 10) -> list[str]:
        return [sku for sku in list(self.lines)[:limit] if only in {None, sku}]

    @expose
    async def crash(self) -> None:
        self.lines["x"] = 1
        raise RuntimeError("secret detail")

    @expose(access="anyone")
    async def open_to_all(self) -> str | None:
        return self.caller.id if self.caller else None

    @expose(access=owner)
    async def mine(self) -> str:
        assert self.caller is not None
        return self.caller.id

    @expose(access=lambda caller, key: caller is not None and key.startswith(caller.id))
    async def by_rule(self) -> str:
        return self.key

    async def hidden(self) -> int:
        return 1


def identify(connection: HTTPConnection) -> Caller | None:
    name = connection.headers.get("authorization")
    return Caller(name) if name else None


@asynccontextmanager
async def client(**options: Any) -> AsyncIterator[httpx.AsyncClient]:
    app = App(Cart, store="memory:", **options)
    transport = httpx.ASGITransport(app, raise_app_exceptions=True)
    async with app, httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        yield http


def _kind(reply: httpx.Response) -> str:
    assert reply.headers["content-type"] == "application/problem+json"
    body = reply.json()
    assert body["status"] == reply.status_code
    return body["type"].removeprefix("urn:perdure:problem:")


@async_test
async def test_a_call_is_a_post_with_one_json_object() -> None:
    async with client() as http:
        reply = await http.post("/cart/alice/add", json={"sku": "tea", "qty": 2})
        assert (reply.status_code, reply.json()) == (200, {"tea": 2})
        assert (await http.post("/cart/bob/view")).json() == []


@async_test
async def test_a_read_answers_get_with_query_parameters_and_head() -> None:
    async with client() as http:
        for sku in ("tea", "jam"):
            await http.post("/cart/a/add", json={"sku": sku})
        assert (await http.get("/cart/a/view")).json() == ["tea", "jam"]
        assert (await http.get("/cart/a/view?limit=1")).json() == ["tea"]
        assert (await http.get("/cart/a/view?only=jam")).json() == ["jam"]
        head = await http.head("/cart/a/view")
        assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "kind"),
    [
        ("POST", "/cart/a/nothing", b"", 404, "not-found"),
        ("POST", "/cart/a/hidden", b"", 404, "not-found"),
        ("POST", "/cart/a/save", b"", 404, "not-found"),
        ("POST", "/cart/a/__class__", b"", 404, "not-found"),
        ("POST", "/nobody/a/add", b"", 404, "not-found"),
        ("POST", "/cart/a", b"", 404, "not-found"),
        ("GET", "/cart/a/add", b"", 405, "method-not-allowed"),
        ("PUT", "/cart/a/view", b"", 405, "method-not-allowed"),
        ("POST", "/cart/a/add", b"{}", 422, "bad-arguments"),
        ("POST", "/cart/a/add", b"[" * 100_000, 422, "bad-arguments"),
        ("POST", "/cart/a/add", b'{"sku":"\xff"}', 422, "bad-arguments"),
        ("GET", "/cart/a/view?limit=x", b"", 422, "bad-arguments"),
        ("POST", "/cart/%00/add", b'{"sku":"a"}', 400, "invalid-key"),
        ("POST", "/cart//add", b'{"sku":"a"}', 400, "invalid-key"),
        ("POST", "/cart/a/add", b'{"sku":"a","qty":100}', 409, "too-many"),
        ("POST", "/cart/a/crash", b"", 500, "internal"),
        ("POST", "/cart/a/add", b" " * (2 << 20), 413, "body-too-large"),
    ],
)
def test_every_refusal_is_a_problem(
    method: str, path: str, body: bytes, status: int, kind: str
) -> None:
    @async_test
    async def run() -> None:
        async with client() as http:
            reply = await http.request(method, path, content=body)
            assert (reply.status_code, _kind(reply)) == (status, kind)
            assert b"secret" not in reply.content
            assert (await http.get("/cart/a/view")).json() == []

    run()


@async_test
async def test_a_bad_argument_is_named() -> None:
    async with client() as http:
        reply = await http.post("/cart/a/add", json={"sku": "tea", "qty": "two"})
        assert reply.json()["field"] == "qty"


@pytest.mark.parametrize("key", ["a/b", "ä ö", "..x", "%", "日本", "'; DROP TABLE cart; --"])
def test_keys_travel_percent_encoded(key: str) -> None:
    @async_test
    async def run() -> None:
        from urllib.parse import quote

        async with client() as http:
            path = f"/cart/{quote(key, safe='')}"
            assert (await http.post(f"{path}/add", json={"sku": "tea"})).status_code == 200
            assert await Cart.at(key).view() == ["tea"]

    run()


@pytest.mark.parametrize(
    ("method", "who", "key", "status"),
    [
        ("view", None, "a", 401),
        ("view", "bob", "a", 200),
        ("mine", None, "a", 401),
        ("mine", "bob", "a", 403),
        ("mine", "a", "a", 200),
        ("open_to_all", None, "a", 200),
        ("by_rule", None, "bob-1", 401),
        ("by_rule", "bob", "bob-1", 200),
        ("by_rule", "bob", "carl", 403),
    ],
)
def test_access_rules(method: str, who: str | None, key: str, status: int) -> None:
    @async_test
    async def run() -> None:
        async with client(identify=identify) as http:
            headers = {"authorization": who} if who else {}
            reply = await http.post(f"/cart/{key}/{method}", headers=headers)
            assert reply.status_code == status

    run()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({"origin": "http://evil"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://test"}, 200),
        ({"origin": "http://test", "sec-fetch-site": "cross-site"}, 403),
        ({}, 200),
    ],
)
def test_posts_of_another_site_are_refused(headers: dict[str, str], status: int) -> None:
    @async_test
    async def run() -> None:
        async with client() as http:
            reply = await http.post("/cart/a/add", json={"sku": "tea"}, headers=headers)
            assert reply.status_code == status
            assert await Cart.at("a").view() == (["tea"] if status == 200 else [])

    run()


@async_test
async def test_an_idempotency_key_works_over_http_and_belongs_to_its_caller() -> None:
    async with client(identify=identify) as http:

        async def add(who: str, qty: int = 1) -> httpx.Response:
            headers = {"authorization": who, "idempotency-key": "k"}
            return await http.post("/cart/x/add", json={"sku": "t", "qty": qty}, headers=headers)

        assert [(await add("a")).json() for _ in range(3)] == [{"t": 1}] * 3
        assert (await add("b")).json() == {"t": 2}
        assert _kind(await add("a", 5)) == "request-reused"


@pytest.mark.parametrize("value", ["", "x" * 256])
def test_an_idempotency_key_has_a_sensible_length(value: str) -> None:
    @async_test
    async def run() -> None:
        async with client() as http:
            reply = await http.post("/cart/a/view", headers={"idempotency-key": value})
            assert _kind(reply) == "bad-arguments"

    run()


@async_test
async def test_overload_is_503_with_retry_after() -> None:
    async with client(limits=Limits(mailbox_depth_max=1)) as http:
        replies = await asyncio.gather(
            *[http.post("/cart/a/add", json={"sku": "t"}) for _ in range(30)]
        )
        refused = [reply for reply in replies if reply.status_code != 200]
        assert await Cart.at("a").view() == ["t"]
        assert all(r.status_code == 503 and r.headers["retry-after"] == "1" for r in refused)
        done = [reply.json()["t"] for reply in replies if reply.status_code == 200]
        assert sorted(done) == list(range(1, len(done) + 1))


@async_test
async def test_health_routes_answer() -> None:
    async with client() as http:
        assert (await http.get("/-/live")).json() == {"ok": True}
        assert (await http.get("/-/ready")).json() == {"ok": True}


@async_test
async def test_what_is_not_for_an_actor_goes_to_the_mounted_app() -> None:
    inner = FastAPI()

    @inner.get("/hello")
    async def hello() -> dict[str, list[str]]:
        return {"cart": await Cart.at("a").view()}

    async with client(mount=inner) as http:
        await http.post("/cart/a/add", json={"sku": "tea"})
        assert (await http.get("/hello")).json() == {"cart": ["tea"]}
        assert (await http.get("/nowhere")).status_code == 404


@async_test
async def test_an_app_can_be_mounted_inside_fastapi() -> None:
    app = App(Cart, store="memory:")
    outer = FastAPI()
    outer.mount("/api", app)
    transport = httpx.ASGITransport(outer)
    async with app, httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        assert (await http.post("/api/cart/a/add", json={"sku": "t"})).json() == {"t": 1}
        assert (await http.get("/api/nowhere")).status_code == 404


@async_test
async def test_uvicorn_runs_an_app_with_start_and_stop(tmp_path: Path) -> None:
    app = App(Cart, store=f"sqlite:{tmp_path}")
    config = uvicorn.Config(app, port=0, log_level="critical", lifespan="on")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
        assert (await http.post("/cart/a/add", json={"sku": "t"})).json() == {"t": 1}
    server.should_exit = True
    await serving
    async with App(Cart, store=f"sqlite:{tmp_path}"):
        assert await Cart.at("a").view() == ["t"]
