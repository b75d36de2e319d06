"""One data directory: its lock, its database file, and what must hold before it is trusted.

Why recovery always checkpoints: after a failed fsync the kernel may show bytes that are not on the
disk. A WAL frame of that kind would look committed to the next process, and the first power cut
would tear it and all that was appended behind it. `wal_checkpoint(TRUNCATE)` at every start writes
and syncs everything anew, so that what is served is what is stored.
"""

import fcntl
import os
import platform
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import apsw

from perdure.base.errors import (
    StoreBrokenError,
    StoreCorruptError,
    StoreError,
    StoreFormatError,
    StoreFullError,
    StoreLockedError,
)
from perdure.store.api import ActorSchema
from perdure.store.sqlite_tables import FORMAT, create_tables
from perdure.store.sqlite_wal import refuse_damaged_wal

FILE_NAME = "perdure.db"
# A commit writes whole pages. Small ones write less for the same rows: at 1 KiB instead of SQLite's
# 4 KiB, commits of 32 rows out of 100,000 were 1.5 times as fast, and the CPU time fell alike.
PAGE_BYTES = 1024
APPLICATION_ID = 0x50455244  # "PERD"
CHECK_BYTES_MAX = 32 << 20  # larger files would delay the start; row checksums guard them
_HEADER_BYTES = 100
BUSY_TIMEOUT_MS = 5_000  # for somebody who looks in with the sqlite3 shell


