"""`perdure state letters|resend|drop-letter`: dead letters, with and without a server."""

import asyncio
import http.client
import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import apsw
import pytest
from tests.unit.cli.invoking import at, fill, perdure, store_at

from perdure.cli.looking import Place, looking
from perdure.store import sqlite_letters
from perdure.store.api import ActorSchema, ActorWrite, Batch, Message, Stream
from perdure.store.sqlite import SqliteStore
from perdure.store.sqlite_file import FILE_NAME
from perdure.testing import async_test

STREAM = Stream("cart", "a", "stock", "tea")
COMMANDS = [["letters"], ["resend", "1"], ["resend", "--all"], ["drop-letter", "1", "--yes"]]


def letter(number: int, due_at_ms: int | None = None, stream: Stream = STREAM) -> Message:
    return Message(stream, "take", b"[]", f"u{number}", None, due_at_ms, 8, f"SoldOut: {number}")


def post(place: Place, *messages: Message) -> list[int]:
    """Commit messages; returns their ids. A new SQLite store counts them from 1."""

    async def body() -> list[int]:
        store = store_at(place)
        await store.open([ActorSchema("cart")])
        ids: list[int] = []
        for start in range(0, len(messages), 500):
            batch = Batch((), (), 1_000, sent=messages[start : start + 500])
            ids += (await store.commit(batch)).message_ids
        await store.close()
        return ids

    return asyncio.run(body())


def rows(place: Place) -> list[tuple[object, ...]]:
    """(id, is dead, attempts, error) of every message."""
    sql = (
        "SELECT id, CASE WHEN due_at_ms IS NULL THEN 1 ELSE 0 END, attempts, error"
        " FROM perdure_message ORDER BY id"
    )
    if not isinstance(place, Path):
        with looking(place) as look:
            return list(look.query(sql)[1])
    with sqlite3.connect(place / FILE_NAME) as database:  # also what we would not look into
        found = database.execute(sql).fetchall()
    database.close()
    return found


# -- listing -------------------------------------------------------------------------------------


def test_a_store_without_letters_says_so(place: Place) -> None:
    post(place, letter(1, due_at_ms=5))
    done = perdure("state", "letters", *at(place))
    assert (done.exit_code, done.output) == (0, "No dead letters.\n")


def test_a_letter_is_shown_with_all_that_tells_why_it_is_dead(place: Place) -> None:
    outside = Stream("cart", "a", "@mail", "")
    sold_out = letter(1)
    first, second, _ = post(place, sold_out, letter(2, stream=outside), letter(3, due_at_ms=9))
    done = perdure("state", "letters", *at(place))
    sent = "1970-01-01T00:00:01.000+00:00"
    assert [line.split() for line in done.output.splitlines()] == [
        ["id", "sent", "sender", "receiver", "attempts", "error"],
        [str(first), sent, "cart/a", "stock/tea.take", "8", "SoldOut:", "1"],
        [str(second), sent, "cart/a", "@mail.take", "8", "SoldOut:", "2"],
    ]


def test_many_letters_come_in_pages(place: Place) -> None:
    ids = post(place, *map(letter, range(1, 1_204)))
    seen: list[int] = []
    after = "0"
    while after:
        done = perdure("state", "letters", *at(place), "--limit", "600", "--after", after)
        page = [int(line.split()[0]) for line in done.output.splitlines()[1:]]
        assert len(page) <= 600
        seen += page
        after = done.errors.partition("--after ")[2].strip()
    assert seen == ids
    done = perdure("state", "letters", *at(place), "--after", str(ids[-1]))
    assert done.output == "No more dead letters.\n"


# -- sending again, dropping ---------------------------------------------------------------------


def test_a_letter_is_sent_again_with_all_its_attempts(place: Place) -> None:
    first, second = post(place, letter(1), letter(2))
    done = perdure("state", "resend", str(second), *at(place))
    assert (done.exit_code, done.errors) == (0, "1 letter is due again\n")
    assert rows(place) == [(first, 1, 8, "SoldOut: 1"), (second, 0, 0, "SoldOut: 2")]


@pytest.mark.parametrize("command", ["resend", "drop-letter"])
def test_an_id_that_is_no_letter_is_told_and_left_alone(place: Place, command: str) -> None:
    under_way, _ = post(place, letter(1, due_at_ms=5), letter(2))
    before = rows(place)
    for wrong in (str(under_way), "99", str(2**63 - 1)):
        done = perdure("state", command, wrong, *at(place))
        assert done.exit_code == 66
        assert f"no dead letter has the id {wrong}" in done.errors
    for wrong in ("0", "x", str(2**63)):
        assert perdure("state", command, wrong, *at(place)).exit_code == 2
    assert rows(place) == before


