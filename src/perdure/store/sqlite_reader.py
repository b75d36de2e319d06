"""Reads a SQLite store, without owning it: for the store itself, and for tools that look in.

WAL lets any number of readers see committed data while the owner writes. Every row is held against
its checksum before anybody sees it.
"""

import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
import msgspec

from perdure.base.errors import StoreCorruptError, StoreError
from perdure.base.shards import shard_of
from perdure.store.api import (
    OUTLET,
    Message,
    Query,
    RequestRecord,
    Shards,
    StoredActor,
    StoredSchema,
    Stream,
    Timer,
    TimerPlace,
)
from perdure.store.look import NoStoreError
from perdure.store.sqlite_file import (
    BUSY_TIMEOUT_MS,
    FILE_NAME,
    check_format,
    refuse_short_file,
    store_error,
)
from perdure.store.sqlite_query import query_sql
from perdure.store.sqlite_wal import refuse_damaged_wal

ROW = "key, state, version, checksum, created_at_ms, updated_at_ms, schema"
_STREAM = "sender_type, sender_key, receiver_type, receiver_key"
_MESSAGE = f"{_STREAM}, method, arguments, uid, caller, due_at_ms, attempts, error, id, sent_at_ms"
_SHARD = "perdure_shard"  # an SQL function of a key
_STREAM_KEY = f"iif(receiver_type GLOB '{OUTLET}*', sender_key, receiver_key)"  # see Stream.shard
_TIMER = "actor_type, key, name, due_at_ms, method, arguments, every_ms, attempts"

# What SQL may do here. `query_only` and a read-only file would still let VACUUM INTO and ATTACH
# make files elsewhere.
_ALLOWED = {
    apsw.SQLITE_SELECT,
    apsw.SQLITE_READ,
    apsw.SQLITE_FUNCTION,
    apsw.SQLITE_RECURSIVE,
}
_ALLOWED_PRAGMAS = {"table_list", "table_info", "table_xinfo", "index_list", "index_info"}
_INTERRUPT_EVERY_STEPS = 100_000


