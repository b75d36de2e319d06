"""A store in dicts: for tests and for trying things out. Nothing in it survives the process."""

import heapq
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable
from itertools import islice

import msgspec

from perdure.base.errors import ConflictError, StoreError
from perdure.base.shards import shard_of
from perdure.store.api import (
    ActorSchema,
    ActorWrite,
    Answers,
    Batch,
    Committed,
    EntryWrite,
    Message,
    Query,
    Refusal,
    RequestRecord,
    Shards,
    StoredActor,
    StoredSchema,
    Stream,
    Timer,
    TimerPlace,
    answers_without,
)
from perdure.store.memory_query import select
from perdure.store.memory_unique import ActorPlace, UniqueValues, refusals
from perdure.store.registry import Registry

_RequestKey = tuple[str, str, str]


class _Collection:
    """The entries of one field of one actor, with their names in order."""

    __slots__ = ("order", "values")

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.order: list[str] = []

    def put(self, entry: str, value: bytes | None) -> None:
        if value is not None:
            if entry not in self.values:
                insort(self.order, entry)
            self.values[entry] = value
        elif self.values.pop(entry, None) is not None:
            del self.order[bisect_left(self.order, entry)]


class MemoryStore:
    """Keeps what `Store` promises, but for durability."""

    reads_never_wait = True
    commit_passes_max = 1  # as SQLite, for which it stands in
    registry: Registry | None = None

    def __init__(self, is_standing: Callable[[int], bool] | None = None) -> None:
        self._is_standing = is_standing or (lambda _incarnation: True)
        self._schemas: dict[str, ActorSchema] = {}
        self._tables: dict[str, dict[str, StoredActor]] = {}
        self._uniques: dict[str, UniqueValues] = {}
        self._requests: dict[_RequestKey, tuple[int, RequestRecord]] = {}
        self._messages: dict[int, Message] = {}  # dead letters too
        self._streams: dict[Stream, dict[int, Message]] = {}  # under way, by rising id
        self._last_message_id = 0
        self._timers: dict[ActorPlace, dict[str, Timer]] = {}
        self._collections: dict[ActorPlace, dict[str, _Collection]] = {}
        self._answers: dict[str, list[tuple[int, Answers]]] = {}  # by gateway, oldest first

    async def open(self, schemas: Iterable[ActorSchema]) -> None:
        known = {schema.name: schema for schema in schemas}
        uniques = {
            name: UniqueValues(schema, self._tables.get(name, {}).values())
            for name, schema in known.items()
        }
        self._uniques.update(uniques)  # only now: an error leaves the store as it was
        self._schemas.update(known)
        for name in known:
            self._tables.setdefault(name, {})

    async def close(self) -> None:
        """Keep everything: a test may open the same object again, as after a restart."""

    def stand_on(self, incarnation: int) -> None:
        """Nothing: there is no registry, and so nobody calls it."""

    # -- writing ---------------------------------------------------------------------------------

    async def commit(self, batch: Batch) -> Committed:
        places = {(write.actor_type, write.key) for write in batch.writes}
        if len(places) != len(batch.writes):
            raise ConflictError("one actor is written twice in a batch")
        outdated = self._outdated(batch)
        if outdated:
            batch = _without(batch, outdated)
        self._check(batch)
        refused = refusals(batch.writes, self._uniques)
        if refused:
            batch = _without(batch, refused)
        refused |= outdated
        for write in batch.writes:
            self._write(write, batch.at_ms)
        for record in batch.requests:
            self._requests[_request_key(record)] = (batch.at_ms, record)
        self._move_messages(batch)
        ids = [
            0 if _sender(message) in refused else self._send(message, batch.at_ms)
            for message in batch.sent
        ]
        for timer in batch.timers:
            self._timers.setdefault((timer.actor_type, timer.key), {})[timer.name] = timer
        for actor_type, key, name in batch.cancelled:
            self._cancel((actor_type, key), name)
        for entry in batch.entries:
            self._put_entry(entry)
        for answers in batch.answers:
            self._answers.setdefault(answers.gateway, []).append((batch.at_ms, answers))
        return Committed(ids, list(refused.values()))

    def _outdated(self, batch: Batch) -> dict[ActorPlace, Refusal]:
        """What is left out since it belongs to others by now."""
        groups = {one.group for one in batch.standing if not self._is_standing(one.incarnation)}
        groups |= {
            one.group for one in batch.writes if one.yields and not self._is_based_on_stored(one)
        }
        return {
            (one.actor_type, one.key): Refusal(one.actor_type, one.key, "", is_outdated=True)
            for one in batch.writes
            if one.group in groups
        }

    def _is_based_on_stored(self, write: ActorWrite) -> bool:
        stored = self._table(write.actor_type).get(write.key)
        return (stored.version if stored else 0) == write.version - 1

    def _check(self, batch: Batch) -> None:
        """Look at everything before anything is changed."""
        for write in batch.writes:
            if not self._is_based_on_stored(write):
                raise ConflictError(f"{write.actor_type}/{write.key}: not version {write.version}")
        keys = [_request_key(record) for record in batch.requests]
        for record, key in zip(batch.requests, keys, strict=True):
            if key in self._requests:
                raise ConflictError(f"{record.actor_type}/{record.key}: this id was answered")
        if len(set(keys)) != len(keys):
            raise ConflictError("one request is answered twice in a batch")
        taken = [message.id for message in batch.taken]
        if len(set(taken)) != len(taken) or not self._messages.keys() >= set(taken):
            raise ConflictError("a message that was delivered is not there any more")

    def _table(self, actor_type: str) -> dict[str, StoredActor]:
        try:
            return self._tables[actor_type]
        except KeyError:
            raise StoreError(f"the store was not opened with a class {actor_type}") from None

    def _write(self, write: ActorWrite, at_ms: int) -> None:
        table, place = self._tables[write.actor_type], (write.actor_type, write.key)
        if uniques := self._uniques[write.actor_type]:
            uniques.put(write.key, uniques.values_in(write.key, write.state))
        if write.state is None:
            table.pop(write.key, None)
            self._timers.pop(place, None)
            self._collections.pop(place, None)
            return
        before = table.get(write.key)
        table[write.key] = StoredActor(
            write.key,
            write.state,
            write.version,
            before.created_at_ms if before else at_ms,
            at_ms,
            self._schemas[write.actor_type].version,
        )

    def _move_messages(self, batch: Batch) -> None:
        for message in batch.taken:
            self._leave_stream(self._messages.pop(message.id))
        for deferral in batch.deferred:
            if (found := self._messages.get(deferral.message_id)) is None:
                continue  # somebody has taken it meanwhile: there is nothing to defer
            changed = msgspec.structs.replace(
                found,
                attempts=deferral.attempts,
                due_at_ms=deferral.due_at_ms,
                error=deferral.error,
            )
            self._messages[found.id] = changed
            self._leave_stream(found, changed)

    def _send(self, message: Message, at_ms: int) -> int:
        self._last_message_id += 1
        message = msgspec.structs.replace(message, id=self._last_message_id, sent_at_ms=at_ms)
        self._messages[message.id] = message
        if message.due_at_ms is not None:
            self._streams.setdefault(message.stream, {})[message.id] = message
        return message.id

    def _leave_stream(self, message: Message, instead: Message | None = None) -> None:
        """Take a message out of its stream, or put it there anew as `instead`."""
        under_way = self._streams.setdefault(message.stream, {})
        if instead is None or instead.due_at_ms is None:
            under_way.pop(message.id, None)
        elif message.id in under_way:
            under_way[message.id] = instead
        else:  # a dead letter comes back, before those that were sent later
            under_way[message.id] = instead
            self._streams[message.stream] = dict(sorted(under_way.items()))
        if not under_way:
            del self._streams[message.stream]

    def _cancel(self, place: ActorPlace, name: str) -> None:
        timers = self._timers.get(place, {})
        if timers.pop(name, None) is not None and not timers:
            del self._timers[place]

    def _put_entry(self, write: EntryWrite) -> None:
        place = (write.actor_type, write.key)
        collections = self._collections.setdefault(place, {})
        collections.setdefault(write.field, _Collection()).put(write.entry, write.value)

    async def forget_requests(self, before_ms: int, limit: int) -> int:
        old = [key for key, (at_ms, _) in self._requests.items() if at_ms < before_ms][:limit]
        for key in old:
            del self._requests[key]
        return len(old)

    async def find_answers(self, gateway: str, number: int) -> list[bytes]:
        known = (answers for _, answers in self._answers.get(gateway, ()))
        return [one.body for one in known if one.first <= number <= one.last]

    async def forget_answers(self, before_ms: int, limit: int) -> int:
        dropped = 0
        for gateway, known in list(self._answers.items()):
            old = sum(at_ms < before_ms for at_ms, _ in islice(known, limit - dropped))
            del known[:old]
            dropped += old
            if not known:
                del self._answers[gateway]
        return dropped

    # -- actors ----------------------------------------------------------------------------------

    async def load(self, actor_type: str, key: str) -> StoredActor | None:
        stored = self._table(actor_type).get(key)
        timers = self._timers.get((actor_type, key))
        if stored is None or not timers:
            return stored
        return msgspec.structs.replace(stored, timers=tuple(timers.values()))

    async def find_request(
        self, actor_type: str, key: str, request_id: str
    ) -> RequestRecord | None:
        found = self._requests.get((actor_type, key, request_id))
        return found[1] if found else None

    async def actor_types(self) -> dict[str, int]:
        return {name: len(rows) for name, rows in self._tables.items() if rows}

    async def schemas(self) -> list[StoredSchema]:
        return [
            StoredSchema(schema.name, schema.version, tuple(schema.fields))
            for schema in self._schemas.values()
        ]

    async def scan(self, actor_type: str, after: str, limit: int) -> list[StoredActor]:
        rows = self._tables.get(actor_type, {})
        return [rows[key] for key in sorted(rows) if key > after][:limit]

    async def query(self, query: Query) -> list[StoredActor]:
        return select(self._table(query.actor_type).values(), query)

    async def expired(
        self, actor_type: str, before_ms: int, limit: int, shards: Shards = None
    ) -> list[str]:
        old = [
            (row.updated_at_ms, row.key)
            for row in self._table(actor_type).values()
            if row.updated_at_ms < before_ms and (shards is None or shard_of(row.key) in shards)
        ]
        return [key for _, key in heapq.nsmallest(limit, old)]

    # -- collections -----------------------------------------------------------------------------

    async def entry(self, actor_type: str, key: str, field: str, entry: str) -> bytes | None:
        return self._collection(actor_type, key, field).values.get(entry)

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
        collection = self._collection(actor_type, key, field)
        first = bisect_left(collection.order, start)
        behind = len(collection.order) if end is None else bisect_left(collection.order, end)
        places = range(first, behind)
        if descending:
            places = places[::-1]
        names = [collection.order[place] for place in places[:limit]]
        return [(name, collection.values[name]) for name in names]

    async def count_entries(self, actor_type: str, key: str, field: str) -> int:
        return len(self._collection(actor_type, key, field).order)

    def _collection(self, actor_type: str, key: str, field: str) -> _Collection:
        return self._collections.get((actor_type, key), {}).get(field) or _Collection()

    # -- messages and timers ---------------------------------------------------------------------

    async def streams(self, limit: int, shards: Shards = None) -> list[tuple[Stream, int]]:
        heads = [
            next(iter(under_way.values()))
            for stream, under_way in self._streams.items()
            if shards is None or stream.shard in shards
        ]
        due = [(head.due_at_ms, head.id, head.stream) for head in heads]
        first = heapq.nsmallest(limit, due, key=lambda one: one[:2])
        return [(stream, due_at_ms) for due_at_ms, _, stream in first if due_at_ms is not None]

    async def messages(self, stream: Stream, after_id: int, limit: int) -> list[Message]:
        under_way = self._streams.get(stream, {}).values()
        return list(islice((one for one in under_way if one.id > after_id), limit))

    async def dead_letters(self, after_id: int, limit: int) -> list[Message]:
        dead = (one for one in self._messages.values() if one.due_at_ms is None)
        return list(islice((one for one in dead if one.id > after_id), limit))

    async def timers(self, after: TimerPlace, limit: int, shards: Shards = None) -> list[Timer]:
        wanted = (
            ((timer.due_at_ms, timer.actor_type, timer.key, timer.name), timer)
            for (_, key), timers in self._timers.items()
            if shards is None or shard_of(key) in shards
            for timer in timers.values()
        )
        behind = [(place, timer) for place, timer in wanted if place > after]
        return [timer for _, timer in heapq.nsmallest(limit, behind, key=lambda one: one[0])]


def _request_key(record: RequestRecord) -> _RequestKey:
    return (record.actor_type, record.key, record.request_id)


def _sender(message: Message) -> ActorPlace:
    return (message.stream.sender_type, message.stream.sender_key)


def _without(batch: Batch, places: Iterable[ActorPlace]) -> Batch:
    """The batch without what belongs to these actors, but with all of `sent`, whose ids count."""
    out = frozenset(places)
    return msgspec.structs.replace(
        batch,
        writes=[one for one in batch.writes if (one.actor_type, one.key) not in out],
        requests=[one for one in batch.requests if (one.actor_type, one.key) not in out],
        taken=[
            one
            for one in batch.taken
            if (one.stream.receiver_type, one.stream.receiver_key) not in out
        ],
        timers=[one for one in batch.timers if (one.actor_type, one.key) not in out],
        cancelled=[one for one in batch.cancelled if one[:2] not in out],
        entries=[one for one in batch.entries if (one.actor_type, one.key) not in out],
        answers=answers_without(batch, out),
    )
