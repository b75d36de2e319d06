"""`perdure state export|import`: what goes out comes in again, and bad lines do not."""

import asyncio
import io
import json
import os
import tempfile
import threading
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from tests.unit.cli.invoking import at, fill, perdure, store_at
from tests.unit.cli.stored import rows, write

from perdure.base.errors import InvalidKeyError
from perdure.base.keys import normalize_key
from perdure.cli import state_files
from perdure.cli.looking import Place, importing, looking
from perdure.store.api import ActorSchema, ActorWrite, Batch, IndexedField, StoredActor, Timer
from perdure.store.sqlite import SqliteStore
from perdure.store.sqlite_import import SqliteImport
from perdure.testing.postgres import fresh_database

GOOD = (
    '{"type":"cart","key":"%s","version":3,"created_at_ms":5,"updated_at_ms":7,"state":{"n":1.0}}'
)
ENTRY = '{"type":"cart","key":"%s","field":"items","entry":"%s","value":{"n":1.0}}'
RING = (
    '"timers":[{"name":"%s","due_at_ms":9,"method":"ring","arguments":{}},'
    '{"name":"other","due_at_ms":9,"method":"ring","arguments":{}}],"state"'
)
Actors = dict[tuple[str, str], StoredActor]
Entries = dict[tuple[str, str, str, str], bytes]  # by type, key, field and entry


def put(place: Place, actors: Actors, entries: Entries | None = None) -> None:
    with importing(place) as store, store.batch():
        for (name, _), actor in actors.items():
            store.put(name, actor, replace=False)
        for named, value in (entries or {}).items():
            store.put_entry(*named, value)


def content(place: Place) -> Actors:
    """All actors, without their timers."""
    with looking(place) as look:
        return {
            (name, one.key): one for name in look.actor_tables() for one in look.scan(name, "", 999)
        }


def beside(place: Place) -> tuple[list[Timer], Entries]:
    """The timers, by actor and name, and the entries of all collections."""
    with looking(place) as look:
        timers = [
            timer
            for name in look.actor_tables()
            for actor in look.whole_actors(name, "", 10_000)
            for timer in actor.timers
        ]
        entries = {
            (name, key, field, entry): value
            for name in look.actor_tables()
            for key, field, entry, value in look.entries_between(
                name, ("", "", ""), "\U0010ffff", 10_000
            )
        }
    return timers, entries


def _storable(key: str) -> bool:
    try:
        return normalize_key(key) == key
    except InvalidKeyError:
        return False


_keys = st.text(min_size=1, max_size=20).filter(_storable)
_times = st.integers(0, 2**42)
_texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | _texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner),
    max_leaves=8,
)
_states = st.dictionaries(_texts, _json, max_size=3).map(
    lambda state: json.dumps(state, ensure_ascii=len(state) % 2 == 0).encode()
)


@st.composite
def _actors(draw: st.DrawFn) -> Actors:
    drawn: Actors = {}
    for key in draw(st.lists(_keys, unique=True, max_size=8)):
        created, later = draw(_times), draw(_times)
        version = draw(st.integers(1, 2**63 - 1))
        schema = draw(st.integers(1, 2**31 - 1))
        actor = StoredActor(key, draw(_states), version, created, created + later, schema)
        drawn[draw(st.sampled_from(["cart", "shopping_list", "größe"])), key] = actor
    return drawn


_values = _json.map(lambda value: json.dumps(value).encode())
_timer_parts = st.tuples(
    _times, st.just("ring"), _values, st.none() | st.integers(1, 2**40), st.integers(0, 9)
)


@st.composite
def _whole(draw: st.DrawFn) -> tuple[Actors, Entries]:
    """Actors with timers, and entries of theirs."""
    actors = draw(_actors())
    entries: Entries = {}
    for name, key in actors:
        parts = draw(st.dictionaries(_texts, _timer_parts, max_size=3))
        timers = tuple(Timer(name, key, label, *part) for label, part in sorted(parts.items()))
        actors[name, key] = msgspec.structs.replace(actors[name, key], timers=timers)
        fields = st.tuples(st.sampled_from(["items", "history"]), _texts)
        for place, value in draw(st.dictionaries(fields, _values, max_size=4)).items():
            entries[name, key, *place] = value
    return actors, entries


def fresh(kind: str, folder: Path, name: str) -> Place:
    return folder / name if kind == "sqlite" else fresh_database()


@settings(max_examples=40, deadline=None)
@given(_whole())
def test_all_of_an_actor_survives_export_and_import(whole: tuple[Actors, Entries]) -> None:
    assert_survives("sqlite", "sqlite", whole)


