"""Versions: a client that says one gets what it knows, and one that says none gets the first."""

import socket
from datetime import UTC, date, datetime
from typing import Annotated, Any

import httpx
import pytest

from perdure import (
    Actor,
    App,
    Client,
    Cors,
    DefinitionError,
    Rate,
    expose,
    live,
    read,
    watch,
)
from perdure.testing import async_test
from perdure.web.server import Server


class Cart(Actor):
    lines: list[str] = []
    total: Annotated[int, live] = 0

    @expose(deprecated=date(2026, 3, 1), sunset=date(2027, 1, 31), until=3)
    async def add(self, sku: str) -> list[str]:
        """Put one in."""
        self.lines.append(sku)
        return self.lines

    @expose(version=2, route="add")
    async def add_many(self, sku: str, qty: int) -> int:
        """Put many in."""
        self.lines += [sku] * qty
        return len(self.lines)

    @expose
    @read
    async def view(self) -> list[str]:
        return self.lines

    @expose(version=2, until=3)
    @live
    async def count(self) -> int:
        return len(self.lines)

    @expose(route="summary", version=3)
    @read
    async def _not_public(self) -> str:
        return "never"

    @expose(route="summary", version=4)
    @read
    async def summary_4(self) -> str:
        return f"{len(self.lines)} lines"


def make(**options: Any) -> App:
    app = App(Cart, store="memory:", **options)

    @app.get("/quote/{sku}", deprecated=datetime(2026, 3, 1, 12, tzinfo=UTC))
    async def quote(sku: str) -> int:
        return len(sku)

    @app.get("/quote/{sku}", version=2)
    async def quote_text(sku: str) -> str:
        return sku.upper()

    @app.post("/order", version=3)
    async def order() -> str:
        return "ordered"

    return app


def _client(app: App) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app)  # type: ignore[arg-type]
    return httpx.AsyncClient(transport=transport, base_url="http://test")


@async_test
async def test_each_version_has_the_newest_that_is_not_newer() -> None:
    app = make()
    async with app, _client(app) as http:
        one = {"sku": "tea"}
        for prefix in ("", "/v1"):
            assert (await http.post(f"{prefix}/cart/a/add", json=one)).json()[-1] == "tea"
            assert (await http.get(f"{prefix}/quote/tea")).json() == 3
            assert (await http.post(f"{prefix}/order")).status_code == 404
            assert (await http.get(f"{prefix}/cart/a/count")).status_code == 404
        many = one | {"qty": 3}
        assert (await http.post("/cart/a/add", json=many)).status_code == 422
        for prefix in ("/v2", "/v3", "/v4"):
            before = len((await http.get("/cart/a/view")).json())
            assert (await http.post(f"{prefix}/cart/a/add", json=many)).json() == before + 3
            assert (await http.post(f"{prefix}/cart/a/add", json=one)).status_code == 422
            assert (await http.get(f"{prefix}/quote/tea")).json() == "TEA"
            assert len((await http.get(f"{prefix}/cart/a/view")).json()) == before + 3
        assert (await http.get("/v2/cart/a/count")).json() == 11
        for prefix in ("/v3", "/v4"):
            assert (await http.get(f"{prefix}/cart/a/count")).status_code == 404
            assert (await http.post(f"{prefix}/order")).json() == "ordered"
        assert (await http.get("/v3/cart/a/summary")).status_code == 404
        assert (await http.get("/v4/cart/a/summary")).json() == "11 lines"
        for unknown in ("/v0", "/v5", "/v02", "/v", "/2", "/v4/v4"):
            assert (await http.get(f"{unknown}/cart/a/view")).status_code == 404, unknown
            assert (await http.get(f"{unknown}/quote/tea")).status_code == 404, unknown
        for path in ("/cart/a/add_many", "/v2/cart/a/add_many", "/v4/cart/a/summary_4"):
            assert (await http.post(path, json=many)).status_code == 404, path


