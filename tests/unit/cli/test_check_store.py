"""`perdure check --store`: what it says of an app and what is stored, and its exit code."""

import io
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console
from tests.unit.cli.invoking import perdure
from tests.unit.cli.stored import write

from perdure import Actor, App, migrate
from perdure.actor.methods import actor_type_of
from perdure.cli.check_store import check_store
from perdure.cli.failures import Failure
from perdure.store.api import ActorSchema, IndexedField
from perdure.store.sqlite_file import FILE_NAME

CART = ActorSchema("cart", 1, ("lines",))
STATES = {"alice": '{"lines":{"tea":1}}', "bob": '{"lines":{}}'}


class Cart(Actor):
    lines: dict[str, int] = {}


class Noted(Actor, name="cart"):
    lines: dict[str, int] = {}
    note: str = ""


class Empty(Actor, name="cart"):
    pass


class Second(Actor, name="cart"):
    total: int = 0

    @migrate(to=2)
    def add_up(state: dict[str, Any]) -> dict[str, Any]:
        return {"total": sum(state["lines"].values())}


class Third(Actor, name="cart"):
    total: int = 0

    @migrate(to=3)
    def keep(state: dict[str, Any]) -> dict[str, Any]:
        return state


class Basket(Actor):
    lines: dict[str, int] = {}
    note: str = ""


def check(directory: Path, *actors: type[Actor]) -> tuple[bool, list[str]]:
    """The verdict and the lines of the table, blanks squeezed."""
    said = io.StringIO()
    fits = check_store(App(*actors), directory, Console(file=said, highlight=False, soft_wrap=True))
    *table, blank, verdict = said.getvalue().splitlines()
    assert (blank, verdict.startswith(f"{directory}: the app ")) == ("", True)
    assert ("does not fit" in verdict) is not fits
    assert any("! " in line for line in table) is not fits
    return fits, [" ".join(line.split()) for line in table[1:]]


def test_a_class_as_it_is_stored_is_unchanged(tmp_path: Path) -> None:
    write(tmp_path, CART, STATES)
    assert check(tmp_path, Cart) == (True, ["Cart cart 2 unchanged"])


def test_a_field_more_fits(tmp_path: Path) -> None:
    write(tmp_path, CART, STATES)
    told = "Noted cart 2 fields added: note; their defaults fill in"
    assert check(tmp_path, Noted) == (True, [told])


def test_a_field_less_needs_a_migration(tmp_path: Path) -> None:
    write(tmp_path, CART, STATES)
    fits, [line] = check(tmp_path, Empty)
    assert not fits
    assert line.startswith("Empty cart 2 ! fields gone: lines; this needs @migrate(to=2)")


def test_a_row_of_newer_code_is_found_although_older_code_was_started_since(tmp_path: Path) -> None:
    write(tmp_path, ActorSchema("cart", 1, ("lines", "note")), {"zoe": '{"lines":{},"note":""}'})
    write(tmp_path, CART, STATES)
    fits, [line] = check(tmp_path, Cart)
    assert not fits
    assert "! fields gone: note;" in line


def test_a_version_more_counts_the_rows_that_will_be_migrated(tmp_path: Path) -> None:
    write(tmp_path, CART, STATES)
    write(tmp_path, ActorSchema("cart", 2, ("total",)), {"carl": '{"total":3}'})
    told = "Second cart 3 version 1 → 2: 2 rows will be migrated on waking"
    assert check(tmp_path, Second) == (True, [told])


def test_what_a_migration_adds_and_drops_is_told_before_it_runs(tmp_path: Path) -> None:
    write(tmp_path, CART, {"alice": STATES["alice"]})
    assert check(tmp_path, Second) == (
        True,
        [
            "Second cart 1 version 1 → 2: 1 row will be migrated on waking",
            "fields dropped by migration: lines",
            "fields added: total; by migration, or their defaults fill in",
        ],
    )


def test_a_version_less_will_only_read(tmp_path: Path) -> None:
    write(tmp_path, ActorSchema("cart", 2, ("lines",)), STATES)
    fits, [line] = check(tmp_path, Cart)
    assert not fits
    assert line == (
        "Cart cart 2 ! version 2 has 2 rows, and the class is of version 1: it will only read those"
    )


def test_rows_that_a_migration_fails_on_are_named(tmp_path: Path) -> None:
    write(tmp_path, CART, {**STATES, "bad": "{}"})
    fits, [*_, line] = check(tmp_path, Second)
    assert not fits
    assert line.startswith(
        "! of 3 rows tried, 1 cannot be read (bad): Second('bad'): @migrate(to=2)"
    )


