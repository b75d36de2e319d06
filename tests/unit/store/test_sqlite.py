"""What the SQLite store adds to the contract: its lock, its checks, its errors."""

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import apsw
import pytest

from perdure import (
    StoreBrokenError,
    StoreCorruptError,
    StoreError,
    StoreFormatError,
    StoreFullError,
    StoreLockedError,
)
from perdure.store.api import ActorSchema, Answers, StoredActor
from perdure.store.memory import MemoryStore
from perdure.store.sqlite import SqliteStore
from perdure.store.sqlite_file import PAGE_BYTES
from perdure.store.sqlite_reader import record_checksum, row_checksum
from perdure.store.url import store_from_url
from perdure.testing import async_test
from perdure.testing.store_contract import SCHEMAS, batch, record, write


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(directory)
    await store.open(SCHEMAS)
    try:
        yield store
    finally:
        await store.close()


async def _fill(directory: Path, actors: int = 50) -> None:
    async with opened(directory) as store:
        state = b'{"text":"' + b"x" * 200 + b'"}'
        await store.commit(batch(*[write(f"k{n:03}", 1, state) for n in range(actors)]))
        await store.commit(batch(record("k000", "r", b'"answer"')))


def _refused(directory: Path, error: type[StoreError], match: str | None = None) -> None:
    async def body() -> None:
        store = SqliteStore(directory)
        with pytest.raises(error, match=match):
            await store.open(SCHEMAS)

    asyncio.run(body())


@async_test
async def test_a_second_owner_is_refused_and_the_first_is_named(tmp_path: Path) -> None:
    async with opened(tmp_path):
        with pytest.raises(StoreLockedError, match=rf"in use by process {os.getpid()} on "):
            await SqliteStore(tmp_path).open(SCHEMAS)
    async with opened(tmp_path) as store:
        assert await store.actor_types() == {}


@async_test
async def test_somebody_who_looks_in_takes_nothing_away(tmp_path: Path) -> None:
    """Regression: our locks were lost, and the sqlite3 shell deleted the WAL when it closed."""
    await _fill(tmp_path)
    async with opened(tmp_path) as store:
        await store.commit(batch(write("first", 1)))
        look = (
            "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]);"
            "print(c.execute('SELECT count(*) FROM cart').fetchall()); c.close()"
        )
        file = str(tmp_path / "perdure.db")
        done = subprocess.run([sys.executable, "-c", look, file], capture_output=True, text=True)
        assert done.stdout == "[(51,)]\n"
        await store.commit(batch(write("second", 1)))
        shutil.copytree(tmp_path, tmp_path / "crashed")
    async with opened(tmp_path / "crashed") as store:
        assert await store.load("cart", "first") is not None
        assert await store.load("cart", "second") is not None


@async_test
async def test_the_tables_can_be_read_with_plain_sql(tmp_path: Path) -> None:
    await _fill(tmp_path, 3)
    connection = sqlite3.connect(tmp_path / "perdure.db")
    rows = connection.execute("SELECT key, version, json_valid(state) FROM cart").fetchall()
    connection.close()
    assert rows == [("k000", 1, 1), ("k001", 1, 1), ("k002", 1, 1)]


