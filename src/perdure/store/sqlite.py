"""The SQLite store: one file, one owner, every commit synced to disk before it returns.

Commits run in one writer thread, so that the event loop never waits for a disk. Reads run on the
event loop itself, over a second connection: a cached row costs about ten microseconds, less than a
hop to a thread and back. WAL lets both go on at the same time.

A batch is written with a few many-row statements instead of one statement a row: SQLite gives up
the GIL for each, and the writer would have to win it back from a busy event loop every time.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import count
from pathlib import Path

import apsw

from perdure.base import points
from perdure.base.errors import ConflictError, StoreBrokenError, StoreError
from perdure.store.api import (
    ActorSchema,
    ActorWrite,
    Batch,
    Committed,
    Message,
    Query,
    Refusal,
    RequestRecord,
    Shards,
    StoredActor,
    StoredSchema,
    Stream,
    Timer,
    TimerPlace,
)
from perdure.store.registry import Registry
from perdure.store.sqlite_answered import Answered
from perdure.store.sqlite_batch import (
    FORGET_ANSWERS,
    FORGET_REQUESTS,
    ActorName,
    Statement,
    statements,
    without,
    writes,
)
from perdure.store.sqlite_file import FILE_NAME, DirectoryLock, open_database, store_error
from perdure.store.sqlite_reader import SqliteReader
from perdure.store.sqlite_tables import index_name
from perdure.store.writer_thread import WriterThread

_CHECKPOINT_PAGES = 16_000  # 16 MiB of WAL
_PLAIN = Committed()
_ANSWERED = "SELECT 1 FROM perdure_request WHERE actor_type = ? AND key = ? AND request_id = ?"
_INDEX = re.compile(r"index '(perdure_uq_.+)'$")


class _NotUniqueError(Exception):
    """A unique index refused a row; `index` is its name."""

    def __init__(self, index: str) -> None:
        self.index = index


class SqliteStore:
    """A `Store` in `directory`, which is made if it does not exist."""

    reads_never_wait = True
    commit_passes_max = 1  # with two, 64 callers of one actor were served 7 % more slowly
    registry: Registry | None = None

    def __init__(self, directory: Path | str) -> None:
        self._directory = Path(directory)
        self._path = self._directory / FILE_NAME
        self._lock = DirectoryLock(self._directory)
        self._wal_pages = 0
        self._broken: str | None = None

    async def open(self, schemas: Iterable[ActorSchema]) -> None:
        schemas = list(schemas)
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._lock.take()
        except OSError as error:
            raise StoreError(f"{self._directory} cannot be used: {error.strerror}") from error
        try:
            self._writer = open_database(self._directory, self._lock, schemas)
            self._writer.set_wal_hook(self._on_wal)
            self._reader = SqliteReader(self._directory)
            self._long_reader = SqliteReader(self._directory)
        except BaseException:
            self._lock.release()
            raise
        self._versions = {schema.name: schema.version for schema in schemas}
        self._fields = {
            index_name(schema.name, field): field.name
            for schema in schemas
            for field in schema.indexes
        }
        self._answered = Answered(self._reader.request_ids)
        self._next_message_id = self._reader.last_message_id() + 1
        self._lock.sign()
        self._thread = WriterThread("perdure-writer")
        self._long_reads = WriterThread("perdure-reader")
        self._broken = None

    async def close(self) -> None:
        self._thread.stop()
        self._long_reads.stop()
        self._reader.close()
        self._long_reader.close()
        self._writer.close()
        self._lock.release()

    def stand_on(self, incarnation: int) -> None:
        """Nothing: the lock of the directory says who owns it, and so nobody calls this."""

    async def commit(self, batch: Batch) -> Committed:
        if self._broken:
            raise StoreBrokenError(self._broken)
        first_id = self._next_message_id
        self._next_message_id += len(batch.sent)
        # made here and not in the thread: there, Python code would fight this one for the GIL
        made = statements(batch, self._versions, first_id)
        committed = await self._thread.run(self._write, batch, made, first_id)
        if batch.requests:
            self._answered.add(batch.requests)
        if self._wal_pages >= _CHECKPOINT_PAGES:
            # behind the answer, not before it: the batch is durable in the WAL already
            self._thread.run(self._checkpoint)
        return committed

    async def forget_requests(self, before_ms: int, limit: int) -> int:
        return await self._thread.run(self._delete_old, FORGET_REQUESTS, before_ms, limit)

    async def forget_answers(self, before_ms: int, limit: int) -> int:
        return await self._thread.run(self._delete_old, FORGET_ANSWERS, before_ms, limit)

    # -- reading: points on the event loop, whatever may take longer in a thread of its own -------

    async def load(self, actor_type: str, key: str) -> StoredActor | None:
        return self._reader.load(actor_type, key)

    async def find_request(
        self, actor_type: str, key: str, request_id: str
    ) -> RequestRecord | None:
        if not self._answered.may_have((actor_type, key), request_id):
            return None
        return self._reader.find_request(actor_type, key, request_id)

    async def find_answers(self, gateway: str, number: int) -> list[bytes]:
        return self._reader.answers(gateway, number)

    async def actor_types(self) -> dict[str, int]:
        counts = {name: self._reader.count(name) for name in self._reader.actor_tables()}
        return {name: count for name, count in counts.items() if count}

    async def schemas(self) -> list[StoredSchema]:
        return self._reader.schemas()

    async def scan(self, actor_type: str, after: str, limit: int) -> list[StoredActor]:
        return self._reader.scan(actor_type, after, limit)

    async def query(self, query: Query) -> list[StoredActor]:
        return await self._long_reads.run(self._long_reader.find, query)

    async def expired(
        self, actor_type: str, before_ms: int, limit: int, shards: Shards = None
    ) -> list[str]:
        expired = self._long_reader.expired
        return await self._long_reads.run(expired, actor_type, before_ms, limit, shards)

    async def entry(self, actor_type: str, key: str, field: str, entry: str) -> bytes | None:
        return self._reader.entry(actor_type, key, field, entry)

    async def entries(
        self,
        actor_type: str,
        key: str,
        field: str,
        *,
        start: str = "",
        end: str | None = None,
        limit: int = 100,
        descending: bool = False,
    ) -> list[tuple[str, bytes]]:
        at = (actor_type, key, field)
        return self._reader.entries(at, start, end, limit, descending=descending)

    async def count_entries(self, actor_type: str, key: str, field: str) -> int:
        return await self._long_reads.run(self._long_reader.count_entries, actor_type, key, field)

    async def streams(self, limit: int, shards: Shards = None) -> list[tuple[Stream, int]]:
        return await self._long_reads.run(self._long_reader.streams, limit, shards)

    async def messages(self, stream: Stream, after_id: int, limit: int) -> list[Message]:
        return self._reader.messages(stream, after_id, limit)

    async def dead_letters(self, after_id: int, limit: int) -> list[Message]:
        return self._reader.dead_letters(after_id, limit)

    async def timers(self, after: TimerPlace, limit: int, shards: Shards = None) -> list[Timer]:
        return await self._long_reads.run(self._long_reader.timers, after, limit, shards)

    # -- writing, in the writer thread -----------------------------------------------------------

    def _write(self, batch: Batch, made: Sequence[Statement], first_id: int) -> Committed:
        refused: list[Refusal] = []
        gone: set[ActorName] = set()
        try:
            try:
                self._write_at_once(made)
            except _NotUniqueError:
                self._abandon()
                refused = self._write_one_by_one(batch, first_id)
                gone = {(refusal.actor_type, refusal.key) for refusal in refused}
        except (apsw.IOError, OSError) as error:
            raise self._break(error) from error
        except apsw.Error as error:
            self._abandon()
            raise store_error(error, self._path) from error
        except BaseException:
            self._abandon()  # an open transaction would refuse every later one
            raise
        if not batch.sent and not refused:
            return _PLAIN
        following = count(first_id)
        ids = [
            0 if (one.stream.sender_type, one.stream.sender_key) in gone else next(following)
            for one in batch.sent
        ]
        return Committed(ids, refused)

    def _write_at_once(self, made: Sequence[Statement]) -> None:
        """The usual way: many rows with each statement. Raises _NotUniqueError."""
        self._begin()
        self._execute(made)
        self._end()

    def _write_one_by_one(self, batch: Batch, first_id: int) -> list[Refusal]:
        """Find out whose values are not unique, and write all the others."""
        refused: list[Refusal] = []
        self._begin()
        self._refuse_conflicts(batch)
        for group in _groups(batch.writes):
            self._writer.execute("SAVEPOINT one")
            try:
                for write in group:
                    culprit = write
                    self._execute(writes([write], self._versions, batch.at_ms))
            except _NotUniqueError as error:
                self._writer.execute("ROLLBACK TO one")
                field = self._fields[error.index]
                refused += (
                    Refusal(one.actor_type, one.key, field if one is culprit else "")
                    for one in group
                )
            self._writer.execute("RELEASE one")
        gone = {(refusal.actor_type, refusal.key) for refusal in refused}
        self._execute(statements(without(batch, gone), self._versions, first_id))
        self._end()
        return refused

    def _refuse_conflicts(self, batch: Batch) -> None:
        """A conflict fails the whole batch, also one in what would be left out."""
        for write in batch.writes:
            rows = self._writer.execute(
                f'SELECT version FROM "{write.actor_type}" WHERE key = ?', (write.key,)
            ).fetchall()
            if [(write.version - 1,)] != (rows or [(0,)]):
                raise ConflictError("the store holds another version than the one in memory")
        for record in batch.requests:
            name = (record.actor_type, record.key, record.request_id)
            if self._writer.execute(_ANSWERED, name).fetchall():
                raise ConflictError("an actor or a record was created by somebody else")

    def _begin(self) -> None:
        self._writer.execute("BEGIN IMMEDIATE")
        points.reach("after_begin")

    def _end(self) -> None:
        points.reach("before_fsync")
        self._writer.execute("COMMIT")
        points.reach("after_fsync")

    def _execute(self, made: Iterable[Statement]) -> None:
        writer = self._writer
        for sql, values, row_count in made:
            try:
                writer.execute(sql, values)
            except apsw.ConstraintError as error:
                if index := _INDEX.search(str(error)):
                    raise _NotUniqueError(index[1]) from error
                raise ConflictError(
                    f"an actor or a record was created by somebody else: {error}"
                ) from error
            if row_count is not None and writer.changes() != row_count:
                raise ConflictError("the store holds another version than the one in memory")

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

    def _delete_old(self, sql: str, before_ms: int, limit: int) -> int:
        if self._broken:
            raise StoreBrokenError(self._broken)
        try:
            self._writer.execute(sql, (limit, before_ms))
        except apsw.IOError as error:  # its frames in the WAL would tear those of later commits
            raise self._break(error) from error
        except apsw.Error as error:
            raise store_error(error, self._path) from error
        return self._writer.changes()


def _groups(items: Sequence[ActorWrite]) -> Iterable[list[ActorWrite]]:
    """The writes in their order, those of one group together where its first one stands."""
    groups: dict[int, list[ActorWrite]] = {}
    for alone, write in enumerate(items, start=1):
        groups.setdefault(write.group or -alone, []).append(write)
    return groups.values()
