"""`live.js` in Debian's Chromium: changes are seen, also through kills of the server."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect, sync_playwright

CHROMIUM = shutil.which("chromium")
CHROMIUM_ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
WAIT_S = 30.0

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not there: apt-get install chromium"),
]

APP = '''
import os
from starlette.applications import Starlette
from starlette.responses import HTMLResponse
from starlette.routing import Route

from perdure import Actor, App, expose, live

PAGE = """<!doctype html><title>Board</title><pre id=value></pre><p id=state></p><p id=error></p>
<script type="module">
import { live } from "/-/live.js";
window.values = [];
window.follow = (path) => live(path, (value) => {
  window.values.push(value);
  document.querySelector("#value").textContent = JSON.stringify(value);
}, {
  onState: (state) => { document.querySelector("#state").textContent = state; },
  onError: (problem) => { document.querySelector("#error").textContent = problem.status; },
});
window.stop = window.follow(location.hash.slice(1));
</script>"""


class Board(Actor):
    content: dict[str, object] = {}

    @expose
    async def put(self, name: str, value: object) -> None:
        self.content[name] = value

    @expose
    async def drop(self, name: str) -> None:
        del self.content[name]

    @expose
    async def pid(self) -> int:
        return os.getpid()

    @expose
    @live
    async def view(self, only: str = "") -> dict[str, object]:
        if only == "trouble":
            raise RuntimeError
        return {name: value for name, value in self.content.items() if name.startswith(only)}


async def page(_request):
    return HTMLResponse(PAGE)


app = App(Board, mount=Starlette(routes=[Route("/", page)]))
'''


def wait_until(condition: Callable[[], Any]) -> None:
    tick = threading.Event()
    for _ in range(int(WAIT_S / 0.05)):
        if condition():
            return
        tick.wait(0.05)
    raise AssertionError(f"still not so after {WAIT_S} s")


@pytest.fixture
def board(tmp_path: Path) -> Iterator[str]:
    """The address of a Board under the supervisor of `perdure run`."""
    (tmp_path / "app.py").write_text(APP)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        listen = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [sys.executable, "-c", "from perdure.cli import main; main()"]
    command += ["run", "app.py", "--listen", listen]
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log)
        try:
            wait_until(lambda: server.poll() is not None or is_ready(f"http://{listen}"))
            assert server.poll() is None, (tmp_path / "log").read_text()
            yield f"http://{listen}"
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(WAIT_S)


def is_ready(address: str) -> bool:
    try:
        return httpx.get(f"{address}/-/ready").status_code == 200
    except httpx.TransportError:
        return False


def put(board: str, name: str, value: object) -> None:
    reply = httpx.post(f"{board}/board/a/put", json={"name": name, "value": value})
    assert reply.status_code == 200


@pytest.fixture
def page(board: str) -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGUMENTS)
        page = browser.new_page()
        page.set_default_timeout(WAIT_S * 1000)
        page.goto(f"{board}/#/board/a/view?only=t")
        yield page
        browser.close()


def test_a_page_shows_every_change_and_catches_up_when_the_server_was_killed(
    board: str, page: Page
) -> None:
    value, state = page.locator("#value"), page.locator("#state")
    expect(value).to_have_text("{}")
    expect(state).to_have_text("open")
    put(board, "tea", {"cups": 1, "milk": None, "label": "x" * 40})
    put(board, "mug", 7)
    expect(value).to_have_text('{"tea":{"cups":1,"milk":null,"label":"' + "x" * 40 + '"}}')
    put(board, "tea", {"cups": 2, "milk": None, "label": "x" * 40})
    expect(value).to_have_text('{"tea":{"cups":2,"milk":null,"label":"' + "x" * 40 + '"}}')
    earlier = page.evaluate("values.map((value) => value.tea && value.tea.cups)")
    assert earlier == [None, 1, 2]  # what was handed out before is not altered by a patch
    for name in ("t1", "t2"):
        pid = httpx.post(f"{board}/board/a/pid").json()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: is_ready(board))
        put(board, name, name)
        expect(value).to_contain_text(f'"{name}":"{name}"')
        expect(state).to_have_text("open")
    count = page.evaluate("values.length")
    os.kill(httpx.post(f"{board}/board/a/pid").json(), signal.SIGKILL)
    expect(state).to_have_text("connecting")
    expect(state).to_have_text("open")
    httpx.post(f"{board}/board/a/drop", json={"name": "tea"})
    expect(value).to_have_text('{"t1":"t1","t2":"t2"}')
    assert page.evaluate("values.length") == count + 1  # nothing came twice


def test_a_page_hears_why_a_view_ends_and_can_stop_it(board: str, page: Page) -> None:
    expect(page.locator("#value")).to_have_text("{}")
    page.evaluate("stop()")
    expect(page.locator("#state")).to_have_text("closed")
    page.evaluate('void follow("/board/a/view?only=trouble")')
    expect(page.locator("#error")).to_have_text("500")
    page.evaluate('void follow("/board/a/nothing")')
    expect(page.locator("#error")).to_have_text("404")
    put(board, "tea", 1)
    expect(page.locator("#value")).to_have_text("{}")
