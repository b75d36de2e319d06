"""Puts whole actors into a PostgreSQL store, with the versions and times they had elsewhere.

The only way to write that bypasses turns. It is the only member of the database meanwhile (see
`postgres_sole`), and each batch rests on its fence, as every commit does.
"""

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg

from perdure.base.clock import SystemClock
from perdure.base.errors import ConflictError
from perdure.base.shards import ONLY, Cell, shard_of
from perdure.store.api import ActorSchema, StoredActor
from perdure.store.postgres_link import LostError, Server
from perdure.store.postgres_sole import SoleMember
from perdure.store.postgres_tables import create_tables, table_sql_name
from perdure.store.registry import fenced

_STEP_S = 60.0

_STAND = (
    "UPDATE perdure_fence SET commit_number = commit_number + 1 WHERE incarnation = $1 RETURNING 1"
)
_PUT = (
    "INSERT INTO {table} (key, state, version, created_at_ms, updated_at_ms, schema, shard)"
    " VALUES ($1, $2::text::json, $3, $4, $5, $6, $7) ON CONFLICT (key) DO NOTHING RETURNING 1"
)
_PUT_TIMER = "INSERT INTO perdure_timer VALUES ($1, $2, $3, $4, $5, $6, $7::text::json, $8, $9)"
_PUT_ENTRY = "INSERT INTO perdure_entry VALUES ($1, $2, $3, $4, $5::text::json)"


class PostgresImport:
    """The store in the database of this URL, open for taking in actors; made if there is none.

    Raises StoreLockedError while processes have it open, OtherClusterError if it is another cell;
    every method may raise StoreError.
    """

    def __init__(self, url: str, cell: Cell = ONLY) -> None:
        self._server = Server(url, SystemClock())
        self._member = SoleMember(self._server)
        self._runner = asyncio.Runner()
        self._tables: dict[str, str] = {}
        try:
            self._run(self._member.join(cell))
            self._session = self._run(self._server.connect())
            with self.batch():
                connection = self._session.connection
                self._namespace = self._run(create_tables(connection, [], self._server.label))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give it up."""
        if hasattr(self, "_session"):
            self._session.drop()
        self._runner.run(self._member.leave())
        self._runner.close()

    @contextmanager
    def batch(self) -> Iterator[None]:
        """All that is put within the block becomes durable together, or none of it."""
        self._run(self._member.renew())  # the batch itself may take longer: its fence is locked
        transaction = self._session.transaction(_STEP_S)
        self._run(transaction.__aenter__())
        try:
            if not self._rows(_STAND, self._member.incarnation):
                raise fenced(self._member.incarnation)
            yield
        except BaseException as error:
            self._tables.clear()  # a table made in this batch is gone with it
            self._run(transaction.__aexit__(type(error), error, error.__traceback__))
            raise
        self._run(transaction.__aexit__(None, None, None))

    def put(self, actor_type: str, actor: StoredActor, *, replace: bool) -> None:
        """Write one actor as it is, with its timers; `put_entry` adds the entries it has.

        What is replaced goes as a whole, with its timers and entries. Raises ConflictError if the
        actor is there and may not be replaced, or if another one has the value of a unique field.
        """
        table = self._table(actor_type, actor.schema)
        if replace:
            self._remove(table, actor_type, actor.key)
        shard, state = shard_of(actor.key), actor.state.decode()
        times = (actor.created_at_ms, actor.updated_at_ms)
        try:
            put = self._rows(
                _PUT.format(table=table),
                *(actor.key, state, actor.version, *times, actor.schema, shard),
            )
        except asyncpg.UniqueViolationError:
            raise ConflictError(
                f"{actor_type}/{actor.key} has a value in a unique field that another one has"
            ) from None
        if not put:
            raise ConflictError(f"{actor_type}/{actor.key} is in the store already")
        for timer in actor.timers:
            due = (timer.due_at_ms, timer.method, timer.arguments.decode())
            at = (actor_type, actor.key, timer.name, shard)
            self._rows(_PUT_TIMER, *at, *due, timer.every_ms, timer.attempts)

    def put_entry(self, actor_type: str, key: str, field: str, entry: str, value: bytes) -> None:
        """Write one entry of an actor that was put; raises ConflictError if it is there."""
        try:
            self._rows(_PUT_ENTRY, actor_type, key, field, entry, value.decode())
        except asyncpg.UniqueViolationError:
            raise ConflictError(
                f"the entry {entry!r} of {actor_type}/{key}.{field} comes twice"
            ) from None

    def _table(self, actor_type: str, version: int) -> str:
        if actor_type not in self._tables:
            known = "SELECT 1 FROM perdure_schema WHERE actor_type = $1"
            if not self._rows(known, actor_type):  # its fields are known when an app opens it
                made = [ActorSchema(actor_type, version)]
                self._run(create_tables(self._session.connection, made, self._server.label))
            self._tables[actor_type] = table_sql_name(actor_type, self._namespace)
        return self._tables[actor_type]

    def _remove(self, table: str, actor_type: str, key: str) -> None:
        self._rows(f"DELETE FROM {table} WHERE key = $1", key)
        # An answer that is remembered belongs to the state that goes: who sends that call again
        # would be told of an effect which is not there.
        for other in ("perdure_request", "perdure_timer", "perdure_entry"):
            self._rows(f"DELETE FROM {other} WHERE actor_type = $1 AND key = $2", actor_type, key)

    def _rows(self, sql: str, *values: Any) -> list[Any]:
        rows: list[Any] = self._run(self._session.step_again(sql, values, _STEP_S))
        return rows

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        try:
            return self._runner.run(work)
        except asyncpg.UniqueViolationError:
            raise
        except (asyncpg.PostgresError, LostError) as error:
            raise self._server.error(error) from error