@async_test
async def test_what_will_go_says_so_in_every_answer() -> None:
    app = make()
    async with app, _client(app) as http:
        for prefix in ("", "/v1"):
            for body, status in (({"sku": "tea"}, 200), ({}, 422)):
                reply = await http.post(f"{prefix}/cart/a/add", json=body)
                assert reply.status_code == status
                assert reply.headers["deprecation"] == "@1772323200"
                assert reply.headers["sunset"] == "Sun, 31 Jan 2027 00:00:00 GMT"
            reply = await http.get(f"{prefix}/quote/tea")
            assert reply.headers["deprecation"] == "@1772366400"
            assert "sunset" not in reply.headers
            other = await http.get(f"{prefix}/cart/a/view")
            assert "deprecation" not in other.headers
        for path in ("/v2/quote/tea", "/v2/cart/a/view"):
            assert "deprecation" not in (await http.get(path)).headers


@async_test
async def test_each_version_has_its_own_rate_and_a_method_of_several_one() -> None:
    class Counter(Actor):
        @expose(rate=Rate(2, per_s=60))
        async def hit(self) -> int:
            return 1

    app = App(Counter, store="memory:")
    app.get("/x", rate=Rate(1, per_s=60))(_function)
    app.get("/x", rate=Rate(2, per_s=60), version=2)(_function)
    async with app, _client(app) as http:
        for path, statuses in (("/x", [200, 429]), ("/v2/x", [200, 200, 429])):
            assert [(await http.get(path)).status_code for _ in statuses] == statuses, path
        paths = ("/counter/a/hit", "/v2/counter/a/hit", "/v1/counter/a/hit")
        assert [(await http.post(path)).status_code for path in paths] == [200, 200, 429]


@async_test
async def test_live_views_and_our_own_server_know_versions() -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    app = make(cors=Cors(origins="*"))
    server = Server(app, None, app.limits)
    async with app:
        await server.start([listening])
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        async with httpx.AsyncClient(base_url=url) as http:
            for path in ("/v2/cart/a/count/live", "/v2/cart/a/live", "/cart/a/live"):
                async with http.stream("GET", path) as stream:
                    assert stream.status_code == 200, path
            for path in ("/v3/cart/a/count/live", "/cart/a/count/live", "/v9/cart/a/live"):
                assert (await http.get(path)).status_code == 404, path
            reply = await http.post(
                "/cart/a/add", json={"sku": "x"}, headers={"origin": "http://o"}
            )
            assert reply.headers["access-control-allow-origin"] == "*"
            assert reply.headers["deprecation"] == "@1772323200"
            wrong = await http.put("/v2/quote/tea")
            assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET, HEAD")
        await server.close()


@async_test
async def test_each_version_has_a_document() -> None:
    app = make()
    async with app, _client(app) as http:
        documents = {}
        for query in ("", "?version=1", "?version=2", "?version=3", "?version=4"):
            document = (await http.get(f"/-/openapi.json{query}")).json()
            documents[query] = {
                (path, verb): operation
                for path, verbs in document["paths"].items()
                for verb, operation in verbs.items()
            }
            assert document["info"]["x-api-versions"] == [1, 2, 3, 4]
            assert document["info"]["x-api-version"] == int(query[-1] if query else 1)
        first, second = documents[""], documents["?version=2"]
        assert documents["?version=1"] == first
        old, new = first["/cart/{key}/add", "post"], second["/v2/cart/{key}/add", "post"]
        assert (old["operationId"], new["operationId"]) == ("cart_add", "cart_add")
        assert (old["summary"], new["summary"]) == ("Put one in.", "Put many in.")
        assert old["deprecated"] is True
        assert old["x-deprecated"] == (
            "Deprecated since 2026-03-01, to be gone from 2027-01-31 on, not in version 3."
        )
        assert {"Deprecation", "Sunset"} <= set(old["responses"]["200"]["headers"])
        assert "deprecated" not in new
        assert ("/v2/cart/{key}/count", "get") in second
        assert ("/v3/cart/{key}/count", "get") not in documents["?version=3"]
        assert ("/v4/cart/{key}/summary", "get") in documents["?version=4"]
        for unknown in ("0", "5", "x", "-1", "1e3", "99999999999999999999"):
            reply = await http.get(f"/-/openapi.json?version={unknown}")
            assert reply.status_code == 404, unknown
        # what is told can be asked
        for query, operations in documents.items():
            for path, verb in operations:
                if not path.endswith("live"):
                    url = path.format(key="k", sku="s")
                    assert (await http.request(verb, url)).status_code in {200, 422}, (query, path)


