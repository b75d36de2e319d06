"""Pages over HTTP: a cursor in the JSON, the same in a Link, and a refusal that names it."""

from typing import Annotated

import httpx
import msgspec
import pytest

from perdure import Actor, App, Map, Page, expose, indexed, read
from perdure.testing import async_test


class Thing(msgspec.Struct):
    name: str


class Shelf(Actor):
    things: Map[str, Thing] = Map()
    count: Annotated[int, indexed] = 0

    @expose
    async def put(self, name: str) -> int:
        self.things[name] = Thing(name)
        self.count += 1
        return self.count

    @expose
    @read
    async def all(self, cursor: str | None = None, limit: int = 2) -> Page[Thing]:
        """What is on it."""
        page = await self.things.page(cursor=cursor, limit=limit)
        return page.map(lambda entry: entry[1])

    @expose
    @read
    async def first(self) -> Page[str]:
        page = await self.things.page(limit=1)
        return page.map(lambda entry: entry[0])


def make() -> App:
    app = App(Shelf, store="memory:")

    @app.get("/full/{count}")
    async def full(count: int, cursor: str | None = None, limit: int = 1) -> Page[str]:
        selection = Shelf.where(count__ge=count).limit(limit)
        return (await selection.after(cursor)).map(lambda row: row.key)

    @app.get("/named")
    async def named(q: str, cursor: str | None = None) -> Page[str]:
        return (await Shelf.where().limit(1).after(cursor or None)).map(lambda row: q + row.key)

    return app


def _client(app: App) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app)  # type: ignore[arg-type]
    return httpx.AsyncClient(transport=transport, base_url="http://test")


async def _fill(http: httpx.AsyncClient) -> None:
    for shelf in ("a", "b"):
        for name in ("tea", "rum", "gin", "ale", 'x">'):
            await http.post(f"/shelf/{shelf}/put", json={"name": name})


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/shelf/a/all?limit=2", [["ale", "gin"], ["rum", "tea"], ['x">']]),
        ("/full/5?limit=1", [["a"], ["b"]]),
    ],
)
def test_a_client_follows_the_links(path: str, expected: list[list[str]]) -> None:
    @async_test
    async def asking() -> None:
        app = make()
        async with app, _client(app) as http:
            await _fill(http)
            seen, url = [], httpx.URL("http://test" + path)
            while True:
                reply = await http.get(url)
                page = reply.json()
                items = [one["name"] if isinstance(one, dict) else one for one in page["items"]]
                seen.append(items)
                assert (page["next"] is None) == ("link" not in reply.headers)
                if page["next"] is None:
                    break
                link = reply.links["next"]["url"]
                assert link.startswith("?limit=")
                url = url.join(link)
                assert url.params["cursor"] == page["next"]
            assert seen == expected

    asking()


@async_test
async def test_a_bad_cursor_and_a_bad_limit_are_named() -> None:
    app = make()
    async with app, _client(app) as http:
        await _fill(http)
        cursor = (await http.get("/shelf/a/all")).json()["next"]
        foreign = (await http.get("/shelf/b/all")).json()["next"]
        for path in ("/shelf/a/all", "/full/5"):
            for bad in ("garbled", "", cursor[:-2] + "AA", foreign if "shelf" in path else cursor):
                reply = await http.get(path, params={"cursor": bad})
                assert (reply.status_code, reply.json()["field"]) == (422, "cursor"), (path, bad)
            for limit in ("0", "100000", "-1"):
                reply = await http.get(path, params={"limit": limit})
                assert (reply.status_code, reply.json()["field"]) == (422, "limit"), path
        assert (await http.get("/shelf/a/all", params={"cursor": cursor})).status_code == 200


@async_test
async def test_a_link_keeps_the_query_and_cannot_be_broken_out_of() -> None:
    app = make()
    async with app, _client(app) as http:
        await _fill(http)
        reply = await http.get("/named", params={"q": '>; rel="next",<http://evil.example>'})
        link = reply.headers["link"]
        assert link.count("<") == link.count(">") == 1
        assert httpx.URL("http://test/" + reply.links["next"]["url"]).params["q"].startswith(">;")
        posted = await http.post("/shelf/a/all", json={})
        assert posted.json()["next"] is not None
        assert "link" not in posted.headers
        # without an argument `cursor` there is nothing to link to
        first = await http.get("/shelf/a/first")
        assert (first.json()["items"], "link" in first.headers) == (["ale"], False)


@async_test
async def test_the_document_shows_the_page_and_its_link() -> None:
    app = make()
    async with app, _client(app) as http:
        document = (await http.get("/-/openapi.json")).json()
    answer = document["paths"]["/shelf/{key}/all"]["get"]["responses"]["200"]
    assert set(answer["headers"]) == {"ETag", "Link"}
    schema = answer["content"]["application/json"]["schema"]
    page = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    assert page["properties"]["next"]["anyOf"] == [{"type": "string"}, {"type": "null"}]
    assert page["properties"]["items"]["items"] == {"$ref": "#/components/schemas/Thing"}
    assert (
        "Link" not in document["paths"]["/shelf/{key}/first"]["get"]["responses"]["200"]["headers"]
    )
