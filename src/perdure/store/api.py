"""The Store protocol: all that Perdure asks of a database.

A store keeps one row per actor (its state as JSON and a version that counts commits) and, beside
it, rows of what its turns left behind: remembered idempotency keys, messages under way, timers,
and the entries of collections. It takes whole batches: everything in a `Batch` becomes durable
together or none of it does. It never interprets a state beyond the fields it was told to index,
and never decides who owns an actor.

The contract is written as tests in `perdure.testing.store_contract`; every adapter passes them.
"""

from collections.abc import Container, Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Literal, Protocol

import msgspec

from perdure.base.shards import shard_of
from perdure.base.trail import Trail
from perdure.store.registry import Registry

OUTLET = "@"
"""What the receiver type of a message to an outlet begins with; no actor type can."""

ABROAD = OUTLET + "/"
"""What it begins with for an actor in another database, whose type follows."""

# -- what a store must know of a class -----------------------------------------------------------


class IndexedField(msgspec.Struct, frozen=True):
    """A top-level field of the state that can be searched by.

    `kind` says how its JSON is ordered: `plain` (text, numbers and booleans as they are), `time`
    (RFC 3339 text in UTC, with or without a fraction of a second) or `decimal` (digits in a text,
    compared as floating point: the first fifteen count).
    """

    name: str
    kind: Literal["plain", "time", "decimal"] = "plain"
    unique: bool = False  # null, and a field that is not there, may occur any number of times


class ActorSchema(msgspec.Struct, frozen=True):
    """One actor class as the store sees it."""

    name: str  # of its table
    version: int = 1  # of its fields; migrations raise it
    fields: Sequence[str] = ()  # all top-level ones; the views for people have a column for each
    indexes: Sequence[IndexedField] = ()
    expires: bool = False  # `expired` will be asked about it


class StoredSchema(msgspec.Struct, frozen=True):
    """What the store remembers of a class from the last time it was opened with it."""

    name: str
    version: int
    fields: Sequence[str]


# -- what is stored ------------------------------------------------------------------------------


class Timer(msgspec.Struct, frozen=True):
    """A call that an actor will get at a time it has named."""

    actor_type: str
    key: str
    name: str
    due_at_ms: int
    method: str
    arguments: bytes  # JSON
    every_ms: int | None = None  # not None: it comes again and again
    attempts: int = 0  # that failed


class StoredActor(msgspec.Struct, frozen=True):
    """One actor as the store holds it."""

    key: str
    state: bytes  # JSON
    version: int  # how many commits made it
    created_at_ms: int
    updated_at_ms: int
    schema: int = 1  # the version of the class that wrote it
    timers: Sequence[Timer] = ()


class ActorWrite(msgspec.Struct, frozen=True):
    """One actor's new state; valid only on top of `version - 1`."""

    actor_type: str
    key: str
    state: bytes | None  # None: the actor goes, with its timers and entries
    version: int
    group: int = 0  # writes of one group, but for 0, are refused together
    yields: bool = False
    """If it is not based on the stored version, its group, which is not 0, is left out, instead of
    a ConflictError for all."""


class RequestRecord(msgspec.Struct, frozen=True):
    """The answer that was given to one idempotency key."""

    actor_type: str
    key: str
    request_id: str
    fingerprint: bytes  # of method and arguments; another request under the same id is refused
    reply: bytes


class Stream(msgspec.Struct, frozen=True):
    """All messages from one actor to one receiver: they arrive in the order they were sent."""

    sender_type: str
    sender_key: str
    receiver_type: str  # an actor type, `@name` for an outlet, or `@/` and a type: see ABROAD
    receiver_key: str

    @property
    def shard(self) -> int:
        """The shard whose owner delivers it: the receiver's, and for an outlet the sender's."""
        is_outside = self.receiver_type.startswith(OUTLET)
        return shard_of(self.sender_key if is_outside else self.receiver_key)


class Message(msgspec.Struct, frozen=True):
    """A call that nobody waits for, on its way."""

    stream: Stream
    method: str
    arguments: bytes  # JSON
    uid: str  # random; what a receiver outside knows it by
    caller: bytes | None  # JSON of the Caller whose turn sent it
    due_at_ms: int | None  # not before; None: a dead letter
    attempts: int = 0  # that failed
    error: str = ""  # of the last attempt
    id: int = 0  # given by the store, rising
    sent_at_ms: int = 0  # when it was committed; given by the store
    trail: Trail | None = None  # not stored: lost when it has to be read


