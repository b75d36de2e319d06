"""The Store protocol: all that Perdure asks of a database.

A store keeps one row per actor (its state as JSON and a version that counts commits) and one row
per remembered idempotency key. It takes whole batches: everything in a `Batch` becomes durable
together or none of it does. It never interprets a state and never decides who owns an actor.

The contract is written as tests in `perdure.testing.store_contract`; every adapter passes them.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

import msgspec


class StoredActor(msgspec.Struct, frozen=True):
    """One actor as the store holds it."""

    key: str
    state: bytes  # JSON
    version: int  # how many commits made it
    created_at_ms: int
    updated_at_ms: int


class ActorWrite(msgspec.Struct, frozen=True):
    """One actor's new state; valid only on top of `version - 1`."""

    actor_type: str
    key: str
    state: bytes
    version: int


class RequestRecord(msgspec.Struct, frozen=True):
    """The answer that was given to one idempotency key."""

    actor_type: str
    key: str
    request_id: str
    fingerprint: bytes  # of method and arguments; another request under the same id is refused
    reply: bytes


class Batch(msgspec.Struct, frozen=True):
    """What one group commit makes durable, at wall-clock time `at_ms`."""

    writes: Sequence[ActorWrite]
    requests: Sequence[RequestRecord]
    at_ms: int


class Store(Protocol):
    """One open database. Every method may raise StoreError or one of its kinds."""

    async def open(self, actor_types: Iterable[str]) -> None:
        """Take ownership, recover, and make room for these actor types.

        Raises StoreLockedError, StoreCorruptError or StoreFormatError; after any of them the
        store is as it was.
        """
        ...

    async def load(self, actor_type: str, key: str) -> StoredActor | None:
        """The last committed state, or None when the actor was never written."""
        ...

    async def find_request(
        self, actor_type: str, key: str, request_id: str
    ) -> RequestRecord | None:
        """The remembered answer to an idempotency key, or None."""
        ...

    async def commit(self, batch: Batch) -> None:
        """Make the batch durable; when this returns, it survives a power cut.

        Raises ConflictError when a write is not based on the stored version, StoreFullError when
        there is no space. After any error nothing of the batch is there.
        """
        ...

    async def forget_requests(self, before_ms: int, limit: int) -> int:
        """Drop up to `limit` idempotency records made before `before_ms`; returns how many."""
        ...

    async def actor_types(self) -> dict[str, int]:
        """The actor types that have rows, with their number of actors."""
        ...

    async def scan(self, actor_type: str, after: str, limit: int) -> list[StoredActor]:
        """Up to `limit` actors with keys greater than `after`, in key order (by code point)."""
        ...

    async def close(self) -> None:
        """Give up ownership. Everything acknowledged is durable already; this only tidies."""
        ...
