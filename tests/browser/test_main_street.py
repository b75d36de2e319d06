"""Main Street in Debian's Chromium: what a newcomer does, and what a kill must not undo."""

import json
import os
import re
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
from playwright.sync_api import Browser, Page, expect, sync_playwright

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium")
CHROMIUM_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WAIT_S = 30.0  # longer than anything here may take; reached only when a test fails

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not there: apt-get install chromium"),
]

# what the page draws is on a canvas; the tests listen to the frames instead
LISTEN = """
window.frames_heard = 0;
const Plain = window.WebSocket;
window.WebSocket = class extends Plain {
  constructor(...where) {
    super(...where);
    this.addEventListener("message", (event) => {
      const message = JSON.parse(event.data);
      if (message.you) window.my_id = message.you;
      if (message.players) { window.people = message.players; window.frames_heard++; }
    });
  }
};
"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Main Street under the supervisor of `perdure run`."""
    directory = tmp_path_factory.mktemp("street")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        listen = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [
        *(str(Path(sys.executable).parent / "perdure"), "run", "examples/main_street/app.py"),
        *("--data", str(directory / "data"), "--listen", listen),
    ]
    environment = os.environ | {"MAIN_STREET_DEMO": "1"}
    with (directory / "log").open("wb") as log:
        server = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        try:
            wait_until(lambda: server.poll() is not None or _is_ready(listen))
            assert server.poll() is None, (directory / "log").read_text()
            yield f"http://{listen}"
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(WAIT_S)


def _is_ready(listen: str) -> bool:
    try:
        return httpx.get(f"http://{listen}/-/ready").status_code == 200
    except httpx.TransportError:
        return False


def wait_until(condition: Callable[[], bool]) -> None:
    tick = threading.Event()
    for _ in range(int(WAIT_S / 0.05)):
        if condition():
            return
        tick.wait(0.05)
    raise AssertionError(f"still not so after {WAIT_S} s")


@pytest.fixture
def visit(chromium: Browser, street: str) -> Iterator[Callable[..., Page]]:
    """Opens a new browser, with cookies of its own, at the shop; its page must throw no error."""
    contexts, errors = [], []

    def open_page(**options: Any) -> Page:
        context = chromium.new_context(base_url=street, reduced_motion="reduce", **options)
        context.set_default_timeout(WAIT_S * 1000)
        context.add_init_script(LISTEN)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(error))
        page.goto("/")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not errors


def add(page: Page, *skus: str) -> None:
    for sku in skus:
        before = int(page.get_attribute("#count", "data-count") or 0)
        page.locator(f".shelf form:has(input[value={sku}]) button").click()
        expect(page.locator("#count")).to_have_attribute("data-count", str(before + 1))


def cart_lines(page: Page) -> dict[str, int]:
    page.goto("/cart")
    names = page.locator(".lines .line-name b").all_inner_texts()
    quantities = page.locator(".lines output").all_inner_texts()
    return dict(zip(names, map(int, quantities), strict=True))


def sign_up(page: Page, name: str, email: str) -> None:
    page.goto("/signup")
    page.get_by_label("Name").fill(name)
    page.get_by_label("E-mail address").fill(email)
    page.get_by_label("Password").fill("correct horse battery")
    page.locator("main").get_by_role("button", name="Sign up").click()
    expect(page.get_by_role("button", name="Log out")).to_be_visible()


def log_in(page: Page, email: str) -> None:
    page.goto("/login")
    page.get_by_label("E-mail address").fill(email)
    page.get_by_label("Password").fill("correct horse battery")
    page.locator("main").get_by_role("button", name="Log in").click()
    expect(page.get_by_role("button", name="Log out")).to_be_visible()


def enter_plaza(page: Page) -> str:
    page.goto("/plaza")
    page.wait_for_function("() => window.people && window.my_id in window.people")
    return str(page.evaluate("window.my_id"))


def position(page: Page, who: str) -> tuple[float, float]:
    page.wait_for_function("id => id in window.people", arg=who)
    x, y = page.evaluate("id => [window.people[id].x, window.people[id].y]", who)
    return x, y


def kill_the_server(page: Page) -> tuple[int, int]:
    """Through the button; returns the process ids before and after."""
    page.goto("/memory")
    before = int(page.get_attribute(".process", "data-pid") or 0)
    page.get_by_role("button", name="Kill the server").click()
    page.wait_for_function(
        "pid => document.querySelector('.process').dataset.pid != pid", arg=str(before)
    )
    expect(page.locator("#trouble")).to_contain_text("Back")
    return before, int(page.get_attribute(".process", "data-pid") or 0)


