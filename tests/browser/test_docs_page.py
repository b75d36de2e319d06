"""The page of an API in Debian's Chromium: a call is made with it, and nobody else is asked."""

import asyncio
import shutil
import socket
import threading
from collections.abc import Iterator
from datetime import date

import pytest
from playwright.sync_api import expect, sync_playwright
from starlette.requests import HTTPConnection

from perdure import Actor, App, Caller, expose
from perdure.web.server import Server

CHROMIUM = shutil.which("chromium")
CHROMIUM_ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
WAIT_S = 30.0

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not there: apt-get install chromium"),
]


class Scale(Actor):
    """Has versions."""

    @expose(deprecated=date(2026, 3, 1))
    async def weigh(self) -> int:
        """In pounds."""
        return 1

    @expose(version=2, route="weigh")
    async def weigh_in_grams(self) -> int:
        """In grams."""
        return 500


class Till(Actor):
    """Money. <b id=injected>Not markup.</b>"""

    total: int = 0

    @expose
    async def put(self, amount: int) -> str:
        """Put some in."""
        assert self.caller is not None
        self.total += amount
        return f"{self.caller.id} has {self.total}"


async def _identify(connection: HTTPConnection) -> Caller | None:
    name = connection.headers.get("authorization")
    return Caller(name) if name else None


@pytest.fixture
def url() -> Iterator[str]:
    app = App(Till, Scale, identify=_identify, store="memory:")
    listening = socket.create_server(("127.0.0.1", 0))
    server = Server(app, None, app.limits)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def start() -> None:
        await app.start()
        await server.start([listening])

    async def stop() -> None:
        await server.close()
        await app.stop(drain_s=0)

    asyncio.run_coroutine_threadsafe(start(), loop).result(WAIT_S)
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    asyncio.run_coroutine_threadsafe(stop(), loop).result(WAIT_S)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(WAIT_S)
    loop.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_call_is_tried_and_nobody_else_is_asked(url: str, scheme: str) -> None:
    asked: list[str] = []
    troubles: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGUMENTS)
        page = browser.new_page(color_scheme=scheme)  # type: ignore[arg-type]
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.goto(f"{url}/-/docs")
        page.locator("#till_put summary").click()
        page.get_by_label("Authorization").fill("ann")
        page.get_by_label("Body, as JSON").fill('{"amount": 7}')
        page.get_by_role("button", name="Send").click()
        expect(page.get_by_role("status")).to_contain_text("ann has 7")
        assert page.locator("#injected").count() == 0
        page.get_by_label("Filter").fill("nothing like it")
        expect(page.locator("#till_put")).to_be_hidden()
        browser.close()
    assert not troubles
    assert all(address.startswith((f"{url}/", "data:")) for address in asked), asked
    assert f"{url}/till/alice/put" in asked


def test_each_version_has_a_page_and_leads_to_the_others(url: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGUMENTS)
        page = browser.new_page()
        page.goto(f"{url}/-/docs")
        expect(page.locator("#scale_weigh summary del")).to_have_text("/scale/{key}/weigh")
        expect(page.locator("#versions b")).to_have_text("1")
        page.locator("#versions").get_by_role("link", name="2").click()
        expect(page.locator("#versions b")).to_have_text("2")
        expect(page.locator("#source")).to_have_attribute("href", f"{url}/-/openapi.json?version=2")
        page.locator("#scale_weigh summary").click()
        expect(page.locator("#scale_weigh summary")).to_contain_text("/v2/scale/{key}/weigh")
        page.get_by_label("Authorization").fill("ann")
        page.locator("#scale_weigh").get_by_role("button", name="Send").click()
        expect(page.locator("#scale_weigh").get_by_role("status")).to_contain_text("500")
        page.goto(f"{url}/-/docs?version=9")
        expect(page.locator("#loading")).to_contain_text("could not be read")
        browser.close()
