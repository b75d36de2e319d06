"""`perdure state export|import`: whole actors as JSON lines.

    {"type":"cart","key":"alice","version":2,"created_at_ms":…,"updated_at_ms":…,"state":{…}}
    {"type":"cart","key":"alice","field":"items","entry":"tea","value":{…}}

An actor is one line, with its timers in it. Entries of its collections follow as lines of their
own, since there may be millions of them. Both ways stream: neither holds more than a few actors and
entries, however large the store is. `export_lines` knows what a line says.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from perdure.base.errors import ConflictError, InvalidKeyError
from perdure.cli.export_lines import Line, ReadEntry, actor_line, entry_line, read_line
from perdure.cli.failures import CANNOT_CREATE, DATA_DAMAGED, NO_INPUT, Failure
from perdure.cli.looking import Place, importing, looking
from perdure.cli.state import type_named
from perdure.store.look import Import, Look

_PAGE_ROWS = 16  # of up to 4 MiB each
_PAGE_ENTRIES = 64  # of up to 1 MiB each
_BATCH_LINES = 1_000
_LINE_BYTES_MAX = 64 << 20


def export_state(place: Place, target: str, given_type: str | None, notes: Console) -> int:
    """Write all actors, or those of one type, to a file or `-`; returns how many.

    They are of one moment, also while a server writes on.
    """
    with looking(place) as reader, reader.snapshot():
        names = [type_named(reader, given_type)] if given_type else reader.actor_tables()
        with _progress(notes) as progress, _output(target) as file:
            task = progress.add_task("export", total=sum(map(reader.count, names)))
            count = 0
            for line, is_actor in _lines(reader, names):
                file.write(line)
                if is_actor:
                    count += 1
                    progress.update(task, completed=count)
    return count


def import_state(places: Sequence[Place], source: str, *, replace: bool, notes: Console) -> int:
    """Put every actor of an export into the store, or into the cells; returns how many. Raises
    Failure.

    Each batch of lines is atomic; a bad line ends the import before its batch.
    """
    path = Path(source)
    if source != "-" and not path.is_file():
        raise Failure(f"there is no file {source}", exit_code=NO_INPUT)
    with importing(*places) as store, _progress(notes) as progress, _input(source) as file:
        total = path.stat().st_size if source != "-" else None
        task = progress.add_task("import", total=total)
        return _import_lines(store, _counted(file, progress, task), replace=replace)


def _import_lines(store: Import, lines: Iterable[bytes], *, replace: bool) -> int:
    numbered = enumerate(lines, start=1)
    first, importing = next(numbered, None), _Importing(store, replace=replace)
    while first is not None:
        done = first[0] - 1
        with store.batch():
            for number, line in _up_to(first, numbered, _BATCH_LINES):
                _import_line(importing, line, number, done=done)
        first = next(numbered, None)
    return importing.actors


class _Importing:
    """What was put into the store so far."""

    def __init__(self, store: Import, *, replace: bool) -> None:
        self._store = store
        self.replace = replace
        self._last = ("", "")  # type and key of the actor whose entries may come
        self.actors = 0

    def put(self, read: Line) -> None:
        """Put in what a line says; raises ConflictError, or ValueError when it is out of place."""
        if isinstance(read, ReadEntry):
            if (read.actor_type, read.key) != self._last:
                raise ValueError(
                    f"it is an entry of {read.actor_type}/{read.key}, but does not follow its line"
                )
            try:
                self._store.put_entry(read.actor_type, read.key, read.field, read.entry, read.value)
            except ConflictError as error:  # the line before it is of this file, not of the store
                raise ValueError(str(error)) from error
        else:
            actor_type, actor = read
            self._store.put(actor_type, actor, replace=self.replace)
            self._last = (actor_type, actor.key)
            self.actors += 1


def _up_to(
    first: tuple[int, bytes], others: Iterator[tuple[int, bytes]], count: int
) -> Iterator[tuple[int, bytes]]:
    yield first
    for _ in range(count - 1):
        following = next(others, None)
        if following is None:
            return
        yield following


def _import_line(importing: _Importing, line: bytes, number: int, *, done: int) -> None:
    if not line.strip():
        return
    kept = f"lines 1 to {done:,} are in the store" if done else "nothing was imported"
    try:
        importing.put(read_line(line))
    except ConflictError as error:
        raise Failure(
            f"line {number}: {error}",
            kept
            if importing.replace
            else f"{kept}; --replace puts the imported state in its place",
            exit_code=DATA_DAMAGED,
        ) from error
    except (ValueError, RecursionError, InvalidKeyError) as error:
        raise Failure(
            f"line {number}: {error}",
            f"{kept}; mend the line and import again, with --replace for those that are there",
            exit_code=DATA_DAMAGED,
        ) from error


def _lines(reader: Look, names: Iterable[str]) -> Iterator[tuple[bytes, bool]]:
    """Every line to write, and whether it is an actor's, which are counted."""
    for name in names:
        after = ""
        while page := reader.whole_actors(name, after, _PAGE_ROWS):
            entries = _entries(reader, name, page[0].key, page[-1].key)
            upcoming = next(entries, None)
            for actor in page:
                yield actor_line(name, actor), True
                while upcoming is not None and upcoming[0] <= actor.key:
                    if upcoming[0] == actor.key:  # else nobody has it
                        yield entry_line(name, *upcoming), False
                    upcoming = next(entries, None)
            after = page[-1].key


def _entries(
    reader: Look, name: str, first_key: str, last_key: str
) -> Iterator[tuple[str, str, str, bytes]]:
    """Those of all actors of a page, since most actors have none to ask for."""
    after = (first_key, "", "")
    while page := reader.entries_between(name, after, last_key, _PAGE_ENTRIES):
        yield from page
        after = page[-1][:3]


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