class SqliteReader:
    """An open database that cannot be written through this object.

    Every method may raise StoreError; those that give rows StoreCorruptError for a damaged one.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE_NAME
        try:
            self._connection = apsw.Connection(str(self._path), flags=apsw.SQLITE_OPEN_READONLY)
            self._connection.execute("PRAGMA cache_size = -16384")
            self._connection.create_scalar_function(_SHARD, _shard, 1, deterministic=True)
        except apsw.Error as error:
            raise store_error(error, self._path) from error

    @classmethod
    def of_store(cls, directory: Path) -> "SqliteReader":
        """Look into a store that another process may own.

        Raises NoStoreError, StoreCorruptError and StoreFormatError.
        """
        path = directory / FILE_NAME
        if not path.is_file():
            raise NoStoreError(f"there is no store in {directory}")
        refuse_short_file(path)
        reader = cls(directory)
        reader._check()
        return reader

    def close(self) -> None:
        self._connection.close()

    def load(self, actor_type: str, key: str) -> StoredActor | None:
        """The last committed state, or None."""
        rows = self._all(f'SELECT {ROW} FROM "{actor_type}" WHERE key = ?', (key,))
        if not rows:
            return None
        return self._stored_actor(actor_type, rows[0], self.timers_of(actor_type, key))

    def find_request(self, actor_type: str, key: str, request_id: str) -> RequestRecord | None:
        """The remembered answer to an idempotency key, or None."""
        rows = self._all(
            "SELECT fingerprint, reply, checksum FROM perdure_request"
            " WHERE actor_type = ? AND key = ? AND request_id = ?",
            (actor_type, key, request_id),
        )
        if not rows:
            return None
        [(fingerprint, reply, checksum)] = rows
        record = RequestRecord(actor_type, key, request_id, fingerprint, reply)
        if checksum != record_checksum(record):
            raise StoreCorruptError(
                f"{self._path}: a remembered answer of {actor_type}/{key} does not fit its checksum"
            )
        return record

    def request_ids(self, name: tuple[str, str], limit: int) -> list[str]:
        """Up to `limit` idempotency keys that an actor, by its type and key, has answered."""
        rows = self._all(
            "SELECT request_id FROM perdure_request WHERE actor_type = ? AND key = ? LIMIT ?",
            (*name, limit),
        )
        return [request_id for (request_id,) in rows]

    def answers(self, gateway: str, number: int) -> list[bytes]:
        """The bodies of all answers of a gateway whose span holds that number."""
        rows = self._all(
            "SELECT body FROM perdure_answers WHERE gateway = ? AND first <= ? AND last >= ?",
            (gateway, number, number),
        )
        return [body for (body,) in rows]

    def actor_tables(self) -> list[str]:
        """The names of all actor types that ever had a table here, sorted."""
        rows = self._all(
            "SELECT name FROM sqlite_schema WHERE type = 'table'"
            " AND name NOT GLOB 'perdure_*' AND name NOT GLOB 'sqlite_*' ORDER BY name"
        )
        return [name for (name,) in rows]

    def count(self, actor_type: str) -> int:
        """How many actors of this type are stored."""
        [(count,)] = self._all(f'SELECT count(*) FROM "{actor_type}"')
        assert isinstance(count, int)
        return count

    def scan(self, actor_type: str, after: str, limit: int) -> list[StoredActor]:
        """Up to `limit` actors with keys greater than `after`, in key order."""
        rows = self._all(
            f'SELECT {ROW} FROM "{actor_type}" WHERE key > ? ORDER BY key LIMIT ?', (after, limit)
        )
        return [self._stored_actor(actor_type, row) for row in rows]

    def whole_actors(self, actor_type: str, after: str, limit: int) -> list[StoredActor]:
        """The same with their timers, those of each by name."""
        return [
            msgspec.structs.replace(actor, timers=self.timers_of(actor_type, actor.key))
            for actor in self.scan(actor_type, after, limit)
        ]

    def schemas(self) -> list[StoredSchema]:
        """What is known of the stored classes."""
        rows = self._all("SELECT actor_type, version, fields FROM perdure_schema")
        return [
            StoredSchema(name, version, msgspec.json.decode(fields))
            for name, version, fields in rows
        ]

    def find(self, query: Query) -> list[StoredActor]:
        """The actors that fit, in the order asked for."""
        sql, values = query_sql(query, ROW)
        return [self._stored_actor(query.actor_type, row) for row in self._all(sql, values)]

    def expired(self, actor_type: str, before_ms: int, limit: int, shards: Shards) -> list[str]:
        """Keys of actors that were last written before that time, oldest first."""
        rows = self._all(
            f'SELECT key FROM "{actor_type}" WHERE updated_at_ms < ? AND {_in(shards, "key")}'
            " ORDER BY updated_at_ms LIMIT ?",
            (before_ms, limit),
        )
        return [key for (key,) in rows]

    # -- collections

    def entry(self, actor_type: str, key: str, field: str, entry: str) -> bytes | None:
        """The value of one entry, or None."""
        rows = self._all(
            "SELECT entry, value, checksum FROM perdure_entry"
            " WHERE actor_type = ? AND key = ? AND field = ? AND entry = ?",
            (actor_type, key, field, entry),
        )
        return self._entry_value(actor_type, key, field, rows[0]) if rows else None

    def entries(
        self,
        at: tuple[str, str, str],
        start: str,
        end: str | None,
        limit: int,
        *,
        descending: bool,
    ) -> list[tuple[str, bytes]]:
        """Entries of the collection `at` (actor type, key, field) from `start` on, before `end`."""
        rows = self._all(
            "SELECT entry, value, checksum FROM perdure_entry"
            " WHERE actor_type = ? AND key = ? AND field = ? AND entry >= ?"
            + ("" if end is None else " AND entry < ?")
            + f" ORDER BY entry {'DESC' if descending else 'ASC'} LIMIT ?",
            (*at, start, limit) if end is None else (*at, start, end, limit),
        )
        return [(row[0], self._entry_value(*at, row)) for row in rows]

    def entries_between(
        self, actor_type: str, after: tuple[str, str, str], last_key: str, limit: int
    ) -> list[tuple[str, str, str, bytes]]:
        """Up to `limit` entries (key, field, entry, value) behind `after` (key, field, entry), of
        actors with keys up to `last_key`, in order."""
        rows = self._all(
            "SELECT key, field, entry, value, checksum FROM perdure_entry"
            " WHERE actor_type = ? AND (key, field, entry) > (?, ?, ?) AND key <= ?"
            " ORDER BY key, field, entry LIMIT ?",
            (actor_type, *after, last_key, limit),
        )
        return [
            (key, field, row[0], self._entry_value(actor_type, key, field, row))
            for key, field, *row in rows
        ]

    def count_entries(self, actor_type: str, key: str, field: str) -> int:
        """How many entries a collection has."""
        [(count,)] = self._all(
            "SELECT count(*) FROM perdure_entry WHERE actor_type = ? AND key = ? AND field = ?",
            (actor_type, key, field),
        )
        assert isinstance(count, int)
        return count

    def _entry_value(self, actor_type: str, key: str, field: str, row: Any) -> bytes:
        entry, value, checksum = row
        encoded: bytes = value.encode()
        if checksum != entry_checksum(actor_type, key, field, entry, encoded):
            raise StoreCorruptError(
                f"{self._path}: the entry {entry!r} of {actor_type}/{key}.{field} does not fit its "
                "checksum"
            )
        return encoded

    # -- messages and timers

    def streams(self, limit: int, shards: Shards) -> list[tuple[Stream, int]]:
        """Streams with messages under way, and when the first message of each is due."""
        rows = self._all(
            # min() makes SQLite take the bare columns from the row that has it
            f"SELECT {_STREAM}, due_at_ms, min(id) FROM perdure_message"
            f" WHERE due_at_ms IS NOT NULL AND {_in(shards, _STREAM_KEY)}"
            f" GROUP BY {_STREAM} ORDER BY due_at_ms LIMIT ?",
            (limit,),
        )
        return [(Stream(*row[:4]), row[4]) for row in rows]

    def last_message_id(self) -> int:
        """The highest id that was ever given, or 0."""
        [(last,)] = self._all(
            "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'perdure_message'"
        )
        assert isinstance(last, int)
        return last

    def messages(self, stream: Stream, after_id: int, limit: int) -> list[Message]:
        """Messages of one stream that are under way, in order."""
        rows = self._all(
            f"SELECT {_MESSAGE} FROM perdure_message WHERE due_at_ms IS NOT NULL"
            " AND sender_type = ? AND sender_key = ? AND receiver_type = ? AND receiver_key = ?"
            " AND id > ? ORDER BY id LIMIT ?",
            (*msgspec.structs.astuple(stream), after_id, limit),
        )
        return [_message(row) for row in rows]

    def dead_letters(self, after_id: int, limit: int) -> list[Message]:
        """Messages that were given up, by id."""
        rows = self._all(
            f"SELECT {_MESSAGE} FROM perdure_message WHERE due_at_ms IS NULL AND id > ?"
            " ORDER BY id LIMIT ?",
            (after_id, limit),
        )
        return [_message(row) for row in rows]

    def timers(self, after: TimerPlace, limit: int, shards: Shards) -> list[Timer]:
        """Timers behind a place in the order of all."""
        rows = self._all(
            f"SELECT {_TIMER} FROM perdure_timer"
            f" WHERE (due_at_ms, actor_type, key, name) > (?, ?, ?, ?) AND {_in(shards, 'key')}"
            " ORDER BY due_at_ms, actor_type, key, name LIMIT ?",
            (*after, limit),
        )
        return [_timer(row) for row in rows]

    def timers_of(self, actor_type: str, key: str) -> tuple[Timer, ...]:
        """All timers of one actor, by name."""
        rows = self._all(
            f"SELECT {_TIMER} FROM perdure_timer WHERE actor_type = ? AND key = ? ORDER BY name",
            (actor_type, key),
        )
        return tuple(map(_timer, rows))

    # -- surveys, for tools

    def versions(self, actor_type: str) -> dict[int, tuple[int, str]]:
        """Of each class version that wrote rows: how many, and the key of the newest."""
        # SQLite takes `key` from the row that has the maximum
        rows = self._all(
            "SELECT schema, count(*), max(updated_at_ms), key"
            f' FROM "{actor_type}" GROUP BY schema ORDER BY schema'
        )
        return {schema: (count, key) for schema, count, _, key in rows}

    def spread(self, actor_type: str, count: int) -> list[str]:
        """The keys of all actors if they are few, else the first, the last, and `count` between.

        Evenly and not at random, so that the next call gives the same.
        """
        [(first, last, low, high)] = self._all(
            f'SELECT min(key), max(key), min(rowid), max(rowid) FROM "{actor_type}"'
        )
        if first is None:
            return []
        wanted = ",".join(map(str, range(low, high + 1, (high - low) // count + 1)))
        rows = self._all(f'SELECT key FROM "{actor_type}" WHERE rowid IN ({wanted})')
        return list(dict.fromkeys([first, last, *(key for (key,) in rows)]))

    def duplicates(self, actor_type: str, field: str, limit: int) -> list[tuple[str, int]]:
        """Up to `limit` values of a field, not null, that several actors have, with how many."""
        return self._all(
            f'SELECT json_extract(state, ?) AS value, count(*) FROM "{actor_type}"'
            " WHERE value IS NOT NULL GROUP BY value HAVING count(*) > 1 LIMIT ?",
            (f'$."{field}"', limit),
        )

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Everything read within the block is of one moment. Keep it short: see `query`."""
        self._all("BEGIN")
        try:
            yield
        finally:
            self._all("ROLLBACK")

    def query(self, sql: str) -> tuple[list[str], Iterator[tuple[Any, ...]]]:
        """Run one SELECT; returns the names of its columns, and its rows as they are found.

        Whatever is not a question is refused with StoreError. While rows are left to be fetched,
        the owner cannot shorten its WAL.
        """
        self._connection.execute("PRAGMA query_only = ON")
        self._connection.set_progress_handler(lambda: False, _INTERRUPT_EVERY_STEPS)  # for Ctrl-C
        self._connection.authorizer = _authorize
        names: list[str] = []

        def started(cursor: apsw.Cursor, _sql: str, _values: Any) -> bool:
            # here and not from the result: without rows SQLite forgets the columns at once
            names[:] = [column[0] for column in cursor.get_description()]
            return True

        cursor = self._connection.cursor()
        cursor.exec_trace = started
        try:
            cursor.execute(sql)
        except apsw.Error as error:
            raise self._query_error(error) from error
        return names, self._rows(cursor)

    def _rows(self, cursor: apsw.Cursor) -> Iterator[tuple[Any, ...]]:
        try:
            yield from cursor
        except apsw.Error as error:
            raise self._query_error(error) from error

    def _query_error(self, error: apsw.Error) -> StoreError:
        if isinstance(error, apsw.AuthError | apsw.ReadOnlyError):
            return StoreError("only SELECT is allowed: the store is open for reading")
        if isinstance(error, apsw.SQLError):
            return StoreError(f"SQLite says: {error}")
        return store_error(error, self._path)

    def _check(self) -> None:
        try:
            self._connection.set_busy_timeout(BUSY_TIMEOUT_MS)
            check_format(self._connection, self._path, is_new=False)
            self._refuse_damaged_wal()
        except apsw.Error as error:
            raise store_error(error, self._path) from error

    def _refuse_damaged_wal(self) -> None:
        """As the owner does at its start: else SQLite would hide what is behind the damage."""
        frames = self._valid_frames()
        try:
            refuse_damaged_wal(self._path.with_name(self._path.name + "-wal"), frames)
        except FileNotFoundError:  # its owner stops just now, and leaves nothing in it
            return
        except StoreCorruptError:
            if self._valid_frames() == frames:  # else an owner is at work, and was seen writing
                raise

    def _valid_frames(self) -> int:
        try:
            [(_, frames, _)] = self._connection.execute("PRAGMA wal_checkpoint(NOOP)").fetchall()
        except apsw.ReadOnlyError:  # SQLite before 3.51 takes NOOP for PASSIVE: nothing is checked
            return sys.maxsize
        assert isinstance(frames, int)
        return frames

    def _all(self, sql: str, values: tuple[Any, ...] = ()) -> list[Any]:
        try:
            return self._connection.execute(sql, values).fetchall()
        except UnicodeDecodeError as error:
            raise StoreCorruptError(f"{self._path} is damaged: a text is not UTF-8") from error
        except apsw.Error as error:
            raise store_error(error, self._path) from error

    def _stored_actor(self, actor_type: str, row: Any, timers: Sequence[Timer] = ()) -> StoredActor:
        key, state, version, checksum, created_at_ms, updated_at_ms, schema = row
        encoded = state.encode()
        if checksum != row_checksum(key, version, encoded):
            raise StoreCorruptError(
                f"{self._path}: the row of {actor_type}/{key} does not fit its checksum; it was "
                "damaged, or edited by hand (use perdure state import for that)"
            )
        return StoredActor(key, encoded, version, created_at_ms, updated_at_ms, schema, timers)