def trouble(page: Page) -> str:
    return page.locator("#trouble").inner_text()


def test_a_guests_cart_survives_sign_up_and_log_in_with_every_line(
    visit: Callable[..., Page],
) -> None:
    page = visit()
    add(page, "tea", "mug", "tea")
    sign_up(page, "Gus", "gus@example.org")
    assert cart_lines(page) == {"Harbour tea": 2, "Blue mug": 1}
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("link", name="Log in", exact=True)).to_be_visible()
    assert cart_lines(page) == {}
    page.goto("/")
    add(page, "kite", "tea")
    log_in(page, "gus@example.org")
    assert cart_lines(page) == {"Harbour tea": 3, "Blue mug": 1, "Red kite": 1}
    assert cart_lines(page) == {"Harbour tea": 3, "Blue mug": 1, "Red kite": 1}


def test_a_killed_server_comes_back_with_everything(visit: Callable[..., Page]) -> None:
    page, guest = visit(), visit()
    add(guest, "cheese", "bread")
    sign_up(page, "Kim", "kim@example.org")
    page.goto("/")
    add(page, "lamp", "jam", "jam")
    before, after = kill_the_server(page)
    assert before != after
    told = re.search("([0-9]+) actors are stored; before, it was ([0-9]+)", trouble(page))
    assert told
    assert int(told[1]) == int(told[2]) > 0
    assert cart_lines(page) == {"Desk lamp": 1, "Quince jam": 2}
    assert cart_lines(guest) == {"Hill cheese": 1, "Sunday loaf": 1}


def test_a_click_while_the_server_is_down_counts_once(visit: Callable[..., Page]) -> None:
    page, other = visit(), visit()
    add(page, "clock")
    other.goto("/memory")
    pid = int(other.get_attribute(".process", "data-pid") or 0)
    os.kill(pid, signal.SIGKILL)
    add(page, "clock", "book")
    assert cart_lines(page) == {"Alarm clock": 2, "The Long Tide": 1}


def test_two_browsers_see_each_other_walk(visit: Callable[..., Page]) -> None:
    ada, bob = visit(), visit()
    sign_up(ada, "Ada", "ada@example.org")
    sign_up(bob, "Bob", "bob@example.org")
    ada_id, bob_id = enter_plaza(ada), enter_plaza(bob)
    expect(ada.locator("#people")).to_contain_text("Bob")
    expect(bob.locator("#people")).to_contain_text("Ada")
    for walker, watcher, who in ((ada, bob, ada_id), (bob, ada, bob_id)):
        x, y = position(watcher, who)
        walker.keyboard.down("ArrowRight")
        watcher.wait_for_function("([id, x]) => people[id].x > x + 60", arg=[who, x])
        walker.keyboard.up("ArrowRight")
        assert position(watcher, who)[1] == y
    y = position(bob, ada_id)[1]
    ada.locator("#map").click(position={"x": 600, "y": 640})
    bob.wait_for_function("([id, y]) => people[id].y != y", arg=[ada_id, y])


def test_the_plaza_comes_back_after_a_kill_with_everyone_in_place(
    visit: Callable[..., Page],
) -> None:
    page, killer = visit(), visit()
    sign_up(page, "Pam", "pam@example.org")
    who = enter_plaza(page)
    x, _ = position(page, who)
    page.keyboard.down("KeyD")
    page.wait_for_function("([id, x]) => people[id].x > x + 100", arg=[who, x])
    page.keyboard.up("KeyD")
    _wait_until_still(page, who)
    place = position(page, who)
    wait_until(lambda: list(place) == _stored_position(killer, who))  # `relaxed` has written it
    kill_the_server(killer)
    heard = page.evaluate("frames_heard")
    page.wait_for_function("heard => frames_heard > heard + 3", arg=heard)
    assert position(page, who) == place
    expect(page.locator("#trouble")).to_be_hidden()


def _wait_until_still(page: Page, who: str) -> None:
    page.wait_for_function(
        """id => {
          const place = JSON.stringify([people[id].x, people[id].y]);
          const still = window.place_before === place && frames_heard > window.heard_before + 4;
          if (window.place_before !== place) window.heard_before = frames_heard;
          window.place_before = place;
          return still;
        }""",
        arg=who,
    )