def test_rows_older_than_the_oldest_step_do_not_fit(tmp_path: Path) -> None:
    write(tmp_path, CART, {str(number): '{"lines":{}}' for number in range(5)})
    fits, lines = check(tmp_path, Third)
    assert not fits
    assert lines[-1].startswith("! of 5 rows tried, 5 cannot be read (")
    assert "oldest step" in lines[-1]


def test_a_damaged_row_is_named_and_the_others_are_tried(tmp_path: Path) -> None:
    write(tmp_path, CART, {"alice": '{"lines":{"damaged-here":1}}', "bob": '{"lines":{}}'})
    path = tmp_path / FILE_NAME
    path.write_bytes(path.read_bytes().replace(b"damaged-here", b"damaged-hers"))
    fits, [line] = check(tmp_path, Cart)
    assert not fits
    assert "! of 2 rows tried, 1 cannot be read (alice)" in line
    assert "checksum" in line


def test_a_new_class_and_one_without_code_are_told(tmp_path: Path) -> None:
    write(tmp_path, ActorSchema("order", 1, ("paid",)), {"1": '{"paid":true}'})
    assert check(tmp_path, Cart) == (
        True,
        [
            "Cart cart 0 new: nothing is stored",
            "– order 1 the app has no class for it; its data stays",
        ],
    )


def test_a_class_that_may_have_been_renamed_is_told_how_to_keep_its_data(tmp_path: Path) -> None:
    write(tmp_path, CART, STATES)
    fits, [first, _] = check(tmp_path, Basket)
    assert fits
    assert first == (
        "Basket basket 0 new; if it is 'cart' under another name, keep its data with name=\"cart\""
    )


def test_of_a_large_table_a_sample_is_tried(tmp_path: Path) -> None:
    states = {f"{number:05}": '{"lines":{}}' for number in range(5_000)}
    write(tmp_path, CART, {**states, "zz": '{"lines":"wrong"}'})
    fits, [line] = check(tmp_path, Cart)
    assert not fits
    tried = int(line.partition("! of ")[2].split()[0].replace(",", ""))
    assert 500 <= tried <= 1_010
    assert "(zz)" in line  # the last is always among them


def test_the_newest_row_of_each_version_is_always_tried(tmp_path: Path) -> None:
    states = {f"{number:05}": '{"lines":{}}' for number in range(5_000)}
    write(tmp_path, CART, states)
    write(tmp_path, CART, {"03333": '{"lines":"wrong"}'}, at_ms=2_000)
    fits, [line] = check(tmp_path, Cart)
    assert not fits
    assert "(03333)" in line


def test_values_that_several_have_in_a_unique_field_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class User(Actor):
        email: str | None = None
        name: str = ""

    indexes = (IndexedField("email", unique=True), IndexedField("name"))
    actor_type = actor_type_of(User)
    monkeypatch.setattr(
        actor_type, "schema", msgspec.structs.replace(actor_type.schema, indexes=indexes)
    )
    nobody = '{"email":null,"name":"n"}'
    one = '{"email":"a@b.c","name":"n"}'
    old = ActorSchema("user", 1, ("email", "name"))
    write(tmp_path, old, {"1": nobody, "2": nobody, "3": one})
    assert check(tmp_path, User) == (True, ["User user 3 unchanged"])
    write(tmp_path, old, {"4": one})
    fits, [line] = check(tmp_path, User)
    assert not fits
    assert "! email is unique, but has 'a@b.c' in 2 rows: the app will not start" in line


def test_the_exit_code_says_whether_it_fits(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write(data, CART, STATES)
    text = (
        "from perdure import Actor, App\n"
        "class Cart(Actor):\n    {}: dict[str, int] = {{}}\n"
        "app = App(Cart)\n"
    )
    (tmp_path / "fitting_app.py").write_text(text.format("lines"))
    (tmp_path / "other_app.py").write_text(text.format("items"))
    for store in (data, f"sqlite:{data}"):
        assert perdure("check", tmp_path / "fitting_app.py", "--store", store).exit_code == 0
        done = perdure("check", tmp_path / "other_app.py", "--store", store)
        assert done.exit_code == 65
        assert "! fields gone: lines" in done.output


def test_a_store_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="there is no store"):
        check_store(App(Cart), tmp_path, Console())
    assert not list(tmp_path.iterdir())


def test_a_memory_store_has_nothing_to_compare_with(tmp_path: Path) -> None:
    (tmp_path / "some_app.py").write_text("from perdure import App\napp = App()\n")
    done = perdure("check", tmp_path / "some_app.py", "--store", "memory:")
    assert done.exit_code == 2
    assert "memory:" in done.errors
