"""`perdure state list|show|query`: what they print, what they refuse, and that they only read."""

import asyncio
import json
import shutil
import sqlite3
from pathlib import Path

import pytest
from tests.unit.cli.invoking import at, fill, perdure, store_at
from tests.unit.cli.stored import write

from perdure.cli.looking import Place, looking
from perdure.store.api import ActorSchema, ActorWrite, Batch
from perdure.store.sqlite import SqliteStore

KEYS = ("alice", "bob", "o'\"brien", "a/b", "[red]", "日本", "😀")


@pytest.fixture
def data(place: Place) -> Place:
    states = {key: f'{{"items":["tea"],"n":{n}}}' for n, key in enumerate(KEYS)}
    fill(place, {"todo_list": states, "order": {}}, at_ms=1_700_000_000_123)
    return place


def columns_of(output: str) -> list[list[str]]:
    return [line.split() for line in output.splitlines()]


def test_list_names_the_types_with_their_counts(data: Place) -> None:
    done = perdure("state", "list", *at(data))
    assert done.exit_code == 0
    assert columns_of(done.output) == [
        ["type", "actors"],
        ["order", "0"],
        ["todo_list", str(len(KEYS))],
    ]


@pytest.mark.parametrize("name", ["todo_list", "TodoList", "todo-list"])
def test_a_type_may_be_named_as_its_class_its_route_or_its_table(data: Place, name: str) -> None:
    done = perdure("state", "list", name, *at(data))
    assert [row[0] for row in columns_of(done.output)] == ["key", *sorted(KEYS)]
    assert columns_of(done.output)[1][1:] == ["1", "2023-11-14T22:13:20.123+00:00"]
    assert done.errors == ""


def test_pages_go_through_all_keys_and_name_the_next_page(data: Place) -> None:
    seen: list[str] = []
    options: list[str] = []
    for _ in range(10):
        done = perdure("state", "list", "TodoList", "--limit", "2", *options, *at(data))
        seen += [row[0] for row in columns_of(done.output)[1:]]
        if not done.errors:
            break
        assert "--after" in done.errors
        options = ["--after", seen[-1]]
    assert seen == sorted(KEYS)


def test_the_last_page_names_no_next_one_even_when_it_is_full(data: Place) -> None:
    done = perdure("state", "list", "TodoList", "--limit", str(len(KEYS)), *at(data))
    assert len(done.output.splitlines()) == 1 + len(KEYS)
    assert done.errors == ""


def test_the_hint_for_the_next_page_can_be_pasted_into_a_shell(place: Place) -> None:
    fill(place, {"cart": {"a $b": "{}", "c": "{}"}})
    done = perdure("state", "list", "cart", "--limit", "1", *at(place))
    assert "--after 'a $b'" in done.errors


@pytest.mark.parametrize("key", KEYS)
def test_show_prints_one_actor_as_json(data: Place, key: str) -> None:
    done = perdure("state", "show", "TodoList", key, *at(data))
    assert json.loads(done.output) == {
        "type": "todo_list",
        "key": key,
        "version": 1,
        "created": "2023-11-14T22:13:20.123+00:00",
        "updated": "2023-11-14T22:13:20.123+00:00",
        "state": {"items": ["tea"], "n": KEYS.index(key)},
    }
    assert len(done.output.splitlines()) > 5  # it is for people


def test_show_finds_a_key_in_another_unicode_form(place: Place) -> None:
    fill(place, {"cart": {"\u00e9": "{}"}})
    assert perdure("state", "show", "cart", "e\u0301", *at(place)).exit_code == 0


def test_query_prints_columns(data: Place) -> None:
    path = "$.n" if isinstance(data, Path) else "n"
    sql = f"SELECT key, state ->> '{path}' AS n, NULL AS x FROM todo_list"
    sql += " WHERE key IN ('a/b', 'alice', 'bob') ORDER BY 1"
    done = perdure("state", "query", sql, *at(data))
    assert columns_of(done.output) == [
        ["key", "n", "x"],
        ["a/b", "3"],
        ["alice", "0"],
        ["bob", "1"],
    ]


