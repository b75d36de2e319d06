"""Reads of a PostgreSQL store, over a few connections of their own.

A read that finds its connection broken is asked once more over a new one: connections break when
nobody uses them, and that is no reason to tell anybody. What does not answer in time is cut off.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg
import msgspec

from perdure.base.clock import Clock
from perdure.base.codec import decoder
from perdure.base.errors import StoreError
from perdure.base.shards import SHARDS
from perdure.store.api import (
    Message,
    Query,
    RequestRecord,
    Shards,
    StoredActor,
    StoredSchema,
    Stream,
    Timer,
    TimerPlace,
)
from perdure.store.postgres_batch import Table
from perdure.store.postgres_link import LostError, Server, Session
from perdure.store.postgres_query import query_sql
from perdure.store.postgres_tables import table_sql_name

SESSIONS_MAX = 4
READ_S = 5.0
_TRIES_MAX = 5
LONG_READ_S = 30.0  # counts and searches
_GRACE_S = 0.1  # so that a connection that does not come about is known as that

ROW = "key, state::text, version, created_at_ms, updated_at_ms, schema"
_STREAM = "sender_type, sender_key, receiver_type, receiver_key"
_MESSAGE = (
    f"{_STREAM}, method, arguments::text, uid, caller::text, due_at_ms, attempts, error, id,"
    " sent_at_ms"
)
_TIMER = "actor_type, key, name, due_at_ms, method, arguments::text, every_ms, attempts"


class Reader:
    """Every method may raise StoreError."""

    def __init__(self, server: Server, clock: Clock) -> None:
        self._server = server
        self._clock = clock
        self._free: list[Session] = []
        self._slots = asyncio.Semaphore(SESSIONS_MAX)
        self._used: set[Session] = set()
        self._tables: Mapping[str, Table] = {}
        self._namespace = ""

    def open(self, tables: Mapping[str, Table], namespace: str) -> None:
        """Read these tables, by actor type, of this schema."""
        self._tables, self._namespace = tables, namespace
        self._slots = asyncio.Semaphore(SESSIONS_MAX)

    def close(self) -> None:
        """Cut all connections."""
        for session in (*self._free, *self._used):
            session.drop()
        self._free.clear()

    # -- actors

    async def load_many(self, actor_type: str, keys: Sequence[str]) -> dict[str, StoredActor]:
        """The actors of these keys that are there, with their timers."""
        rows = await self.rows(_LOAD.format(table=self._table(actor_type)), keys, actor_type)
        return {row[0]: _whole_actor(actor_type, row) for row in rows}

    async def find_requests(
        self, _table: str, names: Sequence[tuple[str, str, str]]
    ) -> dict[tuple[str, str, str], RequestRecord]:
        """The remembered answers of these names: actor type, key and request id."""
        rows = await self.rows(_REQUESTS, *zip(*names, strict=True))
        return {(row[0], row[1], row[2]): RequestRecord(*row) for row in rows}

    async def actor_types(self) -> dict[str, int]:
        """How many actors there are of each type that has any."""
        names = [row[0] for row in await self.rows("SELECT actor_type FROM perdure_schema")]
        counts: dict[str, int] = {}
        for name in names:
            sql = f"SELECT count(*) FROM {table_sql_name(name, self._namespace)}"
            [[count]] = await self.rows(sql, timeout_s=LONG_READ_S)
            counts[name] = count
        return {name: count for name, count in counts.items() if count}

    async def schemas(self) -> list[StoredSchema]:
        """What is known of the stored classes."""
        rows = await self.rows(
            "SELECT actor_type, version, fields::text FROM perdure_schema ORDER BY actor_type"
        )
        return [StoredSchema(name, version, _strings(fields)) for name, version, fields in rows]

    async def scan(self, actor_type: str, after: str, limit: int) -> list[StoredActor]:
        """Actors with keys greater than `after`, in key order."""
        sql = f"SELECT {ROW} FROM {self._table(actor_type)} WHERE key > $1 ORDER BY key LIMIT $2"
        return [_actor(row) for row in await self.rows(sql, after, limit, timeout_s=LONG_READ_S)]

    async def whole_actors(self, actor_type: str, after: str, limit: int) -> list[StoredActor]:
        """The same with their timers, those of each by name."""
        sql = f"{_WHOLE} WHERE key > $1 ORDER BY key LIMIT $3".format(table=self._table(actor_type))
        rows = await self.rows(sql, after, actor_type, limit, timeout_s=LONG_READ_S)
        return [_whole_actor(actor_type, row) for row in rows]

    async def query(self, query: Query) -> list[StoredActor]:
        """The actors that fit, in the order asked for."""
        sql, values = query_sql(query, self._table(query.actor_type), ROW)
        return [_actor(row) for row in await self.rows(sql, *values, timeout_s=LONG_READ_S)]

    async def expired(
        self, actor_type: str, before_ms: int, limit: int, shards: Shards
    ) -> list[str]:
        """Keys of actors that were last written before that time, oldest first."""
        only, values = _only(shards, 3)
        sql = (
            f"SELECT key FROM {self._table(actor_type)} WHERE updated_at_ms < $1{only}"
            " ORDER BY updated_at_ms LIMIT $2"
        )
        rows = await self.rows(sql, before_ms, limit, *values, timeout_s=LONG_READ_S)
        return [row[0] for row in rows]

    # -- answers

    async def find_answers(self, gateway: str, number: int) -> list[bytes]:
        """The bodies of all answers whose span holds `number`."""
        rows = await self.rows(
            "SELECT body FROM perdure_answers WHERE gateway = $1 AND last >= $2 AND first <= $2",
            gateway,
            number,
        )
        return [row[0] for row in rows]

    # -- collections

    async def entry(self, at: tuple[str, str, str], entry: str) -> bytes | None:
        """The value of one entry of the collection `at` (actor type, key, field), or None."""
        rows = await self.rows(f"SELECT value::text {_OF_COLLECTION} AND entry = $4", *at, entry)
        return rows[0][0].encode() if rows else None

    async def entries(
        self,
        at: tuple[str, str, str],
        start: str,
        end: str | None,
        limit: int,
        *,
        descending: bool,
    ) -> list[tuple[str, bytes]]:
        """Entries of the collection `at` from `start` on, before `end`."""
        rows = await self.rows(
            f"SELECT entry, value::text {_OF_COLLECTION} AND entry >= $4"
            + ("" if end is None else " AND entry < $6")
            + f" ORDER BY entry {'DESC' if descending else 'ASC'} LIMIT $5",
            *((*at, start, limit) if end is None else (*at, start, limit, end)),
        )
        return [(name, value.encode()) for name, value in rows]

    async def entries_between(
        self, actor_type: str, after: tuple[str, str, str], last_key: str, limit: int
    ) -> list[tuple[str, str, str, bytes]]:
        """Entries (key, field, entry, value) behind `after` (key, field, entry), of actors with
        keys up to `last_key`, in order."""
        rows = await self.rows(
            "SELECT key, field, entry, value::text FROM perdure_entry WHERE actor_type = $1"
            " AND (key, field, entry) > ($2, $3, $4) AND key <= $5"
            " ORDER BY key, field, entry LIMIT $6",
            *(actor_type, *after, last_key, limit),
            timeout_s=LONG_READ_S,
        )
        return [(key, field, entry, value.encode()) for key, field, entry, value in rows]

    async def count_entries(self, at: tuple[str, str, str]) -> int:
        """How many entries a collection has."""
        rows = await self.rows(f"SELECT count(*) {_OF_COLLECTION}", *at, timeout_s=LONG_READ_S)
        return int(rows[0][0])

    # -- messages and timers

    async def streams(self, limit: int, shards: Shards) -> list[tuple[Stream, int]]:
        """Streams with messages under way, and when the first message of each is due."""
        only, values = _only(shards, 2)
        rows = await self.rows(
            f"SELECT {_STREAM}, due_at_ms FROM (SELECT DISTINCT ON (shard, {_STREAM})"
            f" {_STREAM}, due_at_ms, id FROM perdure_message WHERE due_at_ms IS NOT NULL{only}"
            f" ORDER BY shard, {_STREAM}, id) AS first ORDER BY due_at_ms, id LIMIT $1",
            limit,
            *values,
            timeout_s=LONG_READ_S,
        )
        return [(Stream(*row[:4]), row[4]) for row in rows]

    async def messages(self, stream: Stream, after_id: int, limit: int) -> list[Message]:
        """Messages of one stream that are under way, in order."""
        rows = await self.rows(
            f"SELECT {_MESSAGE} FROM perdure_message WHERE due_at_ms IS NOT NULL AND shard = $1"
            " AND sender_type = $2 AND sender_key = $3 AND receiver_type = $4"
            " AND receiver_key = $5 AND id > $6 ORDER BY id LIMIT $7",
            stream.shard,
            *msgspec.structs.astuple(stream),
            after_id,
            limit,
        )
        return [_message(row) for row in rows]

    async def dead_letters(self, after_id: int, limit: int) -> list[Message]:
        """Messages that were given up, by id."""
        rows = await self.rows(
            f"SELECT {_MESSAGE} FROM perdure_message WHERE due_at_ms IS NULL AND id > $1"
            " ORDER BY id LIMIT $2",
            after_id,
            limit,
        )
        return [_message(row) for row in rows]

    async def timers(self, after: TimerPlace, limit: int, shards: Shards) -> list[Timer]:
        """Timers behind a place in the order of all."""
        only, values = _only(shards, 6)
        rows = await self.rows(
            f"SELECT {_TIMER} FROM perdure_timer"
            f" WHERE (due_at_ms, actor_type, key, name) > ($1, $2, $3, $4){only}"
            " ORDER BY due_at_ms, actor_type, key, name LIMIT $5",
            *after,
            limit,
            *values,
        )
        return [_timer(row) for row in rows]

    # -- statements

    def _table(self, actor_type: str) -> str:
        try:
            return self._tables[actor_type].sql_name
        except KeyError:
            raise StoreError(f"the store was not opened with a class {actor_type}") from None

    async def rows(self, sql: str, *values: Any, timeout_s: float = READ_S) -> list[Any]:
        """One statement; returns its rows. One that writes may be run twice."""
        deadline_s = self._clock.monotonic_s() + timeout_s
        try:
            async with asyncio.timeout(timeout_s + _GRACE_S), self._slots:
                return await self._run(sql, values, deadline_s)
        except TimeoutError:
            raise StoreError(f"{self._server.label} did not answer in {timeout_s:g} s") from None
        except LostError as error:
            raise StoreError(f"{self._server.label} did not answer: {error}") from error
        except asyncpg.PostgresError as error:
            raise self._server.error(error) from error

    async def _run(self, sql: str, values: Sequence[Any], deadline_s: float) -> list[Any]:
        """Several tries: after a restart of the database every idle connection is a broken one.

        Not any number: it may be this statement that makes the server fall.
        """
        for tries_left in reversed(range(_TRIES_MAX)):
            try:
                return await self._run_once(sql, values, deadline_s)
            except LostError:
                if not tries_left or self._clock.monotonic_s() >= deadline_s:
                    raise
                self._drop_idle()
        raise AssertionError("unreachable")

    def _drop_idle(self) -> None:
        idle, self._free = self._free, []
        for session in idle:
            session.drop()

    async def _run_once(self, sql: str, values: Sequence[Any], deadline_s: float) -> list[Any]:
        left_s = deadline_s - self._clock.monotonic_s()
        if left_s <= 0:
            raise TimeoutError
        session = self._free.pop() if self._free else await self._server.connect_by(deadline_s)
        self._used.add(session)
        try:
            return await session.run(sql, values, left_s)
        finally:
            self._used.discard(session)
            if session.is_usable:
                self._free.append(session)


_WHOLE = (
    "SELECT key, state::text, version, created_at_ms, updated_at_ms, schema,"
    " (SELECT json_agg(json_build_array(name, due_at_ms, method, arguments, every_ms, attempts)"
    " ORDER BY name)::text FROM perdure_timer WHERE actor_type = $2 AND perdure_timer.key = t.key)"
    " FROM {table} AS t"
)
_LOAD = f"{_WHOLE} WHERE key = ANY($1)"
_REQUESTS = (
    "SELECT actor_type, key, request_id, fingerprint, reply"
    " FROM unnest($1::text[], $2::text[], $3::text[]) AS n(actor_type, key, request_id)"
    " JOIN perdure_request USING (actor_type, key, request_id)"
)
_OF_COLLECTION = "FROM perdure_entry WHERE actor_type = $1 AND key = $2 AND field = $3"

_strings = decoder(list[str]).decode
_timer_rows = decoder(list[tuple[str, int, str, msgspec.Raw, int | None, int]]).decode


def _only(shards: Shards, number: int) -> tuple[str, list[Any]]:
    """A clause for the rows of these shards, and the value that it binds as that parameter."""
    if shards is None or len(shards) == SHARDS:
        return "", []
    return f" AND shard = ANY(${number}::smallint[])", [sorted(shards)]


def _actor(row: Any) -> StoredActor:
    key, state, *others = row
    return StoredActor(key, state.encode(), *others)


def _whole_actor(actor_type: str, row: Any) -> StoredActor:
    *columns, encoded = row
    timers = _timers(actor_type, row[0], encoded) if encoded else ()
    return msgspec.structs.replace(_actor(columns), timers=timers)


def _timers(actor_type: str, key: str, encoded: str) -> tuple[Timer, ...]:
    return tuple(
        Timer(actor_type, key, name, due_at_ms, method, bytes(arguments), every_ms, attempts)
        for name, due_at_ms, method, arguments, every_ms, attempts in _timer_rows(encoded)
    )


def _timer(row: Any) -> Timer:
    actor_type, key, name, due_at_ms, method, arguments, every_ms, attempts = row
    return Timer(actor_type, key, name, due_at_ms, method, arguments.encode(), every_ms, attempts)


def _message(row: Any) -> Message:
    sender_type, sender_key, receiver_type, receiver_key, method, arguments, uid, caller = row[:8]
    return Message(
        Stream(sender_type, sender_key, receiver_type, receiver_key),
        method,
        arguments.encode(),
        uid,
        None if caller is None else caller.encode(),
        *row[8:],
    )