@pytest.mark.parametrize(
    ("source", "target"),
    [("sqlite", "postgresql"), ("postgresql", "sqlite"), ("postgresql", "postgresql")],
)
@settings(max_examples=5, deadline=None)
@given(whole=_whole())
def test_all_of_an_actor_survives_the_way_to_another_store(
    source: str, target: str, whole: tuple[Actors, Entries]
) -> None:
    assert_survives(source, target, whole)


def assert_survives(source: str, target: str, whole: tuple[Actors, Entries]) -> None:
    actors, entries = whole
    timers = [timer for at_ in sorted(actors) for timer in actors[at_].timers]
    bare = {at_: msgspec.structs.replace(actor, timers=()) for at_, actor in actors.items()}
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(state_files, "_PAGE_ENTRIES", 2)
        patch.setattr(state_files, "_PAGE_ROWS", 3)
        folder = Path(name)
        old, new = fresh(source, folder, "from"), fresh(target, folder, "to")
        put(old, actors, entries)
        file = folder / "actors.jsonl"
        assert perdure("state", "export", file, *at(old)).exit_code == 0
        for more in ([], ["--replace"]):
            done = perdure("state", "import", file, *more, *at(new))
            assert done.exit_code == 0, done.errors
            assert content(new) == content(old) == bare
            assert beside(new) == beside(old) == (timers, entries)
        again = perdure("state", "export", "-", *at(new))
        assert again.output.encode() == file.read_bytes()
        assert not list(folder.glob("*.unfinished"))


def test_a_state_is_kept_byte_for_byte(tmp_path: Path, place: Place, target: Place) -> None:
    state = b'{"big":12345678901234567890123,"form":[1.0,1e2,-0.0],"text":"\\u00e9\xc3\xa9"}'
    put(place, {("cart", "a"): StoredActor("a", state, 1, 1, 1)})
    perdure("state", "export", tmp_path / "x", *at(place))
    perdure("state", "import", tmp_path / "x", *at(target))
    assert content(target)["cart", "a"].state == state


def test_the_version_of_the_class_goes_along_so_that_no_migration_runs_twice(
    place: Place,
    target: Place,
) -> None:
    write(place, ActorSchema("cart", 3), {"new": "{}"})
    write(place, ActorSchema("cart", 1), {"old": "{}"})
    done = perdure("state", "export", "-", *at(place))
    new, old = done.output.splitlines()
    assert json.loads(new)["schema"] == 3
    assert "schema" not in json.loads(old)
    perdure("state", "import", "-", *at(target), given=done.output)
    assert rows(target, "cart") == rows(place, "cart")


def test_a_state_of_several_lines_is_one_line_of_the_export(place: Place, target: Place) -> None:
    put(place, {("cart", "a"): StoredActor("a", b'{\n "n": 1.0\n}', 1, 1, 1)})
    done = perdure("state", "export", "-", *at(place))
    assert len(done.output.splitlines()) == 1
    done = perdure("state", "import", "-", *at(target), given=done.output)
    assert done.exit_code == 0, done.errors
    assert content(target)["cart", "a"].state == b'{"n":1.0}'


def test_a_server_can_go_on_with_what_was_imported(place: Place) -> None:
    perdure("state", "import", "-", *at(place), given=GOOD % "a")

    async def body() -> StoredActor | None:
        store = store_at(place)
        await store.open([ActorSchema("cart"), ActorSchema("order")])
        found = await store.load("cart", "a")
        await store.close()
        return found

    assert asyncio.run(body()) == StoredActor("a", b'{"n":1.0}', 3, 5, 7)


def test_one_type_can_be_exported(place: Place) -> None:
    fill(place, {"cart": {"a": "{}"}, "order": {"b": "{}"}})
    done = perdure("state", "export", "-", "--type", "Order", *at(place))
    assert [json.loads(line)["key"] for line in done.output.splitlines()] == ["b"]
    assert done.errors == "exported 1 actor\n"
    done = perdure("state", "export", "-", "--type", "Nothing", *at(place))
    assert done.exit_code == 66


def test_an_export_goes_into_a_pipe_as_well(tmp_path: Path) -> None:
    fill(tmp_path / "data", {"cart": {"a": "{}"}})
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    assert perdure("state", "export", pipe, "--data", tmp_path / "data").exit_code == 0
    reader.join(10)
    assert b'"key":"a"' in read[0]
    assert pipe.is_fifo()


def test_a_failed_export_leaves_the_old_file_and_no_half_one(tmp_path: Path) -> None:
    actors = {("cart", f"{n:04}"): StoredActor(f"{n:04}", b"{}", 1, 1, 1) for n in range(100)}
    put(tmp_path, actors)
    store = SqliteImport(tmp_path)
    store._execute("UPDATE cart SET checksum = 1 WHERE key = '0099'")
    store.close()
    file = tmp_path / "x"
    file.write_text("old")
    assert perdure("state", "export", file, "--data", tmp_path).exit_code == 65
    assert file.read_text() == "old"
    assert not list(tmp_path.glob("*.unfinished"))


