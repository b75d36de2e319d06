"""What the parts of the store contract share: how a store is opened, and shorthands for batches."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from perdure.base.errors import ConflictError
from perdure.store.api import (
    ActorSchema,
    ActorWrite,
    Answers,
    Batch,
    Deferral,
    EntryWrite,
    IndexedField,
    Message,
    RequestRecord,
    Store,
    StoredActor,
    Stream,
    Timer,
)

TYPES = ("cart", "order")
SCHEMAS = tuple(ActorSchema(name) for name in TYPES)
EMAIL = IndexedField("email", unique=True)
STRANGE_KEYS = (
    "a",
    "A",
    "ä",
    "a\u0308",  # the same to a reader, as two code points
    "日本語",
    "😀",
    "\uffee",  # in UTF-16 it would come after the emoji
    "a/b",
    "a'b\"c",
    "x; DROP TABLE cart",
    "%",
    "_",
    " ",
    "\u200b",
    "\U0010ffff",
    "k" * 512,
)

Place = Any
Body = Callable[[Store], Coroutine[Any, Any, None]]


class StoreCase:
    """A part of the contract; a subclass says where and how a store is opened."""

    examples = 60  # of what is tried at random; each opens a store

    def make_place(self, tmp_path: Path) -> Place:
        """A fresh place for a store."""
        raise NotImplementedError

    def make_store(self, place: Place) -> Store:
        """A store at this place, not yet opened."""
        raise NotImplementedError

    @asynccontextmanager
    async def opened(self, place: Place, *schemas: ActorSchema) -> AsyncIterator[Store]:
        """A store that is open within the block, with `SCHEMAS` unless others are given."""
        store = self.make_store(place)
        await store.open(schemas or SCHEMAS)
        try:
            yield store
        finally:
            await store.close()

    def run(self, tmp_path: Path, body: Body, *schemas: ActorSchema) -> None:
        """Run `body` on a fresh open store."""

        async def bounded() -> None:
            async with asyncio.timeout(60), self.opened(self.make_place(tmp_path), *schemas) as it:
                await body(it)

        asyncio.run(bounded())


# -- shorthands ----------------------------------------------------------------------------------


def write(
    key: str,
    version: int,
    state: bytes | None = b"{}",
    actor_type: str = "cart",
    *,
    group: int = 0,
) -> ActorWrite:
    """One actor's new state."""
    return ActorWrite(actor_type, key, state, version, group)


def record(
    key: str, request_id: str, reply: bytes = b"1", actor_type: str = "cart"
) -> RequestRecord:
    """One remembered answer."""
    return RequestRecord(actor_type, key, request_id, b"print", reply)


def message(
    sender: str, receiver: str, note: str = "", due_at_ms: int | None = 0, uid: str = ""
) -> Message:
    """A message from one cart to another, with a note in its arguments."""
    stream = Stream("cart", sender, "cart", receiver)
    arguments = b'{"note":"%s"}' % note.encode()
    return Message(stream, "take", arguments, uid or f"uid-{note}", b'{"id":"me"}', due_at_ms)


def timer(key: str, name: str, due_at_ms: int, **others: Any) -> Timer:
    """A timer of a cart."""
    return Timer("cart", key, name, due_at_ms, "remind", b'{"n":1}', **others)


def entry(key: str, name: str, value: bytes | None = b"1", field: str = "lines") -> EntryWrite:
    """An entry of a cart's collection."""
    return EntryWrite("cart", key, field, name, value)


Item = ActorWrite | RequestRecord | Message | Deferral | Timer | EntryWrite | Answers


def batch(
    *items: Item,
    at_ms: int = 1,
    taken: Sequence[Message] = (),
    cancelled: Sequence[tuple[str, str, str]] = (),
) -> Batch:
    """A batch of writes, records, messages to send, deferrals, timers, entries and answers."""
    return Batch(
        [item for item in items if isinstance(item, ActorWrite)],
        [item for item in items if isinstance(item, RequestRecord)],
        at_ms,
        sent=[item for item in items if isinstance(item, Message)],
        taken=taken,
        deferred=[item for item in items if isinstance(item, Deferral)],
        timers=[item for item in items if isinstance(item, Timer)],
        cancelled=cancelled,
        entries=[item for item in items if isinstance(item, EntryWrite)],
        answers=[item for item in items if isinstance(item, Answers)],
    )


async def load(store: Store, key: str, actor_type: str = "cart") -> StoredActor:
    """An actor that must be stored."""
    stored = await store.load(actor_type, key)
    assert stored is not None, f"{actor_type}/{key} is not stored"
    return stored


async def refuses(store: Store, conflicting: Batch) -> None:
    """See that a batch is refused as a whole."""
    try:
        await store.commit(conflicting)
    except ConflictError:
        return
    raise AssertionError("the store took a batch that it must refuse")
