"""`perdure state migrate`: every row once, whatever happens in the middle."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest
from rich.console import Console
from tests.unit.cli.invoking import Done, at, perdure
from tests.unit.cli.stored import rows, write

from perdure.cli.looking import Place, importing
from perdure.cli.state_migrate import _progress
from perdure.store.api import ActorSchema

APP = """
from typing import Any
from perdure import Actor, App, Limits, migrate

class Cart(Actor):
    total: int = 0
    label: str = ""

    @migrate(to=2)
    def add_up(state: dict[str, Any]) -> dict[str, Any]:
        return {"total": sum(state["lines"].values()), "label": state.get("label", "")}

class Other(Actor):
    count: int = 0

app = App(Cart, Other, limits=Limits(state_bytes_max=1000))
"""
CART = ActorSchema("cart", 1, ("lines",))
COUNT = 300  # several batches


class Folder:
    """An app, and the store with what an older version of it wrote."""

    def __init__(self, path: Path, place: Place) -> None:
        self.path = path
        self.place = place


@pytest.fixture
def folder(tmp_path: Path, place: Place) -> Folder:
    (tmp_path / "migrated_app.py").write_text(APP)
    states = {f"k{number:03}": f'{{"lines":{{"tea":{number}}}}}' for number in range(COUNT)}
    write(place, CART, states)
    write(place, ActorSchema("other", 1, ("count",)), {"x": '{"count":1}'})
    return Folder(tmp_path, place)


def migrate(folder: Folder, *options: str) -> Done:
    app = folder.path / "migrated_app.py"
    return perdure("state", "migrate", app, *at(folder.place), *options)


def forget_the_dead(place: Place) -> None:
    """End the lease of a process that was killed, and wait for the server to see that it is."""
    if isinstance(place, Path):
        return
    others = "SELECT FROM pg_stat_activity WHERE application_name ~ '^perdure' AND datname = $1"

    async def body() -> None:
        connection = await asyncpg.connect(place)
        try:
            await connection.execute("UPDATE perdure_member SET lease_until = now()")
            name = await connection.fetchval("SELECT current_database()")
            async with asyncio.timeout(20):
                while await connection.fetch(others, name):
                    await asyncio.sleep(0.01)
        finally:
            await connection.close()

    asyncio.run(body())


def table(output: str) -> list[list[str]]:
    return [line.split() for line in output.splitlines()[1:]]


def test_every_row_gets_the_version_of_its_class(folder: Folder) -> None:
    before = rows(folder.place, "other")
    done = migrate(folder)
    assert (done.exit_code, done.errors) == (0, "")
    assert table(done.output) == [
        ["cart", "2", str(COUNT), str(COUNT), "0"],
        ["other", "1", "1", "0", "0"],
    ]
    found = rows(folder.place, "cart")
    assert len(found) == COUNT
    for number, row in enumerate(found.values()):
        assert row.state == b'{"total":%d,"label":""}' % number
        assert (row.version, row.schema, row.created_at_ms) == (2, 2, 1_000)
    assert rows(folder.place, "other") == before


def test_a_second_run_writes_nothing(folder: Folder) -> None:
    migrate(folder)
    before = rows(folder.place, "cart")
    done = migrate(folder)
    assert table(done.output)[0] == ["cart", "2", str(COUNT), "0", "0"]
    assert rows(folder.place, "cart") == before


def test_a_dry_run_writes_nothing_and_says_what_would_happen(folder: Folder) -> None:
    write(folder.place, CART, {"bad": "{}"})
    before = rows(folder.place, "cart")
    done = migrate(folder, "--dry-run")
    assert done.exit_code == 65
    assert table(done.output)[0] == ["cart", "2", str(COUNT + 1), str(COUNT), "1"]
    assert "would migrate" in done.output
    assert "not migrated: cart/bad: " in done.errors
    assert rows(folder.place, "cart") == before


def test_rows_that_fail_are_named_and_the_others_go_on(folder: Folder) -> None:
    bad = {"k100": "{}", "k101": '{"lines":{"tea":"x"}}', "zzz": '{"lines":[]}'}
    large = '{"lines":{},"label":"%s"}' % ("x" * 2000)
    write(folder.place, CART, {**bad, "k102": large})
    before = rows(folder.place, "cart")
    done = migrate(folder)
    assert done.exit_code == 65
    assert table(done.output)[0] == ["cart", "2", str(COUNT + 1), str(COUNT - 3), "4"]
    for key in (*bad, "k102"):
        assert f"not migrated: cart/{key}: " in done.errors
        assert rows(folder.place, "cart")[key] == before[key]
    assert "at most 1000 fit" in done.errors
    assert "Cart('k100'): @migrate(to=2) failed" in done.errors


def test_many_failures_are_counted_but_only_some_are_named(folder: Folder) -> None:
    write(folder.place, CART, {f"bad{number}": "{}" for number in range(100)})
    done = migrate(folder)
    assert table(done.output)[0][-1] == "100"
    assert done.errors.count("not migrated") == 20


def test_a_value_that_another_actor_has_in_a_unique_field_is_a_failure(
    tmp_path: Path, place: Place
) -> None:
    (tmp_path / "migrated_app.py").write_text(
        "from typing import Annotated\n"
        "from perdure import Actor, App, migrate, unique\n"
        "class User(Actor):\n"
        "    email: Annotated[str | None, unique] = None\n"
        "    @migrate(to=2)\n"
        "    def lower(state):\n"
        "        return {'email': state['mail'].lower()}\n"
        "app = App(User)\n"
    )
    states = {"1": '{"mail":"a@b.c"}', "2": '{"mail":"A@b.c"}', "3": '{"mail":"d@e.f"}'}
    write(place, ActorSchema("user", 1, ("mail",)), states)
    done = migrate(Folder(tmp_path, place))
    assert done.exit_code == 65
    assert table(done.output) == [["user", "2", "3", "2", "1"]]
    assert "not migrated: user/2: another actor has its email, which is unique" in done.errors
    assert rows(place, "user")["2"].state == states["2"].encode()


@pytest.mark.parametrize("point", ["after_begin", "before_fsync", "after_fsync"])
@pytest.mark.parametrize("time", [1, 3])
def test_a_kill_at_any_point_is_mended_by_another_run(
    folder: Folder, point: str, time: int
) -> None:
    command = [sys.executable, "-P", "-c", "from perdure.cli import main; main()"]
    killed = subprocess.run(
        [*command, "state", "migrate", "migrated_app.py", *at(folder.place)],
        cwd=folder.path,
        env={**os.environ, "PERDURE_FAULT": f"{point}:kill:{time}"},
        capture_output=True,
        timeout=60,
    )
    assert killed.returncode == -signal.SIGKILL
    half = [row for row in rows(folder.place, "cart").values() if row.schema == 2]
    batches = time if point == "after_fsync" else time - 1
    assert len(half) == 64 * batches
    forget_the_dead(folder.place)
    done = migrate(folder)
    assert (done.exit_code, done.errors) == (0, "")
    assert table(done.output)[0] == ["cart", "2", str(COUNT), str(COUNT - len(half)), "0"]
    found = rows(folder.place, "cart")
    assert [row.state for row in found.values()] == [
        b'{"total":%d,"label":""}' % number for number in range(COUNT)
    ]
    assert {row.version for row in found.values()} == {2}


def test_a_store_that_somebody_owns_is_refused_but_a_dry_run_looks(folder: Folder) -> None:
    with importing(folder.place):
        done = migrate(folder)
        assert done.exit_code == 75
        assert "stop its server first" in done.errors
        assert migrate(folder, "--dry-run").exit_code == 0
    assert {row.schema for row in rows(folder.place, "cart").values()} == {1}


@pytest.mark.parametrize("options", [(), ("--dry-run",)])
def test_a_directory_without_a_store_is_told_and_stays_empty(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    (tmp_path / "migrated_app.py").write_text(APP)
    app, store = tmp_path / "migrated_app.py", f"sqlite:{tmp_path}/no"
    done = perdure("state", "migrate", app, "--store", store, *options)
    assert done.exit_code == 66
    assert "there is no store in" in done.errors
    assert not (tmp_path / "no").exists()


def test_the_bar_shows_percentage_and_rows_per_second() -> None:
    console = Console(force_terminal=True, width=120)
    with console.capture() as capture, _progress(console) as progress:
        task = progress.add_task("cart", total=200)
        progress.update(task, advance=50)
        progress.update(task, advance=50)
        progress.refresh()
    shown = capture.get()
    assert "50%" in shown
    assert "rows/s" in shown