def test_query_names_the_columns_of_no_rows(data: Place) -> None:
    done = perdure("state", "query", "SELECT key, version FROM todo_list WHERE 1 = 0", *at(data))
    assert columns_of(done.output) == [["key", "version"]]


def test_query_as_json_gives_an_object_a_row(data: Place) -> None:
    sql = "SELECT key, version, 0.5 AS half, NULL AS none, key FROM todo_list ORDER BY key"
    done = perdure("state", "query", "--json", sql, *at(data))
    rows = [json.loads(line) for line in done.output.splitlines()]
    assert [row["key"] for row in rows] == sorted(KEYS)
    assert rows[0] == {"key": "[red]", "version": 1, "half": 0.5, "none": None, "key_2": "[red]"}


def test_a_long_table_is_cut_and_says_so(data: Place) -> None:
    many = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1500)"
        " SELECT i FROM n"
    )
    done = perdure("state", "query", many, *at(data))
    assert len(done.output.splitlines()) == 1_001
    assert "first 1,000 rows" in done.errors
    done = perdure("state", "query", "--json", many, *at(data))
    assert len(done.output.splitlines()) == 1_500


def test_a_terminal_is_not_given_control_characters(data: Place) -> None:
    char = "char" if isinstance(data, Path) else "chr"
    done = perdure("state", "query", f"SELECT {char}(27) || '[31m' || {char}(155) AS x", *at(data))
    assert done.output.splitlines()[1] == "\\u001b[31m\\u009b"


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM todo_list",
        "UPDATE todo_list SET state = '{}'",
        "DROP TABLE todo_list",
        "CREATE TABLE x (a)",
        "CREATE TEMP TABLE x (a)",
        "PRAGMA query_only = OFF",
        "PRAGMA user_version = 9",
        "PRAGMA wal_checkpoint(TRUNCATE)",
        "VACUUM INTO '{folder}/stolen.db'",
        "ATTACH '{folder}/other.db' AS other",
        "SELECT 1; DELETE FROM todo_list",
        "BEGIN IMMEDIATE",
    ],
)
def test_a_query_cannot_write(tmp_path: Path, sql: str) -> None:
    fill(data := tmp_path / "data", {"todo_list": dict.fromkeys(KEYS, "{}")})
    before = sorted(path.name for path in data.parent.iterdir())
    done = perdure("state", "query", sql.replace("{folder}", str(data.parent)), "--data", data)
    assert done.exit_code == 2
    assert "only SELECT is allowed" in done.errors
    assert sorted(path.name for path in data.parent.iterdir()) == before
    assert str(len(KEYS)) in perdure("state", "list", "--data", data).output


@pytest.mark.parametrize(
    "sql", ["SELEC 1", "SELECT * FROM nothing", "SELECT '", "SELECT \udcff", ""]
)
def test_bad_sql_is_one_line_and_a_hint(data: Place, sql: str) -> None:
    done = perdure("state", "query", sql, *at(data))
    assert done.exit_code == 2
    assert len(done.errors.splitlines()) <= 2
    assert done.output == ""


# -- mistakes ------------------------------------------------------------------------------------


def test_an_unknown_type_is_told_with_those_there_are(data: Place) -> None:
    done = perdure("state", "list", "Card", *at(data))
    assert done.exit_code == 66
    assert "no type 'Card'" in done.errors
    assert "order, todo_list" in done.errors


def test_an_unknown_key_is_told(data: Place) -> None:
    done = perdure("state", "show", "TodoList", "carol", *at(data))
    assert done.exit_code == 66
    assert "no todo_list has the key 'carol'" in done.errors


@pytest.mark.parametrize("key", ["", "a\nb", "\udcff"])
def test_what_cannot_be_a_key_is_told(data: Place, key: str) -> None:
    assert perdure("state", "show", "TodoList", key, *at(data)).exit_code == 2


