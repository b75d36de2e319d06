"""What commands ask of a store that they do not own: each store has somebody who looks in.

`SqliteReader` and `PostgresLook` are the two. They see what is committed, while processes own the
store or not, block until there is an answer, make nothing, and write nothing but dead letters, in
whose rows no process has an interest. `SqliteImport` and `PostgresImport` write whole actors, and
own the store meanwhile.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from perdure.base.errors import StoreError
from perdure.store.api import Message, StoredActor, StoredSchema


class NoStoreError(StoreError):
    """There is no store at that place. It is no error of the store's users, who would make one."""


class Look(Protocol):
    """A store to look into. Every method may raise StoreError; those that give rows
    StoreCorruptError for a damaged one."""

    def close(self) -> None:
        """Look no longer."""
        ...

    def actor_tables(self) -> list[str]:
        """The names of all actor types that ever had a table here, sorted."""
        ...

    def schemas(self) -> list[StoredSchema]:
        """What is known of the stored classes."""
        ...

    def count(self, actor_type: str) -> int:
        """How many actors of this type are stored."""
        ...

    def load(self, actor_type: str, key: str) -> StoredActor | None:
        """One actor with its timers, or None."""
        ...

    def scan(self, actor_type: str, after: str, limit: int) -> list[StoredActor]:
        """Up to `limit` actors with keys greater than `after`, in key order, without timers."""
        ...

    def whole_actors(self, actor_type: str, after: str, limit: int) -> list[StoredActor]:
        """The same with their timers, those of each by name."""
        ...

    def entries_between(
        self, actor_type: str, after: tuple[str, str, str], last_key: str, limit: int
    ) -> list[tuple[str, str, str, bytes]]:
        """Up to `limit` entries (key, field, entry, value) behind `after` (key, field, entry), of
        actors with keys up to `last_key`, in order."""
        ...

    def versions(self, actor_type: str) -> dict[int, tuple[int, str]]:
        """Of each class version that wrote rows: how many, and the key of the newest."""
        ...

    def spread(self, actor_type: str, count: int) -> list[str]:
        """The keys of all actors if they are few, else the first, and about `count` spread evenly
        behind it, with the last. The next call gives the same."""
        ...

    def duplicates(self, actor_type: str, field: str, limit: int) -> list[tuple[str, int]]:
        """Up to `limit` values of a field, not null, that several actors have, with how many."""
        ...

    def dead_letters(self, after_id: int, limit: int) -> list[Message]:
        """Messages that were given up, by id."""
        ...

    def snapshot(self) -> AbstractContextManager[None]:
        """Everything read within the block is of one moment. Meanwhile the store keeps what it
        could else throw away."""
        ...

    def query(self, sql: str) -> tuple[list[str], Iterator[tuple[Any, ...]]]:
        """Run one SELECT; returns the names of its columns, and its rows as they are found.

        Raises StoreError itself, and not a class of it, for SQL that is wrong or would write.
        """
        ...


class Letters(Protocol):
    """The dead letters of a store, for sending them again and dropping them."""

    def close(self) -> None:
        """All is durable already."""
        ...

    def resend(self, ids: Sequence[int], at_ms: int) -> list[int]:
        """Make dead letters due at `at_ms`, as if never tried; returns those ids that were dead."""
        ...

    def resend_behind(self, after_id: int, at_ms: int) -> list[int]:
        """Do so for the next letters with ids greater than `after_id`; returns their ids.

        None are left when there are none.
        """
        ...

    def drop(self, ids: Sequence[int]) -> list[int]:
        """Delete dead letters; returns those ids that were dead letters."""
        ...


class Import(Protocol):
    """A store that is open for taking in actors, and owned meanwhile."""

    def close(self) -> None:
        """Give it up."""
        ...

    def batch(self) -> AbstractContextManager[None]:
        """All that is put within the block becomes durable together, or none of it."""
        ...

    def put(self, actor_type: str, actor: StoredActor, *, replace: bool) -> None:
        """Write one actor as it is, with its timers; `put_entry` adds the entries it has.

        What is replaced goes as a whole, with its timers and entries. Raises ConflictError if the
        actor is there and may not be replaced, or if another one has the value of a unique field.
        """
        ...

    def put_entry(self, actor_type: str, key: str, field: str, entry: str, value: bytes) -> None:
        """Write one entry of an actor that was put; raises ConflictError if it is there."""
        ...
