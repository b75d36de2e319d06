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
    """The store named by `sqlite:DIRECTORY` or `memory:`; raises StoreError for any other."""
    scheme, _, rest = url.partition(":")
    if scheme == "memory" and not rest:
        return MemoryStore()
    if scheme == "sqlite" and rest:
        from perdure.store.sqlite import SqliteStore  # loads SQLite, which memory: has no use for

        return SqliteStore(Path(rest.removeprefix("//") or "."))
    raise StoreError(f"unknown store {url!r}; use sqlite:DIRECTORY or memory:")