@async_test
async def test_an_app_without_versions_has_none() -> None:
    class Plain(Actor):
        @expose
        async def ask(self) -> int:
            return 1

    app = App(Plain, store="memory:")

    @app.get("/v2/own")
    async def own() -> str:
        return "mine"

    async with app, _client(app) as http:
        assert app.versions == 1
        assert (await http.get("/v2/own")).json() == "mine"
        for path in ("/v1/plain/a/ask", "/v2/plain/a/ask"):
            assert (await http.post(path)).status_code == 404
        info = (await http.get("/-/openapi.json")).json()["info"]
        assert "x-api-versions" not in info


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"version": 0}, "version is 0"),
        ({"version": True}, "version is True"),
        ({"version": 1000}, "version is 1000"),
        ({"version": None}, "version is None"),
        ({"version": 2, "until": 2}, "so never"),
        ({"until": 1}, "so never"),
        ({"deprecated": "2027-01-01"}, "deprecated is '2027-01-01'"),
        ({"sunset": date(2027, 1, 1)}, "sunset without deprecated"),
        ({"deprecated": datetime(2027, 1, 1)}, "without a time zone"),
    ],
)
def test_what_makes_no_sense_is_refused_at_once(options: Any, why: str) -> None:
    app = App(store="memory:")
    for declare in (lambda: expose(**options), lambda: app.get("/x", **options)):
        with pytest.raises(DefinitionError, match=why):
            declare()


def test_two_of_one_name_and_version_are_refused() -> None:
    with pytest.raises(DefinitionError, match="would both be 'add' in version 2"):

        class Twice(Actor):
            @expose(version=2, route="add")
            async def one(self) -> None: ...

            @expose(version=2)
            async def add(self) -> None: ...

        App(Twice)
    with pytest.raises(DefinitionError, match="'a/b' is no name for a route"):

        class Odd(Actor):
            @expose(route="a/b")
            async def one(self) -> None: ...

        App(Odd)
    app = App(store="memory:")
    app.get("/x", version=2)(_function)
    with pytest.raises(DefinitionError, match="would both answer"):
        app.get("/x", version=2)(_function)


async def _function() -> None: ...


@async_test
async def test_nothing_else_may_have_the_path_of_a_version() -> None:
    class V2(Actor):
        @expose(version=3)
        async def ask(self) -> int:
            return 1

    with pytest.raises(DefinitionError, match="V2 is at /v2, which is a version of this App"):
        await App(V2, store="memory:").start()
    app = make()
    app.get("/v2/own")(_function)
    with pytest.raises(DefinitionError, match="_function is at /v2"):
        await app.start()


@async_test
async def test_a_typed_client_calls_each_method_in_its_version() -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    app = make()
    server = Server(app, None, app.limits)
    async with app:
        await server.start([listening])
        async with Client(f"http://127.0.0.1:{listening.getsockname()[1]}") as remote:
            cart = remote.at(Cart, "r")
            assert await cart.add("tea") == ["tea"]
            assert await cart.add_many("rum", 2) == 3
            assert await cart.summary_4() == "3 lines"
            async for count in watch(cart.count):
                assert count == 3
                break
        await server.close()