def test_an_export_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    fill(tmp_path, {"cart": {"a": "{}"}})
    done = perdure("state", "export", tmp_path / "no" / "x", "--data", tmp_path)
    assert done.exit_code == 73
    assert "No such file or directory" in done.errors


# -- importing -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("nonsense", "malformed"),
        ('{"type":"cart"', "truncated"),
        ("[]", "Expected `object`"),
        ('{"type":"cart","key":"a"}', "missing required field `version`"),
        (GOOD.replace('"state"', '"more":1,"state"') % "a", "unknown field `more`"),
        (GOOD.replace('"version":3', '"version":0') % "a", "version"),
        (GOOD.replace('"version":3', '"version":9223372036854775808') % "a", "version"),
        (GOOD.replace('"version":3', '"version":"3"') % "a", "version"),
        (GOOD.replace('"created_at_ms":5', '"created_at_ms":8') % "a", "after updated_at_ms"),
        (GOOD.replace('"updated_at_ms":7', '"updated_at_ms":1e30') % "a", "updated_at_ms"),
        (GOOD.replace('{"n":1.0}', "[1]") % "a", "Expected `object`"),
        (GOOD.replace('{"n":1.0}', '{"n":}') % "a", "malformed"),
        (GOOD.replace('{"n":1.0}', '{"n":"\\ud800"}') % "a", ""),
        (GOOD.replace('{"n":1.0}', '{"n":' * 5000 + "1" + "}" * 5000) % "a", "recursion"),
        (GOOD % "", "cannot be a key"),
        (GOOD % "a\\nb", "control character"),
        (GOOD.replace('"cart"', '"perdure_request"') % "a", "name of a type"),
        (GOOD.replace('"cart"', '"a\\"b"') % "a", "name of a type"),
        (GOOD.replace('"cart"', '"Cart"') % "a", "snake_case"),
        (GOOD % "first", "cart/first is in the store already"),
        (GOOD.replace('"state"', '"schema":0,"state"') % "a", "schema"),
        (GOOD.replace('"state"', '"timers":[{"name":"x"}],"state"') % "a", "due_at_ms"),
        (GOOD.replace('"state"', RING % "other") % "a", "the same name"),
        (GOOD.replace('"state"', (RING % "x").replace("ring", "r-g")) % "a", "method of a timer"),
        (ENTRY % ("other", "x"), "does not follow its line"),
        (ENTRY.replace("items", "a-b") % ("first", "x"), "name of a field"),
        (ENTRY.replace('{"n":1.0}', "[1") % ("first", "x"), "malformed"),
        (ENTRY % ("first", "a\\u0000"), "NUL"),
        (ENTRY % ("first", "x" * 70_000), "too long"),
    ],
)
def test_a_bad_line_is_refused_and_named(place: Place, line: str, reason: str) -> None:
    given_ = "\n".join([GOOD % "first", "", line, GOOD % "last"])
    done = perdure("state", "import", "-", *at(place), given=given_)
    assert done.exit_code == 65
    assert done.errors.startswith("perdure: line 3: ")
    assert reason in done.errors
    assert "nothing was imported" in done.errors
    assert content(place) == {}


def test_bytes_that_are_no_text_are_refused(place: Place) -> None:
    line = (GOOD % "x").encode().replace(b'"n"', b'"\xff"')
    done = perdure("state", "import", "-", *at(place), given=line)
    assert done.exit_code == 65
    assert "line 1: " in done.errors


def test_batches_before_a_bad_line_are_kept_and_told(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_files, "_BATCH_LINES", 2)
    lines = [GOOD % key for key in "abcd"] + ["bad", GOOD % "f"]
    done = perdure("state", "import", "-", *at(place), given="\n".join(lines))
    assert "line 5: " in done.errors
    assert "lines 1 to 4 are in the store" in done.errors
    assert [key for _, key in content(place)] == list("abcd")
    lines[4] = GOOD % "e"
    given_ = "\n".join(lines)
    done = perdure("state", "import", "-", "--replace", *at(place), given=given_)
    assert done.exit_code == 0
    assert "imported 6 actors" in done.errors
    assert [key for _, key in content(place)] == list("abcdef")


def test_a_table_that_was_undone_with_its_batch_is_made_again(place: Place) -> None:
    actor = StoredActor("a", b"{}", 1, 1, 1)
    with importing(place) as store:
        with pytest.raises(ZeroDivisionError), store.batch():
            store.put("cart", actor, replace=False)
            raise ZeroDivisionError
        with store.batch():
            store.put("cart", actor, replace=False)
    assert content(place) == {("cart", "a"): actor}