def test_the_letters_among_wrong_ids_are_sent_all_the_same(place: Place) -> None:
    first, second = map(str, post(place, letter(1), letter(2)))
    done = perdure("state", "resend", "7", first, "7", second, *at(place))
    assert done.exit_code == 66
    assert "no dead letter has the id 7; 2 others were sent again" in done.errors
    assert [row[1] for row in rows(place)] == [0, 0]


def test_all_letters_are_sent_however_many(place: Place) -> None:
    count = 2 * sqlite_letters.ROWS_MAX + 1
    post(place, *map(letter, range(1, count)), letter(count, due_at_ms=5))
    done = perdure("state", "resend", "--all", *at(place))
    assert done.errors == f"{count - 1:,} letters are due again\n"
    assert {row[1] for row in rows(place)} == {0}
    assert rows(place)[-1][2] == 8  # it was never dead
    done = perdure("state", "resend", "--all", *at(place))
    assert done.errors == "0 letters are due again\n"


@pytest.mark.parametrize("arguments", [[], ["1", "--all"]])
def test_resend_takes_ids_or_all(place: Place, arguments: list[str]) -> None:
    post(place, letter(1))
    done = perdure("state", "resend", *arguments, *at(place))
    assert done.exit_code == 2
    assert "--all" in done.errors
    assert [row[1] for row in rows(place)] == [1]


def test_a_letter_is_dropped_after_a_yes_only(place: Place) -> None:
    ids = post(place, letter(1), letter(2), letter(3))
    first, second, third = map(str, ids)
    for answer in ("n\n", ""):
        done = perdure("state", "drop-letter", first, *at(place), given=answer)
        assert done.exit_code == 1
        assert "Delete stock/tea.take from cart/a" in done.errors
    assert [row[0] for row in rows(place)] == ids
    assert perdure("state", "drop-letter", first, *at(place), given="y\n").exit_code == 0
    assert perdure("state", "drop-letter", second, "--yes", *at(place)).exit_code == 0
    assert [row[0] for row in rows(place)] == [int(third)]


# -- wrong stores --------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_store_is_told_and_none_is_made(tmp_path: Path, command: list[str]) -> None:
    done = perdure("state", *command, "--data", tmp_path)
    assert done.exit_code == 66
    assert "there is no store in" in done.errors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_foreign_or_newer_store_is_refused(tmp_path: Path, command: list[str]) -> None:
    file = tmp_path / FILE_NAME
    file.write_bytes(b"x" * 4096)
    done = perdure("state", *command, "--data", tmp_path)
    assert (done.exit_code, file.read_bytes()) == (65, b"x" * 4096)
    file.unlink()
    post(tmp_path, letter(1))
    with sqlite3.connect(file) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    done = perdure("state", *command, "--data", tmp_path)
    assert done.exit_code == 65
    assert "upgrade Perdure" in done.errors
    assert [row[1] for row in rows(tmp_path)] == [1]


def test_a_store_of_an_older_format_is_not_written(tmp_path: Path) -> None:
    fill(tmp_path, {"cart": {"a": "{}"}})
    with sqlite3.connect(tmp_path / FILE_NAME) as database:
        database.execute("DROP TABLE perdure_message")
        database.execute("PRAGMA user_version = 1")
    database.close()
    done = perdure("state", "resend", "--all", "--data", tmp_path)
    assert done.exit_code == 65
    assert "brings it up to date" in done.errors


def test_a_store_that_is_damaged_inside_is_not_written(tmp_path: Path) -> None:
    post(tmp_path, letter(1))
    with sqlite3.connect(tmp_path / FILE_NAME) as database:
        [(page,)] = database.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'perdure_message_dead'"
        )
        [(size,)] = database.execute("PRAGMA page_size")
    database.close()
    content = bytearray((tmp_path / FILE_NAME).read_bytes())
    content[(page - 1) * size + 3 : (page - 1) * size + 5] = b"\0\0"  # the index lists no letter
    (tmp_path / FILE_NAME).write_bytes(content)
    done = perdure("state", "resend", "1", "--data", tmp_path)
    assert done.exit_code == 65
    assert "is damaged" in done.errors
    assert (tmp_path / FILE_NAME).read_bytes() == content


