"""Stores that commands look into: a directory with SQLite, or the URL of a PostgreSQL database."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from perdure.base.errors import PerdureError
from perdure.cli.failures import Failure, failure_of
from perdure.cli.state import reading
from perdure.store.sqlite_reader import SqliteReader

if TYPE_CHECKING:
    from perdure.store.postgres_look import PostgresLook

Place: TypeAlias = Path | str  # a URL
Look: TypeAlias = "SqliteReader | PostgresLook"


def place_of(store: str) -> Place:
    """What a store given as `sqlite:DIR`, DIR or `postgresql://…` is; raises Failure for others."""
    scheme, colon, rest = store.partition(":")
    if scheme == "memory":
        raise Failure("a memory: store holds nothing when its process is gone", "give sqlite:DIR")
    if scheme in {"postgresql", "postgres"} and rest.startswith("//"):
        return store
    if store.startswith("postgresql:"):
        raise Failure(
            "an embedded server is looked into by its URL, while it runs",
            "give postgresql://perdure@/postgres?host=DIR/postgres, with the whole path of DIR",
        )
    return Path(rest.removeprefix("//") or ".") if colon and scheme == "sqlite" else Path(store)


def directory_of(store: str) -> Path:
    """The directory of a SQLite store, for a command that knows no other; raises Failure."""
    place = place_of(store)
    if isinstance(place, str):
        raise Failure("this command works on SQLite stores only, not on PostgreSQL", "--data DIR")
    return place


@contextmanager
def looking(place: Place) -> "Iterator[Look]":
    """The store at this place, also while others own it; its errors become Failures."""
    if isinstance(place, Path):
        with reading(place) as reader:
            yield reader
        return
    from perdure.store.postgres_look import PostgresLook  # loads what SQLite has no use for

    try:
        look = PostgresLook(place)
        try:
            yield look
        finally:
            look.close()
    except PerdureError as error:
        raise failure_of(error) from error
