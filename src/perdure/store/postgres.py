"""The PostgreSQL store: for any number of processes, on any number of machines.

A group commit is one statement, and so one round trip (see `postgres_batch`), valid only on top of
the commit before it (see `postgres_chain`). Commits have one connection, for they come one after
the other; reads have a few of their own.

While the database is away, reads fail at once; a commit waits for it as long as a commit may take.
"""

import asyncio
from collections.abc import Iterable

import asyncpg

from perdure.base import points
from perdure.base.clock import Clock, SystemClock
from perdure.base.errors import ConflictError, StoreError
from perdure.base.ids import jittered
from perdure.store.api import (
    ActorSchema,
    Batch,
    Committed,
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
from perdure.store.postgres_batch import (
    MESSAGES_MAX,
    Statement,
    Table,
    may_be_left_out,
    message_ids,
    needs_steps,
    statement,
)
from perdure.store.postgres_chain import Chain
from perdure.store.postgres_coalesce import Coalescer
from perdure.store.postgres_link import COMMIT_S, LostError, Server, Session
from perdure.store.postgres_reader import LONG_READ_S, SESSIONS_MAX, Reader
from perdure.store.postgres_registry import PostgresRegistry
from perdure.store.postgres_steps import Steps
from perdure.store.postgres_tables import constraint_fields, create_tables, table_sql_name
from perdure.store.registry import Registry

_OPEN_S = 600.0  # to make indexes over what is there
_CLOSE_S = 1.0  # for a commit under way
_CONFLICT = "PD001"  # what perdure_conflict() raises
_CURED_BY_REPEATING = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)
_RETRY_S = 0.01
_PLAIN = Committed()

_FORGET = (
    "DELETE FROM {table} WHERE ctid = ANY(ARRAY(SELECT ctid FROM {table} WHERE created_at_ms < $1"
    " ORDER BY created_at_ms LIMIT $2 FOR UPDATE SKIP LOCKED)) RETURNING 1"
)


