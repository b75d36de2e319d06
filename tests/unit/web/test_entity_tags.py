"""Conditional GETs: who has the answer already is told so, and nobody is told so wrongly."""

import socket

import httpx
import pytest

from perdure import Actor, App, Limits, expose, read
from perdure.testing import async_test
from perdure.web.entity_tags import TAGGED_BYTES_MIN
from perdure.web.server import Server


class Page(Actor):
    text: str = "x" * TAGGED_BYTES_MIN

    @expose
    async def write(self, text: str) -> str:
        self.text = text
        return self.text

    @expose
    @read
    async def show(self) -> str:
        return self.text


def _app() -> App:
    app = App(Page, store="memory:", limits=Limits())

    @app.get("/copy/{name}")
    async def copy(name: str) -> str:
        return await Page.at(name).show()

    return app


def _client(app: App) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app)  # type: ignore[arg-type]
    return httpx.AsyncClient(transport=transport, base_url="http://test")


@pytest.mark.parametrize("path", ["/page/a/show", "/copy/a"])
def test_an_unchanged_answer_is_304_and_a_changed_one_is_sent(path: str) -> None:
    @async_test
    async def asking() -> None:
        async with _app() as app, _client(app) as http:
            first = await http.get(path)
            tag = first.headers["etag"]
            assert first.headers["cache-control"] == "private, no-cache"
            for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
                again = await http.get(path, headers={"if-none-match": known})
                assert (again.status_code, again.content) == (304, b"")
                assert again.headers["etag"] == tag
                assert "content-length" not in again.headers
            assert (await http.head(path, headers={"if-none-match": tag})).status_code == 304
            other = await http.get(path, headers={"if-none-match": '"other"'})
            assert other.json() == first.json()
            await http.post("/page/a/write", json={"text": "y" * TAGGED_BYTES_MIN})
            changed = await http.get(path, headers={"if-none-match": tag})
            assert changed.status_code == 200
            assert changed.headers["etag"] != tag
            assert changed.json()[0] == "y"

    asking()


@async_test
async def test_changes_and_short_answers_of_functions_have_no_tag() -> None:
    async with _app() as app, _client(app) as http:
        text = "z" * TAGGED_BYTES_MIN
        written = await http.post(
            "/page/a/write", json={"text": text}, headers={"if-none-match": "*"}
        )
        assert (written.status_code, written.json()) == (200, text)
        assert "etag" not in written.headers
        await http.post("/page/a/write", json={"text": "short"})
        reply = await http.get("/copy/a", headers={"if-none-match": "*"})
        assert (reply.status_code, reply.json()) == (200, "short")
        assert "etag" not in reply.headers


@async_test
async def test_our_own_server_keeps_the_connection_after_a_304() -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    app = _app()
    server = Server(app, None, app.limits)
    async with app:
        await server.start([listening])
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        async with httpx.AsyncClient(base_url=url) as http:
            tag = (await http.get("/page/a/show")).headers["etag"]
            assert (
                await http.get("/page/a/show", headers={"if-none-match": tag})
            ).status_code == 304
            assert (await http.get("/page/a/show")).status_code == 200
            assert server.statistics().connections_total == 1
        await server.close()
