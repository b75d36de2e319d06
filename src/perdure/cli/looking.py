"""Stores that commands work on: a directory with SQLite, or a PostgreSQL database by its URL.

Which of the two it is nobody has to ask but this module. `postgresql:embedded:DIR` is the server
that keeps its data in DIR, started for as long as the command needs it if it does not run.
"""

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit

from perdure.base.errors import PerdureError
from perdure.base.shards import ONLY, Cell
from perdure.cli.failures import Failure, failure_of
from perdure.store.api import Store
from perdure.store.celled_import import CelledImport
from perdure.store.look import Import, Letters, Look, NoStoreError
from perdure.store.sqlite import SqliteStore
from perdure.store.sqlite_import import SqliteImport
from perdure.store.sqlite_letters import SqliteLetters
from perdure.store.sqlite_reader import SqliteReader

Place: TypeAlias = Path | str  # a URL

_EMBEDDED = "postgresql:embedded"
_NO_STORE = "say where it is: --data DIR; `perdure run` makes it with its first start"
_NO_TABLES = (
    "name the database, and the schema with ?search_path=…, that `perdure run --store` has; its"
    " first start makes the tables"
)
_NO_ANSWER = "is it postgresql://USER:PASSWORD@HOST:PORT/DATABASE, and can this machine reach it?"
_HINTS = {  # by PostgreSQL's code
    "28P01": "the URL, PGPASSWORD or ~/.pgpass must hold the password of that role",
    "28000": "the server does not let that role in from here: see its pg_hba.conf",
    "3D000": "CREATE DATABASE makes it; the URL's path is the database's name",
    "42501": "the role needs USAGE of the schema, and SELECT on its tables, to look in",
}


def place_given(data: Path, store: str | None) -> Place:
    """The place that a command was given with --data and --store; raises Failure."""
    if store is None:
        return data
    return place_of(f"{store}:{data}" if store == _EMBEDDED else store)


def place_of(store: str) -> Place:
    """What a store given as `sqlite:DIR`, DIR or `postgresql:…` is; raises Failure for others."""
    scheme, colon, rest = store.partition(":")
    if scheme == "memory":
        raise Failure("a memory: store holds nothing when its process is gone", "give sqlite:DIR")
    if scheme in {"postgresql", "postgres"} and rest.startswith("//"):
        try:
            _ = urlsplit(store).port  # which is only read now
        except ValueError as error:
            raise Failure(f"the URL of the store cannot be read: {error}", _NO_ANSWER) from error
        return store
    if store == _EMBEDDED or store.startswith(f"{_EMBEDDED}:"):
        return store
    return Path(rest.removeprefix("//") or ".") if colon and scheme == "sqlite" else Path(store)


@contextmanager
def looking(place: Place) -> Iterator[Look]:
    """The store at this place, also while others own it; its errors become Failures."""
    with _errors_told(place):
        if isinstance(place, Path):
            with closing(SqliteReader.of_store(place)) as reader:
                yield reader
            return
        from perdure.store.postgres_look import PostgresLook  # loads what SQLite has no use for

        with _url(place) as url, closing(PostgresLook(url)) as look:
            yield look


@contextmanager
def letters(place: Place) -> Iterator[Letters]:
    """The dead letters of the store at this place; its errors become Failures."""
    with _errors_told(place):
        if isinstance(place, Path):
            with closing(SqliteLetters(place)) as found:
                yield found
            return
        from perdure.store.postgres_look import PostgresLook

        with _url(place) as url, closing(PostgresLook(url)) as look:
            yield look


@contextmanager
def importing(*places: Place) -> Iterator[Import]:
    """The store at this place for taking in actors, or the cells at these, made if there are none,
    and owned meanwhile; its errors become Failures."""
    with ExitStack() as stack:
        count = len(places)
        cells = [
            stack.enter_context(_importing(place, Cell(number, count)))
            for number, place in enumerate(places)
        ]
        yield cells[0] if count == 1 else CelledImport(cells)


@contextmanager
def _importing(place: Place, cell: Cell) -> Iterator[Import]:
    with _errors_told(place):
        if isinstance(place, Path):
            if cell != ONLY:
                raise Failure("actors are spread over several databases only with PostgreSQL")
            with closing(SqliteImport(place)) as directory:
                yield directory
            return
        from perdure.store.postgres_import import PostgresImport

        with _url(place, made=True) as url, closing(PostgresImport(url, cell)) as database:
            yield database


@contextmanager
def owning(place: Place) -> Iterator[Store]:
    """The store at this place, to be opened; nobody else can have it open then. Its errors become
    Failures."""
    with looking(place):
        pass  # here, since opening it would make a store where there is none
    with _errors_told(place):
        if isinstance(place, Path):
            yield SqliteStore(place)
            return
        from perdure.store.postgres_sole import SolePostgresStore

        with _url(place) as url:
            yield SolePostgresStore(url)


@contextmanager
def _url(place: str, *, made: bool = False) -> Iterator[str]:
    """Where the database answers, for as long as the block runs."""
    if not place.startswith(_EMBEDDED):
        yield place
        return
    from perdure.store.postgres_embedded import EmbeddedServer

    directory = Path(place.removeprefix(_EMBEDDED).lstrip(":") or "data")
    if not made and not (directory / "postgres").exists():
        raise NoStoreError(f"there is no store in {directory}")
    server = EmbeddedServer(directory)
    server.start()
    try:
        yield server.url
    finally:
        server.stop()


@contextmanager
def _errors_told(place: Place) -> Iterator[None]:
    try:
        yield
    except PerdureError as error:
        failure = failure_of(error)
        failure.hint = _hint(place, error)
        raise failure from error


def _hint(place: Place, error: PerdureError) -> str | None:
    is_directory = isinstance(place, Path) or place.startswith(_EMBEDDED)
    if isinstance(error, NoStoreError):
        return _NO_STORE if is_directory else _NO_TABLES
    if is_directory:
        return None
    from perdure.store.postgres_link import UnreachableStoreError

    known = _HINTS.get(getattr(error.__cause__, "sqlstate", None) or "")
    return known or (_NO_ANSWER if isinstance(error, UnreachableStoreError) else None)