# -- beside an owner -----------------------------------------------------------------------------


@async_test
async def test_the_owner_commits_on_while_letters_are_sent_and_dropped(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    await store.open([ActorSchema("cart")])
    await store.commit(
        Batch([ActorWrite("cart", "a", b"{}", 1)], (), 5, sent=[letter(1), letter(2), letter(3)])
    )
    assert perdure("state", "resend", "1", "--data", tmp_path).exit_code == 0
    assert perdure("state", "drop-letter", "2", "--yes", "--data", tmp_path).exit_code == 0
    again = await store.messages(STREAM, 0, 10)
    assert [(message.id, message.attempts) for message in again] == [(1, 0)]
    await store.commit(Batch([ActorWrite("cart", "a", b"{}", 2)], (), 6, taken=again))
    assert [message.id for message in await store.dead_letters(0, 10)] == [3]
    await store.close()


def test_an_owner_that_keeps_the_store_busy_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    post(tmp_path, letter(1))
    monkeypatch.setattr(sqlite_letters, "BUSY_TIMEOUT_MS", 10)
    database = apsw.Connection(str(tmp_path / FILE_NAME))  # sqlite3's locks are not apsw's
    database.execute("BEGIN IMMEDIATE")
    done = perdure("state", "resend", "1", "--data", tmp_path)
    database.close()
    assert done.exit_code == 75
    assert "try again" in done.errors
    assert [row[1] for row in rows(tmp_path)] == [1]


APP = """
from pathlib import Path
from perdure import Actor, App, Limits, expose, read

class Shelf(Actor):
    taken: list[int] = []

    @expose
    async def take(self, qty: int) -> None:
        if not Path("refilled").exists():
            raise ValueError("sold out")
        self.taken.append(qty)

    @expose
    @read
    async def view(self) -> list[int]:
        return self.taken

class Order(Actor):
    placed: int = 0

    @expose
    async def place(self, qty: int) -> None:
        self.placed += qty
        Shelf.at("tea").tell.take(qty)

app = App(Shelf, Order, limits=Limits(delivery_attempts_max=1))
"""
WITHIN_S = 30.0


@contextmanager
def served(folder: Path) -> Iterator[http.client.HTTPConnection]:
    """A server process in `folder`, ended by its id."""
    (folder / "shelves.py").write_text(APP)
    command = [sys.executable, "-P", "-c", "from perdure.cli import main; main()", "run"]
    command += ["shelves.py", "--no-supervisor", "--listen", "127.0.0.1:0"]
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        port = int(line.partition("http://127.0.0.1:")[2].split()[0])
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=WITHIN_S)) as connection:
            yield connection
    finally:
        process.kill()
        process.communicate(timeout=20)


def call(server: http.client.HTTPConnection, verb: str, path: str, **values: object) -> object:
    server.request(verb, path, json.dumps(values) if verb == "POST" else None)
    return json.loads(server.getresponse().read())


def wait_until(folder: Path, sql: str) -> None:
    """Until the query finds a row; looking in takes a while itself."""
    end_s = time.monotonic() + WITHIN_S
    command = ["state", "query", sql, "--json", "--data", str(folder / "data")]
    while json.loads(perdure(*command).output)["ready"] != 1:
        assert time.monotonic() < end_s, sql


def test_a_letter_that_is_sent_again_beside_a_running_server_arrives(tmp_path: Path) -> None:
    dead = "SELECT count(*) = 2 AS ready FROM perdure_message WHERE due_at_ms IS NULL"
    gone = "SELECT count(*) = 1 AS ready FROM perdure_message"
    with served(tmp_path) as server:
        call(server, "POST", "/order/1/place", qty=3)
        call(server, "POST", "/order/2/place", qty=4)
        wait_until(tmp_path, dead)
        (tmp_path / "refilled").touch()
        done = perdure("state", "letters", "--data", tmp_path / "data")
        [first, _] = [line.split()[0] for line in done.output.splitlines()[1:]]
        assert "ValueError: sold out" in done.output
        done = perdure("state", "resend", first, "--data", tmp_path / "data")
        assert done.exit_code == 0, done.errors
        wait_until(tmp_path, gone)
        assert call(server, "GET", "/shelf/tea/view") == [3]
        call(server, "POST", "/order/1/place", qty=5)  # the server is as well as before