READING = (
    ["list"],
    ["list", "cart"],
    ["show", "cart", "a"],
    ["query", "SELECT * FROM cart"],
    ["export", "-"],
)


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_no_store_is_told_and_none_is_made(tmp_path: Path, command: list[str]) -> None:
    done = perdure("state", *command, "--data", tmp_path / "nowhere")
    assert done.exit_code == 66
    assert "there is no store in" in done.errors
    assert "--data" in done.errors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_a_foreign_newer_or_broken_file_is_told(tmp_path: Path, command: list[str]) -> None:
    file = tmp_path / "perdure.db"
    file.write_bytes(b"x" * 4096)
    assert "is damaged or no Perdure store" in _refused_as_damaged(tmp_path, command)
    file.write_bytes(b"x")
    assert "is cut short" in _refused_as_damaged(tmp_path, command)
    file.unlink()
    with sqlite3.connect(file) as database:
        database.execute("CREATE TABLE cart (a)")
    database.close()
    assert "not a Perdure store" in _refused_as_damaged(tmp_path, command)
    file.unlink()
    fill(tmp_path, {"cart": {"a": "{}"}})
    with sqlite3.connect(file) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    assert "upgrade Perdure" in _refused_as_damaged(tmp_path, command)


@pytest.mark.parametrize("command", [READING[1], READING[2], READING[4]], ids=" ".join)
def test_a_row_that_does_not_fit_its_checksum_is_not_shown(
    tmp_path: Path, command: list[str]
) -> None:
    fill(tmp_path, {"cart": {"a": '{"n":1}'}})
    with sqlite3.connect(tmp_path / "perdure.db") as database:
        database.execute("UPDATE cart SET state = '{\"n\":2}'")
    database.close()
    errors = _refused_as_damaged(tmp_path, command)
    assert "cart/a does not fit its checksum" in errors


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_a_damaged_log_is_told_and_not_passed_over(tmp_path: Path, command: list[str]) -> None:
    """SQLite would show what was before the damage, as if there had never been more."""

    async def crash() -> None:
        store = SqliteStore(tmp_path / "data")
        await store.open([ActorSchema("cart")])
        for n in range(20):
            await store.commit(Batch([ActorWrite("cart", f"{n:02}", b"{}", 1)], [], 5))
        shutil.copytree(tmp_path / "data", tmp_path / "crashed")
        await store.close()

    asyncio.run(crash())
    crashed = tmp_path / "crashed"
    (crashed / "perdure.db-shm").unlink()
    log = crashed / "perdure.db-wal"
    content = bytearray(log.read_bytes())
    content[len(content) // 2] ^= 1
    log.write_bytes(content)
    assert "is damaged; acknowledged turns behind it" in _refused_as_damaged(crashed, command)


def _refused_as_damaged(directory: Path, command: list[str]) -> str:
    done = perdure("state", *command, "--data", directory)
    assert done.exit_code == 65, done
    assert done.output == ""
    assert len(done.errors.splitlines()) == 1
    return done.errors


# -- beside a server -----------------------------------------------------------------------------


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_reading_works_while_the_store_is_owned(place: Place, command: list[str]) -> None:
    async def body() -> None:
        store = store_at(place)
        await store.open([ActorSchema("cart")])
        await store.commit(Batch([ActorWrite("cart", "a", b'{"n":1}', 1)], [], 5))
        done = await asyncio.to_thread(perdure, "state", *command, *at(place))
        assert done.exit_code == 0
        assert "cart" in done.output or "a" in done.output
        await store.commit(Batch([ActorWrite("cart", "a", b'{"n":2}', 2)], [], 6))
        await store.close()

    asyncio.run(body())


def test_a_snapshot_is_of_one_moment(place: Place) -> None:
    write(place, ActorSchema("cart"), {"a": "{}"})
    with looking(place) as look:
        with look.snapshot():
            assert look.count("cart") == 1
            write(place, ActorSchema("cart"), {"a": "[]", "b": "{}"})
            [whole] = look.whole_actors("cart", "", 9)
            assert (whole.key, whole.state) == ("a", b"{}")
            assert [actor.key for actor in look.scan("cart", "", 9)] == ["a"]
        assert look.count("cart") == 2