Posts = dict[Stream, list[tuple[int, Trail]]]
"""Streams with new messages, and the trails of those that have one, by the message's id."""


class Deferral(msgspec.Struct, frozen=True):
    """A message was tried in vain, or is to be tried anew."""

    message_id: int
    attempts: int
    due_at_ms: int | None  # None: it becomes a dead letter
    error: str


class EntryWrite(msgspec.Struct, frozen=True):
    """One entry of a collection: put there, or taken away."""

    actor_type: str
    key: str
    field: str
    entry: str
    value: bytes | None  # JSON; None: it goes


class Answers(msgspec.Struct, frozen=True):
    """What the calls of one gateway in this commit were answered, so that a call sent a second
    time, after its first owner died, finds its answer instead of running again."""

    gateway: str  # the process that passed the calls on
    first: int  # numbers of its calls, both inclusive; not all between need be there
    last: int
    body: bytes  # of the gateway's protocol; the store does not look into it
    group: int = 0  # of writes; left out with it


class Standing(msgspec.Struct, frozen=True):
    """A group of writes that holds only while another member of the registry is one."""

    incarnation: int
    group: int


class Batch(msgspec.Struct, frozen=True):
    """What one group commit makes durable, at wall-clock time `at_ms`."""

    writes: Sequence[ActorWrite]
    requests: Sequence[RequestRecord]
    at_ms: int
    sent: Sequence[Message] = ()
    taken: Sequence[Message] = ()  # delivered; each must still be there
    deferred: Sequence[Deferral] = ()
    timers: Sequence[Timer] = ()  # set, or set anew
    cancelled: Sequence[tuple[str, str, str]] = ()  # timers, by actor type, key and name
    entries: Sequence[EntryWrite] = ()  # each entry once
    answers: Sequence[Answers] = ()
    standing: Sequence[Standing] = ()


class Refusal(msgspec.Struct, frozen=True):
    """A write that was left out, with all that belongs to its actor and its group."""

    actor_type: str
    key: str
    field: str  # the unique field whose value another actor has; "" for others of the group
    is_outdated: bool = False  # no such field: its group yields, or its `standing` fell


class Committed(msgspec.Struct, frozen=True):
    """What became of a batch."""

    message_ids: Sequence[int] = ()  # of `Batch.sent`, in order; 0 where it was left out
    refused: Sequence[Refusal] = ()


def answers_without(batch: Batch, actors: Container[tuple[str, str]]) -> list[Answers]:
    """The answers of a batch but for those that go with the groups of these actors."""
    gone = {one.group for one in batch.writes if (one.actor_type, one.key) in actors} - {0}
    return [one for one in batch.answers if one.group not in gone]


# -- questions -----------------------------------------------------------------------------------

Operator = Literal["eq", "ne", "lt", "le", "gt", "ge", "in"]


class Condition(msgspec.Struct, frozen=True):
    """An indexed field compared with a value, or with several for `in`.

    Values are as in JSON, ordered by the field's kind; `eq` and `ne` know None.
    """

    field: IndexedField
    operator: Operator
    value: Any


class Ordering(msgspec.Struct, frozen=True):
    """One field to sort by, nulls first; `key` is the actor's key."""

    field: IndexedField
    descending: bool = False


class Query(msgspec.Struct, frozen=True):
    """Which actors of one type are wanted: all conditions hold.

    The key is always the last thing to sort by, in the direction of the last ordering.
    """

    actor_type: str
    conditions: Sequence[Condition] = ()
    orderings: Sequence[Ordering] = ()
    limit: int = 100
    after: tuple[Sequence[Any], str] | None = None
    """Go on behind this row: its values of the orderings' fields, as in JSON, and its key."""


TimerPlace = tuple[int, str, str, str]
"""Where a timer stands in the order of all: due_at_ms, actor type, key, name."""

Shards = AbstractSet[int] | None
"""Only what belongs to actors in these shards (see `base.shards`); None: everything."""