@async_test
async def test_it_syncs_every_commit(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        assert store._writer.pragma("synchronous") == 2
        assert store._writer.pragma("journal_mode") == "wal"


@async_test
async def test_a_row_edited_by_hand_is_refused(tmp_path: Path) -> None:
    await _fill(tmp_path)
    connection = sqlite3.connect(tmp_path / "perdure.db")
    with connection:
        connection.execute("UPDATE cart SET state = '{}' WHERE key = 'k001'")
        connection.execute("UPDATE perdure_request SET reply = x'30'")
    connection.close()
    async with opened(tmp_path) as store:
        with pytest.raises(StoreCorruptError, match="cart/k001 does not fit its checksum"):
            await store.load("cart", "k001")
        with pytest.raises(StoreCorruptError, match="a remembered answer of cart/k000"):
            await store.find_request("cart", "k000", "r")
        assert await store.load("cart", "k002") is not None


@async_test
async def test_a_text_that_is_no_longer_one_is_damage(tmp_path: Path) -> None:
    await _fill(tmp_path)
    connection = sqlite3.connect(tmp_path / "perdure.db")
    with connection:
        connection.execute("UPDATE cart SET state = CAST(x'7bff7d' AS TEXT) WHERE key = 'k001'")
    connection.close()
    async with opened(tmp_path) as store:
        with pytest.raises(StoreCorruptError, match="a text is not UTF-8"):
            await store.load("cart", "k001")


def _damage(change: Callable[[Path], None], directory: Path) -> None:
    asyncio.run(_fill(directory, 200))
    change(directory / "perdure.db")


def test_a_file_that_was_cut_anywhere_is_refused(tmp_path: Path) -> None:
    asyncio.run(_fill(tmp_path / "whole", 200))
    size = (tmp_path / "whole" / "perdure.db").stat().st_size
    for cut in [*range(0, size, 1536), 1, 50, 99, 100, size - 1]:
        copy = tmp_path / str(cut)
        shutil.copytree(tmp_path / "whole", copy)
        os.truncate(copy / "perdure.db", cut)
        _refused(copy, StoreCorruptError)


def test_a_file_that_is_gone_is_a_loss_and_not_a_new_store(tmp_path: Path) -> None:
    _damage(Path.unlink, tmp_path)
    _refused(tmp_path, StoreCorruptError, "held a store before; restore a backup")


def test_a_file_of_garbage_is_refused(tmp_path: Path) -> None:
    _damage(lambda path: path.write_bytes(b"garbage " * 1000) and None, tmp_path)
    _refused(tmp_path, StoreCorruptError, "no Perdure store")


def test_a_foreign_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "perdure.db")
    connection.execute("CREATE TABLE theirs (a)")
    connection.close()
    before = (tmp_path / "perdure.db").read_bytes()
    _refused(tmp_path, StoreCorruptError, "an SQLite file, but not a Perdure store")
    assert (tmp_path / "perdure.db").read_bytes() == before


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    def raise_format(path: Path) -> None:
        connection = apsw.Connection(str(path))
        connection.execute("PRAGMA user_version = 99")
        connection.close()

    _damage(raise_format, tmp_path)
    _refused(tmp_path, StoreFormatError, "format 99, this Perdure reads up to 3; upgrade")


def test_a_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    _refused(tmp_path / "file" / "data", StoreError, "cannot be used")


@async_test
async def test_a_damaged_index_is_found_at_the_start(tmp_path: Path) -> None:
    """It would hide a row: its actor would start from nothing, and be written twice."""
    await _fill(tmp_path)
    path = tmp_path / "perdure.db"
    content = path.read_bytes()
    pages = [content[at : at + PAGE_BYTES] for at in range(0, len(content), PAGE_BYTES)]
    [index] = [n for n, page in enumerate(pages) if b"k017" in page and b"xxxx" not in page]
    at = content.index(b"k017", index * PAGE_BYTES)
    path.write_bytes(content[:at] + b"k01x" + content[at + 4 :])
    with pytest.raises(StoreCorruptError, match=r"is damaged: .*index"):
        await SqliteStore(tmp_path).open(SCHEMAS)


def _frames(wal: bytes) -> int:
    return (len(wal) - 32) // (PAGE_BYTES + 24)


@async_test
async def test_a_flipped_bit_amid_the_wal_is_named_and_a_torn_tail_is_not(tmp_path: Path) -> None:
    live, keys = tmp_path / "live", [f"k{n}" for n in range(8)]
    async with opened(live) as store:
        for key in keys:
            await store.commit(batch(write(key, 1)))
        shutil.copytree(live, tmp_path / "crashed")
    wal = (tmp_path / "crashed" / "perdure.db-wal").read_bytes()
    seen = set()
    for offset in range(0, len(wal), 997):
        copy = tmp_path / f"flip-{offset}"
        shutil.copytree(tmp_path / "crashed", copy)
        (copy / "perdure.db-shm").unlink()
        flipped = bytes([wal[offset] ^ 0x10])
        (copy / "perdure.db-wal").write_bytes(wal[:offset] + flipped + wal[offset + 1 :])
        try:
            async with opened(copy) as store:
                found = [row.key for row in await store.scan("cart", "", 100)]
        except StoreCorruptError:
            seen.add("named")
            continue
        assert found in (keys, keys[:-1])  # damage in the last transaction looks like a crash
        seen.add("tail")
    assert seen == {"named", "tail"}