def _stored_position(page: Page, who: str) -> list[float]:
    page.goto("/memory")
    state = page.locator("section:has(h2:text-is('Plaza')) pre").first.inner_text()
    found = re.search(rf'"{who}": ({{[^}}]*}})', state)
    player = json.loads(found[1]) if found else {"x": None, "y": None}
    return [player["x"], player["y"]]


def test_logging_out_really_ends_the_session(visit: Callable[..., Page]) -> None:
    page, thief = visit(), visit()
    sign_up(page, "Lou", "lou@example.org")
    thief.context.add_cookies(page.context.cookies())  # type: ignore[arg-type]
    thief.goto("/plaza")
    thief.wait_for_function("() => window.my_id")
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("link", name="Log in", exact=True)).to_be_visible()
    thief.wait_for_url("**/login?next=/plaza")  # its socket was closed
    thief.goto("/")
    expect(thief.get_by_role("link", name="Log in", exact=True)).to_be_visible()


def test_a_cart_in_two_tabs_is_one_cart(visit: Callable[..., Page]) -> None:
    shop = visit()
    add(shop, "tea")
    cart = shop.context.new_page()
    cart.goto("/cart")
    add(shop, "mug", "tea")
    expect(cart.locator(".lines output")).to_have_text(["2", "1"])
    expect(cart.locator("#count")).to_have_text("3")
    sign_up(shop, "Ann", "ann@example.org")
    cart.goto("/cart")
    shop.goto("/cart")
    shop.get_by_role("button", name="One more: Blue mug").click()
    expect(cart.locator(".lines output")).to_have_text(["2", "2"])
    cart.get_by_role("button", name="One less: Harbour tea").click()
    expect(shop.locator(".lines output")).to_have_text(["1", "2"])
    cart.get_by_role("button", name="Place the order").click()
    expect(shop.locator("main")).to_contain_text("Nothing in it yet")
    expect(shop.locator(".orders li")).to_have_count(1)


def test_the_cart_shows_for_how_long_it_is_held(visit: Callable[..., Page]) -> None:
    page = visit()
    add(page, "plant")
    page.goto("/cart")
    expect(page.locator(".held")).to_have_text(re.compile("Held for you until .*[0-9]:[0-9]{2}"))
    page.get_by_role("button", name="One less: Window fern").click()
    expect(page.locator("main")).to_contain_text("Nothing in it yet")


def test_a_cart_is_watched_through_a_kill(visit: Callable[..., Page]) -> None:
    shop = visit()
    add(shop, "tea")
    cart = shop.context.new_page()
    cart.goto("/cart")
    kill_the_server(visit())
    add(shop, "mug")
    expect(cart.locator(".lines output")).to_have_text(["1", "1"])


def test_the_cart_works_without_scripts(visit: Callable[..., Page]) -> None:
    page = visit(java_script_enabled=False)
    page.locator(".shelf form:has(input[value=tea]) button").click()
    expect(page.locator("#count")).to_have_attribute("data-count", "1")
    page.goto("/cart")
    page.get_by_role("button", name="One more: Harbour tea").click()
    expect(page.locator(".lines output")).to_have_text("2")


@pytest.mark.parametrize("width", [320, 390])
def test_no_page_scrolls_sideways_on_a_phone(visit: Callable[..., Page], width: int) -> None:
    size = {"width": width, "height": 700}
    page = visit(viewport=size, is_mobile=True, has_touch=True)
    add(page, "tea", "umbrella")
    for path in ("/", "/cart", "/login", "/signup", "/memory"):
        page.goto(path)
        assert _is_as_wide_as_the_screen(page, width), path
    sign_up(page, "Wilhelmina of the Long Name", f"wide{width}@example.org")
    page.goto("/cart")
    page.get_by_role("button", name="Place the order").click()
    expect(page.locator(".orders")).to_be_visible()
    for path in ("/", "/cart", "/orders", "/gifts", "/plaza", "/memory", "/nowhere"):
        page.goto(path)
        assert _is_as_wide_as_the_screen(page, width), path


def _is_as_wide_as_the_screen(page: Page, width: int) -> bool:
    # innerWidth grows on a phone when something is too wide, so it is compared as well
    widths = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    return bool(widths == [width, width])
