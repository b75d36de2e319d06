"""Store URLs: how a command line or an App names a store."""

from pathlib import Path

from perdure.base.errors import StoreError
from perdure.store.api import Store
from perdure.store.memory import MemoryStore
from perdure.store.registry import Registry


def registry_from_url(url: str) -> Registry | None:
    """Where the processes that share this store agree on who owns what; None: one owns all."""
    return store_from_url(url).registry


def store_from_url(url: str) -> Store:
    """The store that a URL names; raises StoreError for one that names none.

    `memory:`, `sqlite:DIRECTORY`, `postgresql://USER:PASSWORD@HOST/DATABASE`, or
    `postgresql:embedded:DIRECTORY`, where DIRECTORY is `data` if it is left out.
    """
    scheme, _, rest = url.partition(":")
    if scheme == "memory" and not rest:
        return MemoryStore()
    if scheme == "sqlite" and rest:
        from perdure.store.sqlite import SqliteStore  # loads SQLite, which memory: has no use for

        return SqliteStore(Path(rest.removeprefix("//") or "."))
    if scheme == "postgresql" and (rest == "embedded" or rest.startswith("embedded:")):
        from perdure.store.postgres_embedded_store import EmbeddedPostgresStore

        return EmbeddedPostgresStore(Path(rest.removeprefix("embedded").lstrip(":") or "data"))
    if scheme in {"postgresql", "postgres"} and rest.startswith("//"):
        from perdure.store.postgres import PostgresStore

        return PostgresStore(url)
    raise StoreError(
        f"unknown store {url.partition('@')[0]!r}; use sqlite:DIRECTORY, postgresql://… or memory:"
    )