@async_test
async def test_after_a_failed_sync_the_store_takes_no_more_writes(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.commit(batch(write("a", 1)))
        store._break(apsw.IOError("fsync"))
        for work in (store.commit(batch(write("b", 1))), store.forget_requests(1, 1)):
            with pytest.raises(StoreBrokenError, match="the disk failed under"):
                await work
    async with opened(tmp_path) as store:
        assert [row.key for row in await store.scan("cart", "", 10)] == ["a"]


@async_test
async def test_an_unexpected_exception_in_the_writer_leaves_no_open_transaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as store:
        with monkeypatch.context() as patch:
            patch.setattr("perdure.base.points.reach", lambda _point: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                await store.commit(batch(write("a", 1)))
        await store.commit(batch(write("a", 1)))


@async_test
async def test_types_whose_names_begin_like_ours_are_listed(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    await store.open([ActorSchema("perdured"), ActorSchema("sqlites")])
    for name in ("perdured", "sqlites"):
        await store.commit(batch(write("a", 1, actor_type=name)))
    assert await store.actor_types() == {"perdured": 1, "sqlites": 1}
    await store.close()


@async_test
async def test_the_wal_is_folded_back_and_does_not_grow_for_ever(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        state = b'"' + b"x" * 1_000_000 + b'"'
        for version in range(1, 60):
            await store.commit(batch(write("a", version, state)))
        assert (tmp_path / "perdure.db-wal").stat().st_size < 40 << 20


def test_a_full_disk_has_a_name_of_its_own() -> None:
    from perdure.store.sqlite_file import store_error

    assert isinstance(store_error(apsw.FullError("full"), Path("x")), StoreFullError)
    assert type(store_error(apsw.BusyError("busy"), Path("x"))) is StoreError


def test_store_urls(tmp_path: Path) -> None:
    assert isinstance(store_from_url("memory:"), MemoryStore)
    assert isinstance(store_from_url(f"sqlite:{tmp_path}"), SqliteStore)
    assert isinstance(store_from_url("sqlite://data"), SqliteStore)
    for url in ("", "sqlite:", "postgres:x", "memory:x", "data"):
        with pytest.raises(StoreError, match="use sqlite:DIRECTORY"):
            store_from_url(url)


_FORMAT_1 = """
PRAGMA application_id = 1346720324; PRAGMA user_version = 1; PRAGMA journal_mode = WAL;
CREATE TABLE "cart" (
    key TEXT NOT NULL PRIMARY KEY, state TEXT NOT NULL, version INTEGER NOT NULL,
    checksum INTEGER NOT NULL, created_at_ms INTEGER NOT NULL, updated_at_ms INTEGER NOT NULL
);
CREATE TABLE perdure_request (
    actor_type TEXT NOT NULL, key TEXT NOT NULL, request_id TEXT NOT NULL,
    fingerprint BLOB NOT NULL, reply BLOB NOT NULL, checksum INTEGER NOT NULL,
    created_at_ms INTEGER NOT NULL,
    PRIMARY KEY (actor_type, key, request_id)
) WITHOUT ROWID;
CREATE INDEX perdure_request_age ON perdure_request (created_at_ms);
"""


@async_test
async def test_a_store_of_format_1_is_migrated_with_all_it_holds(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "perdure.db")
    database.executescript(_FORMAT_1)
    answered = record("a", "r", b'"answer"')
    database.execute(
        "INSERT INTO cart VALUES (?, ?, ?, ?, ?, ?)",
        ("a", '{"n":1}', 3, row_checksum("a", 3, b'{"n":1}'), 5, 7),
    )
    database.execute(
        "INSERT INTO perdure_request VALUES (?, ?, ?, ?, ?, ?, ?)",
        ("cart", "a", "r", answered.fingerprint, answered.reply, record_checksum(answered), 7),
    )
    database.commit()
    database.close()
    for _ in range(2):
        async with opened(tmp_path) as store:
            assert await store.load("cart", "a") == StoredActor("a", b'{"n":1}', 3, 5, 7)
            assert await store.find_request("cart", "a", "r") == answered
    async with opened(tmp_path) as store:
        await store.commit(batch(write("a", 4)))
        assert await store.forget_requests(8, 10) == 1


@async_test
async def test_a_store_of_format_2_gets_a_table_of_answers(tmp_path: Path) -> None:
    await _fill(tmp_path, 3)
    database = sqlite3.connect(tmp_path / "perdure.db")
    database.executescript("DROP TABLE perdure_answers; PRAGMA user_version = 2;")
    database.close()
    for number in range(2):
        async with opened(tmp_path) as store:
            assert await store.find_answers("web", number) == []
            await store.commit(batch(Answers("web", number, number, b"x")))
            assert await store.find_answers("web", number) == [b"x"]
            assert await store.actor_types() == {"cart": 3}
