"""The SQLite store: one file, one owner, every commit synced to disk before it returns.

Commits run in one writer thread, so that the event loop never waits for a disk. Reads run on the
event loop itself, over a second connection: a cached row costs about ten microseconds, less than a
hop to a thread and back. WAL lets both go on at the same time.

A batch is written with a few many-row statements instead of one statement a row: SQLite gives up
the GIL for each, and the writer would have to win it back from a busy event loop every time.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import groupby
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
    StoredActor,
    StoredSchema,
    Stream,
    Timer,
    TimerPlace,
)
from perdure.store.sqlite_batch import ActorName, Statement, statements, without, writes
from perdure.store.sqlite_file import FILE_NAME, DirectoryLock, open_database, store_error
from perdure.store.sqlite_reader import SqliteReader
from perdure.store.sqlite_tables import index_name
from perdure.store.writer_thread import WriterThread

_CHECKPOINT_PAGES = 16_000  # 16 MiB of WAL


class _NotUniqueError(Exception):
    """A unique index refused a row; `index` is its name."""

    def __init__(self, index: str) -> None:
        self.index = index


class SqliteStore:
    """A `Store` in `directory`, which is made if it does not exist."""

    reads_never_wait = True

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

    async def commit(self, batch: Batch) -> Committed:
        if self._broken:
            raise StoreBrokenError(self._broken)
        committed = await self._thread.run(self._write, batch)
        if self._wal_pages >= _CHECKPOINT_PAGES:
            # behind the answer, not before it: the batch is durable in the WAL already
            self._thread.run(self._checkpoint)
        return committed

    async def forget_requests(self, before_ms: int, limit: int) -> int:
        return await self._thread.run(self._delete_requests, before_ms, limit)

    # -- reading: points on the event loop, whatever may take longer in a thread of its own -------

    async def load(self, actor_type: str, key: str) -> StoredActor | None:
        return self._reader.load(actor_type, key)

    async def find_request(
        self, actor_type: str, key: str, request_id: str
    ) -> RequestRecord | None:
        return self._reader.find_request(actor_type, key, request_id)

    async def actor_types(self) -> dict[str, int]:
        counts = {name: self._reader.count(name) for name in self._reader.actor_tables()}
        return {name: count for name, count in counts.items() if count}

    async def schemas(self) -> list[StoredSchema]:
        return self._reader.schemas()

    async def scan(self, actor_type: str, after: str, limit: int) -> list[StoredActor]:
        return self._reader.scan(actor_type, after, limit)

    async def query(self, query: Query) -> list[StoredActor]:
        return await self._long_reads.run(self._long_reader.find, query)

    async def expired(self, actor_type: str, before_ms: int, limit: int) -> list[str]:
        return await self._long_reads.run(self._long_reader.expired, actor_type, before_ms, limit)

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

    async def streams(self, limit: int) -> list[tuple[Stream, int]]:
        return await self._long_reads.run(self._long_reader.streams, limit)

    async def messages(self, stream: Stream, after_id: int, limit: int) -> list[Message]:
        return self._reader.messages(stream, after_id, limit)

    async def dead_letters(self, after_id: int, limit: int) -> list[Message]:
        return self._reader.dead_letters(after_id, limit)

    async def timers(self, after: TimerPlace, before_ms: int, limit: int) -> list[Timer]:
        return await self._long_reads.run(self._long_reader.timers, after, before_ms, limit)

    # -- writing, in the writer thread -----------------------------------------------------------

    def _write(self, batch: Batch) -> Committed:
        first_id = self._next_message_id
        try:
            try:
                refused = self._write_at_once(batch, first_id)
            except _NotUniqueError:
                self._abandon()
                batch, refused = self._write_one_by_one(batch, first_id)
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
        self._next_message_id += len(batch.sent)
        return Committed(_ids(batch.sent, sent, first_id), refused)

    def _write_at_once(self, batch: Batch, first_id: int) -> None:
        self._begin()
        self._execute(statements(batch, self._versions, first_id))
        self._end()