class DirectoryLock:
    """Exclusive ownership of a data directory, for as long as the process lives.

    An flock, because the kernel drops it however the process ends; a pid file would lie after a
    SIGKILL. The file's text only serves to name the holder.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / "perdure.lock"
        self._descriptor = -1

    def take(self) -> None:
        """Raises StoreLockedError, which names the holder."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 200).decode(errors="replace").strip()
            os.close(descriptor)
            raise StoreLockedError(
                f"{self._path.parent} is in use by {holder or 'a process that is just starting'}; "
                "stop it, or choose another --data directory"
            ) from None
        self._descriptor = descriptor

    def was_owned_before(self) -> bool:
        """True when some process once had this directory open, so a missing database is a loss."""
        return os.fstat(self._descriptor).st_size > 0

    def sign(self) -> None:
        """Write who holds the lock."""
        os.ftruncate(self._descriptor, 0)
        text = f"process {os.getpid()} on {platform.node()}\n"
        os.pwrite(self._descriptor, text.encode(), 0)

    def release(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def open_database(
    directory: Path, lock: DirectoryLock, schemas: Iterable[ActorSchema]
) -> apsw.Connection:
    """Open, check, recover and, where needed, create the database; returns the writing connection.

    Raises StoreBrokenError, StoreCorruptError, StoreFormatError, StoreFullError or UniqueError.
    """
    path = directory / FILE_NAME
    size = path.stat().st_size if path.exists() else 0
    is_new = size == 0
    refuse_short_file(path)
    if is_new and lock.was_owned_before():
        raise StoreCorruptError(
            f"{path} is missing or empty, but this directory held a store before; "
            f"restore a backup, or remove {directory} to start from nothing"
        )
    try:
        connection = apsw.Connection(str(path))
        connection.set_busy_timeout(BUSY_TIMEOUT_MS)
        check_format(connection, path, is_new=is_new)
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")  # only a new file takes it
        _switch_to_wal(connection, path)
        # FULL: each commit is synced before it returns. NORMAL would lose it in a power cut.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA cache_size = -16384")
        _recover(connection, path)
        _check_size(connection, path)
        _create_tables(connection, schemas)
        check_content(connection, path)
        _sync_directory(directory)
    except (apsw.IOError, OSError) as error:
        raise StoreBrokenError(f"the disk failed under {path}: {error}") from error
    except apsw.Error as error:
        raise store_error(error, path) from error
    return connection


def store_error(error: apsw.Error, path: Path) -> StoreError:
    """The named error for what SQLite reported, in one line with a hint."""
    if isinstance(error, apsw.NotADBError | apsw.CorruptError):
        return StoreCorruptError(
            f"{path} is damaged or no Perdure store ({error}); restore a backup, "
            "or rescue what is readable with the sqlite3 shell's .recover"
        )
    if isinstance(error, apsw.FullError):
        return StoreFullError(f"no space left for {path}; free some, writes then resume")
    return StoreError(f"{path}: {error}")


def refuse_short_file(path: Path) -> None:
    """Raise StoreCorruptError for a stump, which SQLite would take for a new database."""
    size = path.stat().st_size if path.exists() else 0
    if 0 < size < _HEADER_BYTES:
        raise StoreCorruptError(f"{path} is cut short: {size} bytes; restore a backup")


def check_format(connection: apsw.Connection, path: Path, *, is_new: bool) -> None:
    """Raise StoreCorruptError or StoreFormatError unless this is a store that can be read."""
    application_id = connection.pragma("application_id")
    stored_format = connection.pragma("user_version")
    if is_new or (application_id == 0 and not connection.pragma("schema_version")):
        return
    if application_id != APPLICATION_ID:
        raise StoreCorruptError(f"{path} is an SQLite file, but not a Perdure store")
    if not isinstance(stored_format, int) or stored_format > FORMAT:
        raise StoreFormatError(
            f"{path} has format {stored_format}, this Perdure reads up to {FORMAT}; upgrade Perdure"
        )


def _switch_to_wal(connection: apsw.Connection, path: Path) -> None:
    """SQLite keeps the old mode, and says so instead of raising, when it cannot switch."""
    [(mode,)] = connection.execute("PRAGMA journal_mode = WAL").fetchall()
    if mode != "wal":
        raise StoreBrokenError(
            f"{path} cannot have a write-ahead log: the disk failed, or its file system has no "
            "shared memory (a network disk?); use a local disk"
        )


def _recover(connection: apsw.Connection, path: Path) -> None:
    # NOOP only counts the frames; before SQLite 3.51 it is PASSIVE, which does no harm either
    [(_, valid_frames, _)] = connection.execute("PRAGMA wal_checkpoint(NOOP)").fetchall()
    assert isinstance(valid_frames, int)
    refuse_damaged_wal(path.with_name(path.name + "-wal"), valid_frames)
    [(busy, _, _)] = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    if busy:
        raise StoreLockedError(f"another program is reading {path}; close it and start again")


def _check_size(connection: apsw.Connection, path: Path) -> None:
    """After a full checkpoint the file must be as long as its header says; else it was cut.

    SQLite is asked for the length. Reading the header here would be shorter and fatal: closing any
    descriptor of the file drops this process's POSIX locks on it, and the next sqlite3 shell that
    looks in would then take itself for the only user and delete the WAL under our feet.
    """
    expected = _number(connection, "page_count") * _number(connection, "page_size")
    if (size := path.stat().st_size) < expected:
        raise StoreCorruptError(f"{path} is cut short: {size} of {expected} bytes")


def _number(connection: apsw.Connection, pragma: str) -> int:
    value = connection.pragma(pragma)
    assert isinstance(value, int)
    return value


def _create_tables(connection: apsw.Connection, schemas: Iterable[ActorSchema]) -> None:
    with connection:  # one transaction: a crash leaves all of it or none
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        create_tables(connection, schemas)


def check_content(connection: apsw.Connection, path: Path) -> None:
    """Raise StoreCorruptError if a file that is not too large for that is damaged inside.

    Not quick_check: a damaged index would hide a row, and its actor would start from nothing.
    """
    if path.stat().st_size > CHECK_BYTES_MAX:
        return
    [(report,)] = connection.execute("PRAGMA integrity_check(1)").fetchall()
    if report != "ok":
        raise StoreCorruptError(f"{path} is damaged: {report}; restore a backup")


def _sync_directory(directory: Path) -> None:
    """Make the names of new files durable too: fsync of a file does not cover its name."""
    for folder in (directory, directory.parent):
        with suppress(PermissionError):  # the parent may belong to somebody else
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
