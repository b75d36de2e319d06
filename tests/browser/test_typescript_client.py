"""A written TypeScript client in Debian's Chromium, from a static page of the same server."""

import shutil
from pathlib import Path

import pytest
from playwright.sync_api import expect, sync_playwright
from tests.faults.supervised import Supervised
from tests.unit.cli.invoking import perdure
from tests.unit.client.compiling import compile_typescript, needs_typescript

CHROMIUM = shutil.which("chromium")
CHROMIUM_ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
WAIT_S = 30.0

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not there: apt-get install chromium"),
]

APP = '''
from perdure import Actor, App, DomainError, expose, live


class SoldOut(DomainError):
    """There is none left."""

    status = 409


class Cart(Actor):
    lines: dict[str, int] = {}

    @expose
    async def add(self, sku: str, qty: int = 1) -> dict[str, int]:
        if sku == "gone":
            raise SoldOut("no more")
        self.lines[sku] = self.lines.get(sku, 0) + qty
        return self.lines

    @expose
    @live
    async def view(self) -> dict[str, int]:
        return self.lines


app = App(Cart, static={"/page": "page"})
'''

PAGE = """<!doctype html><title>Cart</title><pre id="cart"></pre><p id="error"></p>
<button>Add</button><script type="module" src="use.js"></script>"""

USE = """
import { Cart, Client, SoldOut } from "./client.js";

const cart = new Client().at(Cart, "alice in / wonderland");
const put = (selector: string, text: string): void => {
  document.querySelector(selector)!.textContent = text;
};
document.querySelector("button")!.addEventListener("click", async () => {
  await cart.add({ sku: "tea", qty: 2 });
  try {
    await cart.add({ sku: "gone" });
  } catch (error) {
    put("#error", error instanceof SoldOut ? error.message : String(error));
  }
});
for await (const lines of cart.view_live()) put("#cart", JSON.stringify(lines));
"""


@needs_typescript
def test_a_static_page_calls_actors_and_follows_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "page"
    folder.mkdir()
    (tmp_path / "cart_in_browser.py").write_text(APP)
    done = perdure("client", "typescript", "cart_in_browser.py", "-o", "page/client.ts")
    assert done.exit_code == 0, done.errors
    (folder / "use.ts").write_text(USE)
    (folder / "index.html").write_text(PAGE)
    assert compile_typescript(folder) == ""
    troubles: list[str] = []
    with Supervised(tmp_path, APP) as run, sync_playwright() as playwright:
        run.wait_ready()
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGUMENTS)
        page = browser.new_page()
        page.set_default_timeout(WAIT_S * 1000)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.goto(f"http://127.0.0.1:{run.port}/page/")
        expect(page.locator("#cart")).to_have_text("{}")
        page.get_by_role("button", name="Add").click()
        expect(page.locator("#cart")).to_have_text('{"tea":2}')
        expect(page.locator("#error")).to_have_text("no more")
        browser.close()
    assert not troubles