class PostgresStore:
    """A `Store` in the database that a `postgresql:` URL names."""

    reads_never_wait = False
    commit_passes_max = 2  # with one, 64 callers were served 6 % more slowly

    def __init__(self, url: str, clock: Clock | None = None) -> None:
        self._clock: Clock = clock or SystemClock()
        self._server = Server(url, self._clock)
        self._chain = Chain(self._server, self._clock)
        self._reader = Reader(self._server, self._clock)
        self._loads = Coalescer(self._reader.load_many, SESSIONS_MAX)
        self._requests = Coalescer(self._reader.find_requests, SESSIONS_MAX)
        self._tables: dict[str, Table] = {}
        self._unique_fields: dict[str, str] = {}
        self._running: asyncio.Task[Committed] | None = None
        self.registry: Registry | None = PostgresRegistry(
            self._server, lambda incarnation: self._chain.confirmed(incarnation)
        )

    async def open(self, schemas: Iterable[ActorSchema]) -> None:
        schemas = list(schemas)
        session = await self._server.connect()
        try:
            async with session.transaction(_OPEN_S), asyncio.timeout(_OPEN_S):
                namespace = await create_tables(session.connection, schemas, self._server.label)
                await self._chain.stand_alone(session, _OPEN_S)
        except (asyncpg.PostgresError, LostError, OSError, TimeoutError) as error:
            session.drop()
            raise self._server.error(error) from error
        except BaseException:
            session.drop()
            raise
        self._chain.adopt(session)
        self._tables = {
            one.name: Table(table_sql_name(one.name, namespace), one.version) for one in schemas
        }
        self._unique_fields = constraint_fields(schemas)
        self._reader.open(self._tables, namespace)

    async def close(self) -> None:
        if self._running is not None:
            await asyncio.wait([self._running], timeout=_CLOSE_S)
            self._running.cancel()
        self._loads.close()
        self._requests.close()
        self._reader.close()
        self._chain.close()

    def stand_on(self, incarnation: int) -> None:
        # another chain: a commit that was begun before must never go by the new name
        former, self._chain = self._chain, Chain(self._server, self._clock)
        self._chain.stand_on(incarnation)
        former.end()

    # -- writing ---------------------------------------------------------------------------------

    async def commit(self, batch: Batch) -> Committed:
        # in a task of its own: whoever waits may be cancelled, the chain goes on
        chain = self._chain
        task = asyncio.get_running_loop().create_task(self._commit_in_turn(chain, batch))
        self._running = task
        task.add_done_callback(self._ended)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.done():
                chain.is_left_open = True  # whoever reads next waits for its end
            raise

    def _ended(self, task: "asyncio.Task[Committed]") -> None:
        if self._running is task:
            self._running = None
        if not task.cancelled():
            task.exception()  # seen, also when nobody waits for it any more

    async def _commit_in_turn(self, chain: Chain, batch: Batch) -> Committed:
        if len(batch.sent) > MESSAGES_MAX:
            raise StoreError(f"{len(batch.sent)} messages in one commit; {MESSAGES_MAX} fit")
        deadline_s = self._clock.monotonic_s() + COMMIT_S
        async with chain.turn:
            try:
                if chain.is_in_doubt:
                    await chain.settle(deadline_s)
                return await self._commit(chain, batch, deadline_s)
            finally:
                if chain is not self._chain:
                    chain.close()

    async def _commit(self, chain: Chain, batch: Batch, deadline_s: float) -> Committed:
        try:
            made = statement(batch, self._tables)
        except KeyError as error:
            raise StoreError(f"the store was not opened with a class {error}") from None
        if len(made.values) == 3:
            return _PLAIN
        steps: Steps | None = None  # not None: the batch goes by those
        while True:
            number = chain.begin()
            session = await chain.session(deadline_s)
            left_s = self._time_left(deadline_s)
            if steps is not None or needs_steps(batch):
                steps = self._steps(chain, session, number, left_s)
            chain.sent(number)
            try:
                async with asyncio.timeout(left_s):  # for all of it: every step has as much
                    if steps is None:
                        block: int | None = await self._write(chain, made, session, number, left_s)
                    else:
                        block = await self._write_steps(chain, steps, batch, left_s)
            except (LostError, OSError):
                block = await chain.settle(deadline_s)
            except StoreError:
                chain.failed()  # raised here, before COMMIT: nothing of it is there
                raise
            except asyncpg.PostgresError as error:
                chain.failed()
                if steps is None and self._is_refusal(error, batch):
                    steps = self._steps(chain, session, number, left_s)  # to see who is in the way
                elif left_s > _RETRY_S and isinstance(error, _CURED_BY_REPEATING):
                    await self._clock.sleep(jittered(_RETRY_S))
                else:
                    raise self._error(error) from error
                continue
            if block is not None:  # else it is not there and never will be: once more
                return _committed(batch, block, steps)

    def _time_left(self, deadline_s: float) -> float:
        left_s = deadline_s - self._clock.monotonic_s()
        if left_s <= 0:
            raise StoreError(f"{self._server.label}: the commits before this one took too long")
        return left_s

    def _is_refusal(self, error: asyncpg.PostgresError, batch: Batch) -> bool:
        """True if only a part is in the way, such as a unique value that is another actor's."""
        if isinstance(error, asyncpg.UniqueViolationError):
            return error.constraint_name in self._unique_fields
        return error.sqlstate == _CONFLICT and may_be_left_out(batch)

    def _error(self, error: asyncpg.PostgresError) -> StoreError:
        is_conflict = isinstance(error, asyncpg.UniqueViolationError)
        if is_conflict or error.sqlstate == _CONFLICT:
            return ConflictError("the store holds another version than the one in memory")
        return self._server.error(error)

    async def _write(
        self, chain: Chain, made: Statement, session: Session, number: int, left_s: float
    ) -> int:
        """The batch in one statement; returns the block of its messages."""
        made.values[:2] = (chain.incarnation, number)
        points.reach("after_begin")
        points.reach("before_fsync")
        rows = await session.run(made.sql, made.values, left_s)
        if not rows:
            async with session.transaction(left_s):
                raise await chain.refused(session, left_s)
        chain.done(number)
        points.reach("after_fsync")
        return int(rows[0][0])

    def _steps(self, chain: Chain, session: Session, number: int, left_s: float) -> Steps:
        place = (chain.incarnation, number)
        return Steps(session, self._tables, self._unique_fields, place, left_s)

    async def _write_steps(self, chain: Chain, steps: Steps, batch: Batch, left_s: float) -> int:
        points.reach("after_begin")
        async with steps.session.transaction(left_s):
            if not await steps.write(batch):
                raise await chain.refused(steps.session, left_s)
            points.reach("before_fsync")
        chain.done(steps.number)
        points.reach("after_fsync")
        return steps.block

    async def forget_requests(self, before_ms: int, limit: int) -> int:
        return await self._forget("perdure_request", before_ms, limit)

    async def forget_answers(self, before_ms: int, limit: int) -> int:
        return await self._forget("perdure_answers", before_ms, limit)

    async def _forget(self, table: str, before_ms: int, limit: int) -> int:
        sql = _FORGET.format(table=table)
        return len(await self._reader.rows(sql, before_ms, limit, timeout_s=LONG_READ_S))

    async def _settle(self) -> None:
        """Find out first what became of a commit whose outcome is open."""
        # not `is_in_doubt`, which every commit under way is: reads would wait for each of them
        chain = self._chain
        if chain.is_left_open:
            async with chain.turn:  # in turn: all commits that were begun before have ended then
                if chain.is_in_doubt:
                    await chain.settle(self._clock.monotonic_s() + COMMIT_S)
                chain.is_left_open = False

    # -- reading ---------------------------------------------------------------------------------

    async def find_answers(self, gateway: str, number: int) -> list[bytes]:
        await self._settle()
        return await self._reader.find_answers(gateway, number)

    async def load(self, actor_type: str, key: str) -> StoredActor | None:
        await self._settle()
        return await self._loads.find(actor_type, key)

    async def find_request(
        self, actor_type: str, key: str, request_id: str
    ) -> RequestRecord | None:
        await self._settle()
        return await self._requests.find("perdure_request", (actor_type, key, request_id))

    async def actor_types(self) -> dict[str, int]:
        return await self._reader.actor_types()

    async def schemas(self) -> list[StoredSchema]:
        return await self._reader.schemas()

    async def scan(self, actor_type: str, after: str, limit: int) -> list[StoredActor]:
        return await self._reader.scan(actor_type, after, limit)

    async def query(self, query: Query) -> list[StoredActor]:
        return await self._reader.query(query)

    async def expired(
        self, actor_type: str, before_ms: int, limit: int, shards: Shards = None
    ) -> list[str]:
        return await self._reader.expired(actor_type, before_ms, limit, shards)

    async def entry(self, actor_type: str, key: str, field: str, entry: str) -> bytes | None:
        await self._settle()
        return await self._reader.entry((actor_type, key, field), entry)

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
        await self._settle()
        at = (actor_type, key, field)
        return await self._reader.entries(at, start, end, limit, descending=descending)

    async def count_entries(self, actor_type: str, key: str, field: str) -> int:
        await self._settle()
        return await self._reader.count_entries((actor_type, key, field))

    async def streams(self, limit: int, shards: Shards = None) -> list[tuple[Stream, int]]:
        return await self._reader.streams(limit, shards)

    async def messages(self, stream: Stream, after_id: int, limit: int) -> list[Message]:
        return await self._reader.messages(stream, after_id, limit)

    async def dead_letters(self, after_id: int, limit: int) -> list[Message]:
        return await self._reader.dead_letters(after_id, limit)

    async def timers(self, after: TimerPlace, limit: int, shards: Shards = None) -> list[Timer]:
        return await self._reader.timers(after, limit, shards)


def _committed(batch: Batch, block: int, steps: Steps | None) -> Committed:
    if steps is not None:
        steps.block = block
        return Committed(steps.ids(batch), steps.refused)
    return Committed(message_ids(block, len(batch.sent))) if batch.sent else _PLAIN
