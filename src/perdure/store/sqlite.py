"""The SQLite store: one file, one owner, every commit synced to disk before it returns.

Commits run in one writer thread, so that the event loop never waits for a disk. Reads run on the
event loop itself, over a second connection: a cached row costs about ten microseconds, less than a
hop to a thread and back. WAL lets both go on at the same time.

A batch is written with a few many-row statements instead of one statement a row: SQLite gives up
the GIL for each, and the writer would have to win it back from a busy event loop every time.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import apsw

from perdure.base import points
from perdure.base.errors import ConflictError, StoreBrokenError, StoreError
from perdure.store.api import ActorWrite, Batch, RequestRecord, StoredActor
from perdure.store.sqlite_file import FILE_NAME, DirectoryLock, open_database, store_error
from perdure.store.sqlite_reader import ROW, SqliteReader, record_checksum, row_checksum
from perdure.store.writer_thread import WriterThread

_CHUNKS = (256, 128, 64, 32, 16, 8, 4, 2, 1)  # rows per statement; SQLite keeps each prepared
_CHECKPOINT_PAGES = 16_000  # 16 MiB of WAL

_Item = TypeVar("_Item")


class SqliteStore:
    """A `Store` in `directory`, which is made if it does not exist."""

    def __init__(self, directory: Path | str) -> None:
        self._directory = Path(directory)
        self._path = self._directory / FILE_NAME
        self._lock = DirectoryLock(self._directory)
        self._wal_pages = 0
        self._broken: str | None = None

    async def open(self, actor_types: Iterable[str]) -> None:
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._lock.take()
        except OSError as error:
            raise StoreError(f"{self._directory} cannot be used: {error.strerror}") from error
        try:
            self._writer = open_database(self._directory, self._lock, actor_types)
            self._writer.set_wal_hook(self._on_wal)
            self._reader = SqliteReader(self._directory)
        except BaseException:
            self._lock.release()
            raise
        self._lock.sign()
        self._thread = WriterThread()
        self._broken = None

    async def load(self, actor_type: str, key: str) -> StoredActor | None:
        return self._reader.load(actor_type, key)

    async def find_request(
        self, actor_type: str, key: str, request_id: str
    ) -> RequestRecord | None:
        return self._reader.find_request(actor_type, key, request_id)

    async def commit(self, batch: Batch) -> None:
        if self._broken:
            raise StoreBrokenError(self._broken)
        await self._thread.run(self._write, _statements(batch))
        if self._wal_pages >= _CHECKPOINT_PAGES:
            # behind the answer, not before it: the batch is durable in the WAL already
            self._thread.run(self._checkpoint)

    async def forget_requests(self, before_ms: int, limit: int) -> int:
        return await self._thread.run(self._delete_requests, before_ms, limit)

    async def actor_types(self) -> dict[str, int]:
        counts = {name: self._reader.count(name) for name in self._reader.actor_tables()}
        return {name: count for name, count in counts.items() if count}

    async def scan(self, actor_type: str, after: str, limit: int) -> list[StoredActor]:
        return self._reader.scan(actor_type, after, limit)

    async def close(self) -> None:
        self._thread.stop()
        self._reader.close()
        self._writer.close()
        self._lock.release()

    # -- writing, in the writer thread -----------------------------------------------------------

    def _write(self, statements: Sequence[tuple[str, list[Any], int]]) -> None:
        writer = self._writer
        try:
            writer.execute("BEGIN IMMEDIATE")
            points.reach("after_begin")
            for sql, values, row_count in statements:
                writer.execute(sql, values)
                if writer.changes() != row_count:
                    raise ConflictError("the store holds another version than the one in memory")
            points.reach("before_fsync")
            writer.execute("COMMIT")
            points.reach("after_fsync")
        except apsw.ConstraintError as error:
            self._abandon()
            raise ConflictError(
                f"an actor or a record was created by somebody else: {error}"
            ) from error
        except (apsw.IOError, OSError) as error:
            raise self._break(error) from error
        except apsw.Error as error:
            self._abandon()
            raise store_error(error, self._path) from error
        except BaseException:
            self._abandon()  # an open transaction would refuse every later one
            raise

    def _break(self, error: Exception) -> StoreBrokenError:
        """Take no more writes: what a failed sync left in the file cannot be trusted."""
        self._broken = f"the disk failed under {self._path}: {error}"
        return StoreBrokenError(self._broken)

    def _abandon(self) -> None:
        if self._writer.in_transaction:
            self._writer.execute("ROLLBACK")

    def _on_wal(self, _connection: apsw.Connection, _database: str, pages: int) -> int:
        self._wal_pages = pages
        return apsw.SQLITE_OK

    def _checkpoint(self) -> None:
        self._wal_pages = 0
        try:
            self._writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        except apsw.FullError:
            return  # the WAL keeps everything; the next round tries again
        except apsw.IOError as error:
            self._break(error)

    def _delete_requests(self, before_ms: int, limit: int) -> int:
        if self._broken:
            raise StoreBrokenError(self._broken)
        try:
            self._writer.execute(
                "DELETE FROM perdure_request WHERE (actor_type, key, request_id) IN"
                " (SELECT actor_type, key, request_id FROM perdure_request"
                " WHERE created_at_ms < ? LIMIT ?)",
                (before_ms, limit),
            )
        except apsw.IOError as error:  # its frames in the WAL would tear those of later commits
            raise self._break(error) from error
        except apsw.Error as error:
            raise store_error(error, self._path) from error
        return self._writer.changes()


def _statements(batch: Batch) -> list[tuple[str, list[Any], int]]:
    """The batch as (SQL, bound values, number of rows that must change)."""
    created: dict[str, list[ActorWrite]] = {}
    updated: dict[str, list[ActorWrite]] = {}
    for write in batch.writes:
        kind = created if write.version == 1 else updated
        kind.setdefault(write.actor_type, []).append(write)
    statements = []
    for name, writes in created.items():
        for chunk in _chunks(writes):
            rows = len(chunk)
            statements.append((_insert_sql(name, rows), _values(chunk, batch.at_ms, 2), rows))
    for name, writes in updated.items():
        for chunk in _chunks(writes):
            rows = len(chunk)
            statements.append((_update_sql(name, rows), _values(chunk, batch.at_ms, 1), rows))
    for records in _chunks(batch.requests):
        rows = len(records)
        statements.append((_request_sql(rows), _request_values(records, batch.at_ms), rows))
    return statements


def _chunks(items: Sequence[_Item]) -> Iterable[Sequence[_Item]]:
    start = 0
    for size in _CHUNKS:
        while len(items) - start >= size:
            yield items[start : start + size]
            start += size


@cache
def _insert_sql(name: str, rows: int) -> str:
    return f'INSERT INTO "{name}" ({ROW}) VALUES ' + ",".join(["(?,?,?,?,?,?)"] * rows)


@cache
def _update_sql(name: str, rows: int) -> str:
    # UPDATE rather than an upsert: a row that is gone, or has moved on, must not be written over
    return (
        f'UPDATE "{name}" SET state = new.column2, version = new.column3, checksum = new.column4,'
        f" updated_at_ms = new.column5 FROM (VALUES {','.join(['(?,?,?,?,?)'] * rows)}) AS new"
        f' WHERE "{name}".key = new.column1 AND "{name}".version = new.column3 - 1'
    )


@cache
def _request_sql(rows: int) -> str:
    return "INSERT INTO perdure_request VALUES " + ",".join(["(?,?,?,?,?,?,?)"] * rows)


def _values(writes: Sequence[ActorWrite], at_ms: int, times: int) -> list[Any]:
    values: list[Any] = []
    for write in writes:
        values += (write.key, write.state.decode(), write.version)
        values.append(row_checksum(write.key, write.version, write.state))
        values += (at_ms,) * times
    return values


def _request_values(records: Sequence[RequestRecord], at_ms: int) -> list[Any]:
    values: list[Any] = []
    for record in records:
        values += (record.actor_type, record.key, record.request_id)
        values += (record.fingerprint, record.reply, record_checksum(record), at_ms)
    return values