def test_an_actor_that_is_there_is_replaced_only_when_told(place: Place) -> None:
    fill(place, {"cart": {"a": '{"old":1}'}})
    done = perdure("state", "import", "-", *at(place), given=GOOD % "a")
    assert done.exit_code == 65
    assert "--replace" in done.errors
    assert content(place)["cart", "a"].state == b'{"old":1}'
    done = perdure("state", "import", "-", "--replace", *at(place), given=GOOD % "a")
    assert done.exit_code == 0
    assert content(place)["cart", "a"] == StoredActor("a", b'{"n":1.0}', 3, 5, 7)


def test_what_is_replaced_goes_with_its_timers_and_entries(place: Place) -> None:
    timed = (GOOD % "a").replace('"state"', RING % "old")
    old = "\n".join([timed, ENTRY % ("a", "old"), GOOD % "b", ENTRY % ("b", "kept")])
    perdure("state", "import", "-", *at(place), given=old)
    new = "\n".join([GOOD % "a", ENTRY % ("a", "new")])
    done = perdure("state", "import", "-", "--replace", *at(place), given=new)
    assert done.exit_code == 0, done.errors
    timers, entries = beside(place)
    assert timers == []
    assert [at[1:] for at in entries] == [("a", "items", "new"), ("b", "items", "kept")]


def test_entries_of_one_actor_may_be_more_than_a_batch(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_files, "_BATCH_LINES", 3)
    lines = [GOOD % "a", *(ENTRY % ("a", number) for number in range(10)), GOOD % "b"]
    done = perdure("state", "import", "-", *at(place), given="\n".join(lines))
    assert done.errors == "imported 2 actors\n"
    assert [at[3] for at in beside(place)[1]] == [str(number) for number in range(10)]


def test_an_entry_that_comes_twice_is_refused(place: Place) -> None:
    lines = [GOOD % "a", ENTRY % ("a", "x"), ENTRY % ("a", "x")]
    for more in ([], ["--replace"]):
        done = perdure("state", "import", "-", *more, *at(place), given="\n".join(lines))
        assert done.exit_code == 65
        assert "line 3: the entry 'x' of cart/a.items comes twice" in done.errors
    assert (content(place), beside(place)) == ({}, ([], {}))


def test_a_line_of_an_older_export_has_version_1_and_no_timers(place: Place) -> None:
    perdure("state", "import", "-", *at(place), given=GOOD % "a")
    assert content(place)["cart", "a"].schema == 1
    assert beside(place) == ([], {})


def test_a_value_that_must_be_unique_does_not_push_another_actor_out(place: Place) -> None:
    """Replacing by SQLite's INSERT OR REPLACE would remove whoever has the value."""

    async def body() -> None:
        store = store_at(place)
        field = IndexedField("n", unique=True)
        await store.open([ActorSchema("cart", fields=["n"], indexes=[field])])
        await store.commit(Batch([ActorWrite("cart", "first", b'{"n":1}', 1)], (), 5))
        await store.close()

    asyncio.run(body())
    done = perdure("state", "import", "-", "--replace", *at(place), given=GOOD % "a")
    assert done.exit_code == 65
    assert "has a value in a unique field that another one has" in done.errors
    assert list(content(place)) == [("cart", "first")]


def test_importing_beside_a_server_names_the_holder(tmp_path: Path) -> None:
    async def body() -> None:
        store = SqliteStore(tmp_path)
        await store.open([ActorSchema("cart")])
        done = perdure("state", "import", "-", "--data", tmp_path, given=GOOD % "a")
        assert done.exit_code == 75
        assert f"in use by process {os.getpid()} on" in done.errors
        await store.close()

    asyncio.run(body())
    assert content(tmp_path) == {}


def test_a_file_that_is_not_there_is_told_and_no_store_is_made(tmp_path: Path) -> None:
    done = perdure("state", "import", tmp_path / "x", "--data", tmp_path / "data")
    assert done.exit_code == 66
    assert "there is no file" in done.errors
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("is_terminal", [True, False])
def test_progress_is_shown_on_a_terminal_only(tmp_path: Path, is_terminal: bool) -> None:
    fill(tmp_path, {"cart": {"a": "{}"}})
    screen = io.StringIO()
    notes = Console(file=screen, force_terminal=is_terminal, width=80)
    state_files.export_state(tmp_path, str(tmp_path / "x"), None, notes)
    state_files.import_state([tmp_path / "to"], str(tmp_path / "x"), replace=False, notes=notes)
    assert ("export" in screen.getvalue()) == is_terminal
    assert ("import" in screen.getvalue()) == is_terminal
    assert is_terminal or screen.getvalue() == ""
