"""Sends dead letters of a SQLite store again, or drops them, also while a server owns the store.

This is the only thing that writes without the owner's lock. Waiting for a standstill would be the
alternative, and a server should not be stopped because a mail server was down. Why it is safe:

- It touches rows of dead letters only (`due_at_ms IS NULL`), and looks at that again in the very
  statement that writes. The owner holds no dead letter in memory and writes none, but for making
  one; what it knows of actors, versions and message ids stays true.
- SQLite has one writer at a time. A transaction here is up to `ROWS_MAX` small rows; the owner's
  next commit waits for it, well within its busy timeout, and ours waits for the owner likewise.
- It is synced before it returns, as the owner's commits are: a WAL that is torn in the middle means
  damage (`sqlite_wal`), and so must never come from here. Should the sync fail, Linux reports that
  to the owner's next sync too, which then stops as after a failure of its own.
- The running outbox finds what is due again with its next look, as it finds messages from before
  its start. A stream is read from its lowest id, so a letter keeps its place before newer messages.

Everything that the owner refuses at its start is refused here as well, and tables are never made.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apsw

from perdure.base.errors import StoreFormatError, StoreLockedError
from perdure.store.sqlite_file import BUSY_TIMEOUT_MS, FILE_NAME, check_content, store_error
from perdure.store.sqlite_reader import SqliteReader
from perdure.store.sqlite_tables import FORMAT

ROWS_MAX = 500  # of one transaction; the owner's commits wait for it

_RESEND = "UPDATE perdure_message SET due_at_ms = ?, attempts = 0"  # the error stays, to be read
_DROP = "DELETE FROM perdure_message"
_DEAD = "WHERE due_at_ms IS NULL AND id IN (SELECT value FROM json_each(?)) RETURNING id"
_DEAD_BEHIND = (
    "WHERE id IN (SELECT id FROM perdure_message WHERE due_at_ms IS NULL AND id > ?"
    " ORDER BY id LIMIT ?) RETURNING id"
)


class SqliteLetters:
    """The dead letters in `directory`, open for sending them again and dropping them.

    Raises StoreError if there is no store, StoreCorruptError and StoreFormatError. Every method may
    raise StoreLockedError when others keep writing, and StoreFullError.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE_NAME
        SqliteReader.of_store(directory).close()  # for its checks
        try:
            self._connection = apsw.Connection(str(self._path), flags=apsw.SQLITE_OPEN_READWRITE)
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise
        except apsw.Error as error:
            raise store_error(error, self._path) from error

    def close(self) -> None:
        """All is durable already. If no server runs, SQLite empties the WAL, as its start would."""
        self._connection.close()

    def resend(self, ids: Sequence[int], at_ms: int) -> list[int]:
        """Make dead letters due at `at_ms`, as if never tried; returns those ids that were dead."""
        return self._write_each(_RESEND, (at_ms,), ids)

    def resend_behind(self, after_id: int, at_ms: int) -> list[int]:
        """Do so for the next letters with ids greater than `after_id`; returns their ids.

        At most `ROWS_MAX`; none are left when there are none.
        """
        return self._write(f"{_RESEND} {_DEAD_BEHIND}", (at_ms, after_id, ROWS_MAX))

    def drop(self, ids: Sequence[int]) -> list[int]:
        """Delete dead letters; returns those ids that were dead letters."""
        return self._write_each(_DROP, (), ids)

    def _write_each(self, sql: str, values: tuple[int, ...], ids: Sequence[int]) -> list[int]:
        written = []
        for start in range(0, len(ids), ROWS_MAX):
            some = "[" + ",".join(map(str, ids[start : start + ROWS_MAX])) + "]"
            written += self._write(f"{sql} {_DEAD}", (*values, some))
        return written

    def _write(self, sql: str, values: tuple[int | str, ...]) -> list[int]:
        try:
            rows: list[Any] = self._connection.execute(sql, values).fetchall()
        except apsw.BusyError as error:
            raise StoreLockedError(
                f"{self._path} was being written all the time, for {BUSY_TIMEOUT_MS / 1000:g} s; "
                "try again"
            ) from error
        except apsw.Error as error:
            raise store_error(error, self._path) from error
        return sorted(number for (number,) in rows)

    def _prepare(self) -> None:
        self._connection.set_busy_timeout(BUSY_TIMEOUT_MS)
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute("PRAGMA wal_autocheckpoint = 0")  # the owner's business
        if (stored := self._connection.pragma("user_version")) != FORMAT:
            raise StoreFormatError(
                f"{self._path} has format {stored} and is written in format {FORMAT} only; "
                "a start of its server with this Perdure brings it up to date"
            )
        check_content(self._connection, self._path)
