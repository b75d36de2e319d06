"""`perdure state export|import`: whole actors as JSON lines, one a line.

    {"type":"cart","key":"alice","version":2,"created_at_ms":…,"updated_at_ms":…,"state":{…}}

Both stream: neither holds more than a few actors, however large the store is.
"""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from perdure.base.codec import decoder, encode
from perdure.base.errors import ConflictError, InvalidKeyError, PerdureError
from perdure.base.keys import normalize_key
from perdure.cli.failures import CANNOT_CREATE, DATA_DAMAGED, NO_INPUT, Failure, failure_of
from perdure.cli.state import KEY_BYTES_MAX, reading, type_named
from perdure.store.api import StoredActor
from perdure.store.sqlite_import import SqliteImport
from perdure.store.sqlite_reader import SqliteReader

_PAGE_ROWS = 16  # of up to 4 MiB each
_BATCH_LINES = 1_000
_LINE_BYTES_MAX = 64 << 20

_Version = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
_SchemaVersion = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
_TimeMs = Annotated[int, msgspec.Meta(ge=0, le=253_402_300_799_999)]  # to the end of year 9999


class ActorLine(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """One line of an export."""

    type: str
    key: str
    version: _Version
    created_at_ms: _TimeMs
    updated_at_ms: _TimeMs
    state: msgspec.Raw  # byte for byte, so that numbers keep their form
    schema: _SchemaVersion = 1  # of the class that wrote it; else its migrations would run again


_line_decoder = decoder(ActorLine)
_state_decoder = decoder(dict[str, Any])


def export_state(data: Path, target: str, given_type: str | None, notes: Console) -> int:
    """Write all actors, or those of one type, to a file or `-`; returns how many.

    They are of one moment, also while a server writes on.
    """
    with reading(data) as reader, reader.snapshot():
        names = [type_named(reader, given_type)] if given_type else reader.actor_tables()
        with _progress(notes) as progress, _output(target) as file:
            task = progress.add_task("export", total=sum(map(reader.count, names)))
            count = 0
            for line in _lines(reader, names):
                file.write(line)
                count += 1
                progress.update(task, completed=count)
    return count


def import_state(data: Path, source: str, *, replace: bool, notes: Console) -> int:
    """Put every actor of an export into the store; returns how many. Raises Failure.

    Each batch of lines is atomic; a bad line ends the import before its batch.
    """
    path = Path(source)
    if source != "-" and not path.is_file():
        raise Failure(f"there is no file {source}", exit_code=NO_INPUT)
    try:
        store = SqliteImport(data)
    except PerdureError as error:
        raise failure_of(error) from error
    try:
        with _progress(notes) as progress, _input(source) as file:
            total = path.stat().st_size if source != "-" else None
            task = progress.add_task("import", total=total)
            return _import_lines(store, _counted(file, progress, task), replace=replace)
    except PerdureError as error:
        raise failure_of(error) from error
    finally:
        store.close()


def _import_lines(store: SqliteImport, lines: Iterable[bytes], *, replace: bool) -> int:
    numbered = enumerate(lines, start=1)
    first, count = next(numbered, None), 0
    while first is not None:
        done = first[0] - 1
        with store.batch():
            for number, line in _up_to(first, numbered, _BATCH_LINES):
                _import_line(store, line, number, done=done, replace=replace)
                count += bool(line.strip())
        first = next(numbered, None)
    return count


def _up_to(
    first: tuple[int, bytes], others: Iterator[tuple[int, bytes]], count: int
) -> Iterator[tuple[int, bytes]]:
    yield first
    for _ in range(count - 1):
        following = next(others, None)
        if following is None:
            return
        yield following


def _import_line(
    store: SqliteImport, line: bytes, number: int, *, done: int, replace: bool
) -> None:
    if not line.strip():
        return
    kept = f"lines 1 to {done:,} are in the store" if done else "nothing was imported"
    try:
        actor_type, actor = _read_line(line)
        store.put(actor_type, actor, replace=replace)
    except ConflictError as error:
        raise Failure(
            f"line {number}: {error}",
            f"{kept}; --replace puts the imported state in the place of the stored one",
            exit_code=DATA_DAMAGED,
        ) from error
    except (ValueError, RecursionError, InvalidKeyError) as error:
        raise Failure(
            f"line {number}: {error}",
            f"{kept}; mend the line and import again, with --replace for those that are there",
            exit_code=DATA_DAMAGED,
        ) from error


def _read_line(line: bytes) -> tuple[str, StoredActor]:
    """Decode and check one line; raises ValueError, which msgspec's errors are too."""
    read = _line_decoder.decode(line)
    if not read.type.isidentifier() or read.type.startswith(("perdure_", "sqlite_")):
        raise ValueError(f"{read.type!r} cannot be the name of a type")
    if read.type != read.type.lower():
        raise ValueError(f"the type is {read.type!r}; types are written in snake_case")
    if read.created_at_ms > read.updated_at_ms:
        raise ValueError("created_at_ms is after updated_at_ms")
    state = bytes(read.state)
    _state_decoder.decode(state)
    key = normalize_key(read.key, KEY_BYTES_MAX)
    times = (read.created_at_ms, read.updated_at_ms)
    return read.type, StoredActor(key, state, read.version, *times, schema=read.schema)


def _lines(reader: SqliteReader, names: Iterable[str]) -> Iterator[bytes]:
    for name in names:
        after = ""
        while page := reader.scan(name, after, _PAGE_ROWS):
            for actor in page:
                yield _line(name, actor)
            after = page[-1].key


def _line(name: str, actor: StoredActor) -> bytes:
    state = actor.state
    if b"\n" in state:  # between tokens, where a store that was imported may have some
        state = msgspec.json.format(state, indent=-1)
    times = (actor.created_at_ms, actor.updated_at_ms)
    raw = msgspec.Raw(state)
    line = ActorLine(name, actor.key, actor.version, *times, raw, schema=actor.schema)
    return encode(line) + b"\n"


def _counted(file: BinaryIO, progress: Progress, task: Any) -> Iterator[bytes]:
    while line := file.readline(_LINE_BYTES_MAX):
        yield line
        progress.update(task, advance=len(line))


@contextmanager
def _output(target: str) -> Iterator[BinaryIO]:
    if target == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(target).resolve()  # what a link leads to is replaced, not the link
    try:
        with _whole_file(path) if path.is_file() or not path.exists() else path.open("wb") as file:
            yield file
    except OSError as error:
        raise Failure(
            f"cannot write {target}: {error.strerror}", exit_code=CANNOT_CREATE
        ) from error


@contextmanager
def _whole_file(path: Path) -> Iterator[BinaryIO]:
    """The file, complete or not at all: half an export must not pass for a whole one."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    try:
        with unfinished.open("wb") as file:
            yield file
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def _input(source: str) -> Iterator[BinaryIO]:
    if source == "-":
        yield sys.stdin.buffer
        return
    try:
        with Path(source).open("rb") as file:
            yield file
    except OSError as error:
        raise Failure(f"cannot read {source}: {error.strerror}", exit_code=NO_INPUT) from error


def _progress(notes: Console) -> Progress:
    """A bar on standard error; nothing at all unless that is a terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=notes,
        transient=True,
        disable=not notes.is_terminal,
    )
