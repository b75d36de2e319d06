"""CORS in Debian's Chromium: a page of an origin that is named gets in, another does not."""

import asyncio
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from playwright.sync_api import Page, sync_playwright
from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from perdure import Actor, App, Caller, Cors, anyone, expose, read
from perdure.web.server import Server

CHROMIUM = shutil.which("chromium")
CHROMIUM_ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
WAIT_S = 30.0
FETCH = """async ([url, method, options]) => {
    try {
        const answer = await fetch(url, {method, ...options});
        return [answer.status, await answer.text(), answer.headers.get("etag")];
    } catch (error) {
        return [0, String(error), null];
    }
}"""

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not there: apt-get install chromium"),
]


def _till() -> type[Actor]:
    """A class of its own for each App: one can run in one App of a process only."""

    class Till(Actor):
        total: int = 0

        @expose(access=anyone)
        async def put(self, amount: int) -> str:
            self.total += amount
            return f"{self.caller.id if self.caller else 'a guest'} made it {self.total}"

        @expose(access=anyone)
        @read
        async def show(self) -> int:
            return self.total

    return Till


async def _by_cookie(connection: HTTPConnection) -> Caller | None:
    name = connection.cookies.get("session")
    return Caller(name) if name else None


async def _login(_request: Any) -> Response:
    answer = HTMLResponse("logged in")
    answer.set_cookie("session", "ann")
    return answer


class Running:
    """Servers on one loop, in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._on_end = ExitStack()

    def serve(self, app: App) -> str:
        """Serve an App; returns its origin."""
        listening = socket.create_server(("127.0.0.1", 0))
        server = Server(app, app.site, app.limits)

        async def start() -> None:
            await app.start()
            await server.start([listening])

        async def stop() -> None:
            await server.close()
            await app.stop(drain_s=0)

        self._run(start())
        self._on_end.callback(lambda: self._run(stop()))
        return f"http://127.0.0.1:{listening.getsockname()[1]}"

    def close(self) -> None:
        self._on_end.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT_S)
        self._loop.close()

    def _run(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(WAIT_S)


@pytest.fixture
def running() -> Iterator[Running]:
    servers = Running()
    yield servers
    servers.close()


@pytest.fixture
def page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGUMENTS)
        yield browser.new_page()
        browser.close()


def _pages() -> App:
    """Some other site, that only shows a page."""
    site = Starlette(routes=[Route("/", lambda _request: HTMLResponse("<p>a page"))])
    return App(store="memory:", mount=site)


def _api(**options: Any) -> App:
    site = Starlette(routes=[Route("/login", _login)])
    return App(_till(), store="memory:", mount=site, identify=_by_cookie, **options)


def _fetch(page: Page, url: str, method: str = "GET", **options: Any) -> list[Any]:
    return page.evaluate(FETCH, [url, method, options])  # type: ignore[no-any-return]


JSON = {"headers": {"Content-Type": "application/json"}, "body": '{"amount": 5}'}
SIMPLE = {"body": '{"amount": 5}'}  # sent at once, without a question beforehand


def test_a_page_of_a_named_origin_gets_in_and_another_does_not(
    running: Running, page: Page
) -> None:
    friend, stranger = running.serve(_pages()), running.serve(_pages())
    api = running.serve(_api(cors=Cors(origins=[friend])))
    page.goto(friend)
    assert _fetch(page, f"{api}/till/a/put", "POST", **JSON)[:2] == [200, '"a guest made it 5"']
    assert _fetch(page, f"{api}/till/a/put", "POST", **SIMPLE)[0] == 200
    status, body, tag = _fetch(page, f"{api}/till/a/show")
    assert (status, body) == (200, "10")
    headers = {**JSON["headers"], "If-Match": tag, "Idempotency-Key": "k"}  # type: ignore[dict-item]
    assert _fetch(page, f"{api}/till/a/put", "POST", **JSON | {"headers": headers})[0] == 200
    assert _fetch(page, f"{api}/till/a/put", "POST", headers={"X-Not-Listed": "1"})[0] == 0
    page.goto(stranger)
    for options in (JSON, SIMPLE):
        status, error, _ = _fetch(page, f"{api}/till/a/put", "POST", **options)
        assert (status, error) == (0, "TypeError: Failed to fetch")
    assert _fetch(page, f"{api}/till/a/show")[0] == 0
    page.goto(friend)
    assert _fetch(page, f"{api}/till/a/show")[1] == "15", "the stranger changed something"


def test_a_cookie_counts_only_where_it_says_so(running: Running, page: Page) -> None:
    friend = running.serve(_pages())
    without = running.serve(_api(cors=Cors(origins=[friend])))
    with_them = running.serve(_api(cors=Cors(origins=[friend], credentials=True)))
    page.goto(f"{without}/login")  # the cookie is for all ports of this host
    page.goto(friend)
    brought = {**SIMPLE, "credentials": "include"}
    assert _fetch(page, f"{without}/till/a/put", "POST", **brought)[0] == 0
    assert _fetch(page, f"{without}/till/a/put", "POST", **SIMPLE)[1] == '"a guest made it 5"'
    assert _fetch(page, f"{with_them}/till/a/put", "POST", **brought)[1] == '"ann made it 5"'
    assert _fetch(page, f"{with_them}/till/a/put", "POST", **SIMPLE)[1] == '"a guest made it 10"'
