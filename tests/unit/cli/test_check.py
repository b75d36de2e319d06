"""`perdure check`: what it says of an app, and of one that cannot work."""

import subprocess
import sys
from pathlib import Path

import pytest

APP = """
from datetime import timedelta

from perdure import Actor, App, Caller, Limits, expose, interleave, migrate, owner, read, relaxed


async def identify(connection):
    return Caller("alice")


def friends(caller, key):
    return True


class ShoppingCart(Actor):
    lines: dict[str, int] = {}
    note: str = "new"

    @expose
    async def add(self, sku: str) -> None: ...

    @expose(access=owner)
    @read
    async def view(self) -> dict[str, int]: ...

    @expose(access=friends)
    @interleave
    async def share(self) -> None: ...

    @relaxed(loss_max_s=0.5)
    async def tick(self) -> None: ...


class Empty(Actor):
    pass


class Session(Actor, name="visit", ttl=timedelta(days=30)):
    @migrate(to=2)
    def keep(state):
        return state


app = App(ShoppingCart, Empty, Session, identify=identify, limits=Limits(drain_s=5.0))
"""


def check(folder: Path, target: str = "shop.py") -> "subprocess.CompletedProcess[str]":
    """In a process of its own, as an app may do anything to the one it is loaded into."""
    command = [sys.executable, "-P", "-c", "from perdure.cli import main; main()", "check", target]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.fixture
def lines(tmp_path: Path) -> list[str]:
    (tmp_path / "shop.py").write_text(APP)
    done = check(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["shop.py"]
    return [" ".join(line.split()) for line in done.stdout.splitlines()]


def test_it_prints_actors_with_their_fields(lines: list[str]) -> None:
    assert "ShoppingCart, stored in table shopping_cart" in lines
    assert "lines: dict[str, int] = {}" in lines
    assert "note: str = 'new'" in lines
    assert "Empty, stored in table empty" in lines
    assert "Session, stored in table visit, version 2, expires after 30 days, 0:00:00" in lines


def test_it_prints_routes_with_who_may_call_them_and_how_they_run(lines: list[str]) -> None:
    assert "POST /shopping-cart/{key}/add signed_in" in lines
    assert "GET, POST /shopping-cart/{key}/view owner read" in lines
    assert "POST /shopping-cart/{key}/share friends interleave" in lines
    assert "– tick() code of the app only relaxed, loses at most 0.5 s" in lines


def test_it_prints_the_settings_and_marks_changed_limits(lines: list[str]) -> None:
    assert "identify: identify" in lines
    assert "access by default: signed_in" in lines
    assert "drain_s: 5.0 *" in lines
    assert "header_count_max: 100" in lines


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("class Cart(Actor):\n    n: int\napp = App(Cart)", "Cart.n has no default"),
        (
            "class Cart(Actor):\n    @expose\n    async def add(self, n): ...\napp = App(Cart)",
            "parameter n has no type",
        ),
        ("class A(Actor): ...\nx = A\nclass A(Actor): ...\napp = App(x, A)", "two actor classes"),
        ("class Cart:\n    n = 0\napp = App(Cart)", "Cart is no actor class"),
        ("class Cart(Actor):\n    n: int = 0\napp = App(Cart())", "Cart(n=0) is no actor class"),
    ],
)
def test_a_definition_that_cannot_work_is_one_line(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "shop.py").write_text(f"from perdure import Actor, App, expose\n{text}\n")
    done = check(tmp_path)
    assert done.returncode == 78
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("perdure: shop.py:")
    assert reason in line


def test_nothing_to_check_is_told(tmp_path: Path) -> None:
    done = check(tmp_path, "shop.py")
    assert done.returncode == 66
    assert done.stderr.startswith("perdure: there is no file shop.py\n  hint: ")


VERSIONED = """
from datetime import date

from perdure import Actor, App, Cors, expose


class {name}(Actor):
    @expose(until=3, deprecated=date(2026, 3, 1))
    async def add(self, sku: str) -> None: ...

    @expose(version=2, route="add")
    async def add_many(self, sku: str, qty: int) -> None: ...


app = App({name}, cors=Cors(origins=["https://shop.example"]))


@app.get("/quote/{{sku}}", version=2, until=3)
async def quote(sku: str) -> int: ...
"""


def test_it_prints_which_versions_have_what(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(VERSIONED.format(name="Cart"))
    lines = [" ".join(line.split()) for line in check(tmp_path).stdout.splitlines()]
    assert "POST /cart/{key}/add anyone version 1 only, deprecated since 2026-03-01" in lines
    assert "POST /cart/{key}/add anyone from version 2 on" in lines
    assert "GET /quote/{sku} anyone version 2 only" in lines
    assert "versions: 1 to 3, at /v1/… to /v3/…" in lines
    assert "pages of other origins: https://shop.example" in lines


def test_what_has_the_path_of_a_version_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(VERSIONED.format(name="V3"))
    done = check(tmp_path)
    assert done.returncode == 78
    assert done.stderr.startswith("perdure: V3 is at /v3, which is a version of this App")
