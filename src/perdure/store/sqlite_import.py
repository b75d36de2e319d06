"""Puts whole actors into a SQLite store, with the versions and times they had elsewhere.

The only way to write that bypasses turns. It owns the directory meanwhile, so no server can run.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw

from perdure.base.errors import ConflictError, StoreError
from perdure.store.api import StoredActor
from perdure.store.sqlite_file import (
    FILE_NAME,
    DirectoryLock,
    open_database,
    store_error,
)
from perdure.store.sqlite_reader import ROW, entry_checksum, row_checksum
from perdure.store.sqlite_tables import actor_table_sql


class SqliteImport:
    """A store in `directory`, open for taking in actors; made if it does not exist."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE_NAME
        self._lock = DirectoryLock(directory)
        self._tables: set[str] = set()
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._lock.take()
        except OSError as error:
            raise StoreError(f"{directory} cannot be used: {error.strerror}") from error
        try:
            self._connection = open_database(directory, self._lock, ())
        except BaseException:
            self._lock.release()
            raise
        self._lock.sign()

    def close(self) -> None:
        """Give up ownership."""
        self._connection.close()
        self._lock.release()

    @contextmanager
    def batch(self) -> Iterator[None]:
        """All that is put within the block becomes durable together, or none of it."""
        self._execute("BEGIN IMMEDIATE")
        try:
            yield
            self._execute("COMMIT")
        except BaseException:
            self._tables.clear()  # a table made in this batch is gone with it
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def put(self, actor_type: str, actor: StoredActor, *, replace: bool) -> None:
        """Write one actor as it is, with its timers; `put_entry` adds the entries it has.

        What is replaced goes as a whole, with its timers and entries. Raises ConflictError if the
        actor is there and may not be replaced, or if another one has the value of a unique field.
        """
        if actor_type not in self._tables:
            self._execute(actor_table_sql(actor_type))
            self._tables.add(actor_type)
        if replace:
            self._remove(actor_type, actor.key)
        elif self._is_stored(actor_type, actor.key):
            raise ConflictError(f"{actor_type}/{actor.key} is in the store already")
        values = (
            actor.key,
            actor.state.decode(),
            actor.version,
            row_checksum(actor.key, actor.version, actor.state),
            actor.created_at_ms,
            actor.updated_at_ms,
            actor.schema,
        )
        try:
            self._execute(f'INSERT INTO "{actor_type}" ({ROW}) VALUES (?,?,?,?,?,?,?)', values)
        except apsw.ConstraintError:
            raise ConflictError(
                f"{actor_type}/{actor.key} has a value in a unique field that another one has"
            ) from None
        for timer in actor.timers:
            self._execute(
                "INSERT INTO perdure_timer VALUES (?,?,?,?,?,?,?,?)",
                (
                    actor_type,
                    actor.key,
                    timer.name,
                    timer.due_at_ms,
                    timer.method,
                    timer.arguments.decode(),
                    timer.every_ms,
                    timer.attempts,
                ),
            )

    def put_entry(self, actor_type: str, key: str, field: str, entry: str, value: bytes) -> None:
        """Write one entry of an actor that was put; raises ConflictError if it is there."""
        checksum = entry_checksum(actor_type, key, field, entry, value)
        try:
            self._execute(
                "INSERT INTO perdure_entry VALUES (?,?,?,?,?,?)",
                (actor_type, key, field, entry, value.decode(), checksum),
            )
        except apsw.ConstraintError:
            raise ConflictError(
                f"the entry {entry!r} of {actor_type}/{key}.{field} comes twice"
            ) from None

    def _remove(self, actor_type: str, key: str) -> None:
        """Not INSERT OR REPLACE: that would also remove others, with whom it shares a value."""
        self._execute(f'DELETE FROM "{actor_type}" WHERE key = ?', (key,))
        # An answer that is remembered belongs to the state that goes: who sends that call again
        # would be told of an effect which is not there.
        for table in ("perdure_request", "perdure_timer", "perdure_entry"):
            self._execute(
                f"DELETE FROM {table} WHERE actor_type = ? AND key = ?", (actor_type, key)
            )

    def _is_stored(self, actor_type: str, key: str) -> bool:
        sql = f'SELECT 1 FROM "{actor_type}" WHERE key = ?'
        return bool(self._connection.execute(sql, (key,)).fetchall())

    def _execute(self, sql: str, values: tuple[object, ...] = ()) -> None:
        try:
            self._connection.execute(sql, values)
        except apsw.ConstraintError:
            raise
        except apsw.Error as error:
            raise store_error(error, self._path) from error