class Store(Protocol):
    """One open database. Every method may raise StoreError or one of its kinds."""

    reads_never_wait: bool
    """True if `load`, `find_request` and `entry` never suspend: they may then be driven in place,
    without a task."""

    commit_passes_max: int
    """For how many passes of the event loop a commit is held open while each brings more turns:
    the more a commit costs beside its turns, the more there should be of them in one."""

    registry: Registry | None
    """Where several processes that share the store agree on who owns what; None: there is one."""

    async def open(self, schemas: Iterable[ActorSchema]) -> None:
        """Take ownership, recover, and make room, indexes and views for these classes.

        Raises StoreLockedError, StoreCorruptError or StoreFormatError; UniqueError when stored
        actors share the value of a field that is unique now. After any of them the store is as it
        was.
        """
        ...

    async def close(self) -> None:
        """Give up ownership. Everything acknowledged is durable already; this only tidies."""
        ...

    def stand_on(self, incarnation: int) -> None:
        """Commit in the name of this member of the registry from now on. As soon as it is none any
        more, `commit` raises FencedError; not called where `registry` is None."""
        ...

    # -- writing

    async def commit(self, batch: Batch) -> Committed:
        """Make the batch durable; when this returns, it survives a power cut.

        The batch holds at most one write of each actor.

        A write that would give a unique field the value of another actor is left out, with its
        whole group and everything of theirs in the batch, and comes back as refused; the batch's
        writes are held against that rule in their order.

        Groups with a write that yields, or whose `standing` is no member any more, are left out in
        the same way, before anything else is looked at.

        Raises ConflictError when a write is not based on the stored version or a message that must
        be there is not, StoreFullError when there is no space, FencedError. After any error nothing
        of the batch is there and never will be, but for OutcomeUnknownError: then the database
        could not be asked in time, and whatever is called next first finds out.
        """
        ...

    async def forget_requests(self, before_ms: int, limit: int) -> int:
        """Drop up to `limit` idempotency records made before `before_ms`; returns how many."""
        ...

    async def find_answers(self, gateway: str, number: int) -> list[bytes]:
        """The bodies of all `Answers` of this gateway whose span holds `number`."""
        ...

    async def forget_answers(self, before_ms: int, limit: int) -> int:
        """Drop up to `limit` rows of answers made before `before_ms`; returns how many."""
        ...

    # -- actors

    async def load(self, actor_type: str, key: str) -> StoredActor | None:
        """The last committed state with its timers, or None when the actor is not stored."""
        ...

    async def find_request(
        self, actor_type: str, key: str, request_id: str
    ) -> RequestRecord | None:
        """The remembered answer to an idempotency key, or None."""
        ...

    async def actor_types(self) -> dict[str, int]:
        """The actor types that have rows, with their number of actors."""
        ...

    async def schemas(self) -> list[StoredSchema]:
        """What is known of the stored classes."""
        ...

    async def scan(self, actor_type: str, after: str, limit: int) -> list[StoredActor]:
        """Up to `limit` actors with keys greater than `after`, in key order (by code point).

        Without their timers.
        """
        ...

    async def query(self, query: Query) -> list[StoredActor]:
        """The committed actors that fit, in the order asked for; without their timers."""
        ...

    async def expired(
        self, actor_type: str, before_ms: int, limit: int, shards: Shards = None
    ) -> list[str]:
        """Keys of up to `limit` actors that were last written before `before_ms`, oldest first."""
        ...

    # -- collections

    async def entry(self, actor_type: str, key: str, field: str, entry: str) -> bytes | None:
        """The value of one entry of a collection, or None."""
        ...

    async def entries(
        self,
        actor_type: str,
        key: str,
        field: str,
        *,
        start: str = "",
        end: str | None = None,
        limit: int = 100,
        descending: bool = False,
    ) -> list[tuple[str, bytes]]:
        """Up to `limit` entries from `start` on, before `end`, in the order of code points."""
        ...

    async def count_entries(self, actor_type: str, key: str, field: str) -> int:
        """How many entries a collection has."""
        ...

    # -- messages and timers

    async def streams(self, limit: int, shards: Shards = None) -> list[tuple[Stream, int]]:
        """Up to `limit` streams that have messages under way, with the due_at_ms of the first
        message of each; those due first come first. Dead letters do not count."""
        ...

    async def messages(self, stream: Stream, after_id: int, limit: int) -> list[Message]:
        """Messages of one stream that are under way, in order, with ids greater than `after_id`."""
        ...

    async def dead_letters(self, after_id: int, limit: int) -> list[Message]:
        """Messages that were given up, by id."""
        ...

    async def timers(self, after: TimerPlace, limit: int, shards: Shards = None) -> list[Timer]:
        """Up to `limit` timers behind `after`, in the order of all."""
        ...