def _shard(*keys: Any) -> int:
    return shard_of(keys[0])


def _in(shards: Shards, key: str) -> str:
    """SQL that says whether a key is in one of these shards.

    A file has one owner, who asks for everything; so it is good enough to compute it row by row.
    """
    if shards is None:
        return "TRUE"
    return f"{_SHARD}({key}) IN ({','.join(map(str, shards))})"


def _message(row: Any) -> Message:
    sender_type, sender_key, receiver_type, receiver_key, method, arguments, uid, caller = row[:8]
    return Message(
        Stream(sender_type, sender_key, receiver_type, receiver_key),
        method,
        arguments.encode(),
        uid,
        None if caller is None else caller.encode(),
        *row[8:],
    )


def _timer(row: Any) -> Timer:
    actor_type, key, name, due_at_ms, method, arguments, every_ms, attempts = row
    return Timer(actor_type, key, name, due_at_ms, method, arguments.encode(), every_ms, attempts)


def row_checksum(key: str, version: int, state: bytes) -> int:
    """What the column `checksum` of an actor's row must hold."""
    return zlib.crc32(b"%d %b%b" % (version, key.encode(), state))


def entry_checksum(actor_type: str, key: str, field: str, entry: str, value: bytes) -> int:
    """What the column `checksum` of an entry of a collection must hold."""
    return zlib.crc32(value, zlib.crc32(f"{actor_type} {key} {field} {entry}".encode()))


def record_checksum(record: RequestRecord) -> int:
    """What the column `checksum` of a remembered answer must hold."""
    name = f"{record.actor_type} {record.key} {record.request_id}".encode()
    return zlib.crc32(record.reply, zlib.crc32(record.fingerprint, zlib.crc32(name)))


def _authorize(action: int, first: str | None, *_others: str | None) -> int:
    if action in _ALLOWED or (action == apsw.SQLITE_PRAGMA and first in _ALLOWED_PRAGMAS):
        return apsw.SQLITE_OK
    return apsw.SQLITE_DENY
