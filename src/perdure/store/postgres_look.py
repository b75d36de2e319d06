"""A PostgreSQL store seen from a command: it commits nothing, makes nothing, and has no event loop.

It is a `Look` and `Letters` (see `look`). It may be used while processes own the store. It writes
dead letters only, in whose rows no process has an interest: none is held in memory, and a running
outbox finds what is due again with its next look.
"""

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import asyncpg

from perdure.base.clock import SystemClock
from perdure.base.errors import StoreError, StoreFormatError
from perdure.store.api import Message, StoredActor, StoredSchema
from perdure.store.look import NoStoreError
from perdure.store.postgres_ask import Question
from perdure.store.postgres_batch import Table
from perdure.store.postgres_link import LostError, Server, Session
from perdure.store.postgres_names import literal
from perdure.store.postgres_reader import READ_S, Reader
from perdure.store.postgres_tables import FORMAT, table_sql_name

_ROWS_MAX = 500  # written in one transaction
_SURVEY_S = 300.0  # a count of everything, for a person who waits for it
# The server lets go of the snapshot of one that froze: nothing can be vacuumed behind it. Not
# sooner, since what is read may go into a pipe that waits for a person.
_IDLE_MAX_MS = 600_000

_Result = TypeVar("_Result")

_RESEND = "UPDATE perdure_message SET due_at_ms = $2, attempts = 0"  # the error stays, to be read
_DEAD = "WHERE due_at_ms IS NULL AND id = ANY($1) RETURNING id"
_DEAD_BEHIND = (
    "WHERE due_at_ms IS NULL AND id IN (SELECT id FROM perdure_message"
    " WHERE due_at_ms IS NULL AND id > $1 ORDER BY id LIMIT $3) RETURNING id"
)


class PostgresLook:
    """The store in the database of this URL. Every method may raise StoreError."""

    def __init__(self, url: str) -> None:
        clock = SystemClock()
        self._runner = asyncio.Runner()
        self._server = Server(url, clock)
        self._reader = Reader(self._server, clock)
        self._questions: list[Question] = []
        try:
            self._run(self._server.connect()).drop()  # fails at once, where reads would wait
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        [[is_store]] = self._rows("SELECT to_regclass('perdure_format') IS NOT NULL")
        if not is_store:
            raise NoStoreError(f"there is no store in {self._server.label}")
        [[stored]] = self._rows("SELECT format FROM perdure_format")
        if stored != FORMAT:
            raise StoreFormatError(
                f"{self._server.label} has format {stored}, this Perdure reads up to {FORMAT};"
                " upgrade Perdure"
            )
        self._find_tables()

    def _find_tables(self) -> None:
        [[namespace]] = self._rows("SELECT current_schema()")
        self._schemas = self._run(self._reader.schemas())
        self._tables = {
            one.name: Table(table_sql_name(one.name, namespace), one.version)
            for one in self._schemas
        }
        self._reader.open(self._tables, namespace)

    def close(self) -> None:
        """Cut the connections."""
        for question in self._questions:
            question.close()
        self._reader.close()
        self._runner.close()

    def actor_tables(self) -> list[str]:
        """The names of all actor types that ever had a table here, sorted."""
        return sorted(self._tables)

    def schemas(self) -> list[StoredSchema]:
        """What is known of the stored classes."""
        return self._schemas

    def count(self, actor_type: str) -> int:
        """How many actors of this type are stored."""
        [[count]] = self._rows(f"SELECT count(*) FROM {self._tables[actor_type].sql_name}")
        return int(count)

    def load(self, actor_type: str, key: str) -> StoredActor | None:
        """One actor."""
        return self._run(self._reader.load_many(actor_type, [key])).get(key)

    def scan(self, actor_type: str, after: str, limit: int) -> list[StoredActor]:
        """Up to `limit` actors with keys greater than `after`, in key order."""
        return self._run(self._reader.scan(actor_type, after, limit))

    def whole_actors(self, actor_type: str, after: str, limit: int) -> list[StoredActor]:
        """The same with their timers, those of each by name."""
        return self._run(self._reader.whole_actors(actor_type, after, limit))

    def entries_between(
        self, actor_type: str, after: tuple[str, str, str], last_key: str, limit: int
    ) -> list[tuple[str, str, str, bytes]]:
        """Up to `limit` entries (key, field, entry, value) behind `after` (key, field, entry), of
        actors with keys up to `last_key`, in order."""
        return self._run(self._reader.entries_between(actor_type, after, last_key, limit))

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Everything read within the block is of one moment. Meanwhile the database keeps every row
        that is replaced."""
        reader = self._reader
        self._reader = _OneMoment(self._server, self._run(self._server.connect()))
        try:
            self._run(self._reader.begin())
            self._find_tables()
            yield
        finally:
            self._reader.close()
            self._reader = reader

    def query(self, sql: str) -> tuple[list[str], Iterator[tuple[Any, ...]]]:
        """Run one SELECT; returns the names of its columns, and its rows as they are found.

        Whatever is not a question is refused with StoreError; `postgres_ask` says what that is
        worth.
        """
        question = Question(self._server)
        self._questions.append(question)
        return self._run(question.ask(sql)), self._rows_of(question)

    def _rows_of(self, question: Question) -> Iterator[tuple[Any, ...]]:
        while rows := self._run(question.rows()):
            yield from rows

    # -- surveys

    def versions(self, actor_type: str) -> dict[int, tuple[int, str]]:
        """Of each class version that wrote rows: how many, and the key of the newest."""
        rows = self._rows(
            "SELECT schema, count(*), (array_agg(key ORDER BY updated_at_ms DESC))[1]"
            f" FROM {self._tables[actor_type].sql_name} GROUP BY schema ORDER BY schema"
        )
        return {schema: (count, key) for schema, count, key in rows}

    def spread(self, actor_type: str, count: int) -> list[str]:
        """The keys of all actors if they are few, else the first, and about `count` spread evenly
        behind it, with the last."""
        rows = self._rows(
            "SELECT key FROM (SELECT key, row_number() OVER (ORDER BY key) AS place, count(*)"
            f" OVER () AS rows FROM {self._tables[actor_type].sql_name}) AS numbered"
            " WHERE place = 1 OR place = rows OR place % (rows / $1 + 1) = 0 ORDER BY place",
            count,
        )
        return [key for (key,) in rows]

    def duplicates(self, actor_type: str, field: str, limit: int) -> list[tuple[str, int]]:
        """Up to `limit` values of a field, not null, that several actors have, with how many."""
        value = f"state ->> {literal(field)}"
        rows = self._rows(
            f"SELECT {value}, count(*) FROM {self._tables[actor_type].sql_name}"
            f" WHERE {value} IS NOT NULL GROUP BY {value}, json_typeof(state -> {literal(field)})"
            " HAVING count(*) > 1 LIMIT $1",
            limit,
        )
        return [(found, count) for found, count in rows]

    # -- dead letters

    def dead_letters(self, after_id: int, limit: int) -> list[Message]:
        """Messages that were given up, by id."""
        return self._run(self._reader.dead_letters(after_id, limit))

    def resend(self, ids: Sequence[int], at_ms: int) -> list[int]:
        """Make dead letters due at `at_ms`, as if never tried; returns those ids that were dead."""
        return sorted(row[0] for row in self._rows(f"{_RESEND} {_DEAD}", ids, at_ms))

    def resend_behind(self, after_id: int, at_ms: int) -> list[int]:
        """Do so for the next letters with ids greater than `after_id`; returns their ids.

        None are left when there are none.
        """
        sql = f"{_RESEND} {_DEAD_BEHIND}"
        return sorted(row[0] for row in self._rows(sql, after_id, at_ms, _ROWS_MAX))

    def drop(self, ids: Sequence[int]) -> list[int]:
        """Delete dead letters; returns those ids that were dead letters."""
        return sorted(row[0] for row in self._rows(f"DELETE FROM perdure_message {_DEAD}", ids))

    def _rows(self, sql: str, *values: Any) -> list[Any]:
        return self._run(self._reader.rows(sql, *values, timeout_s=_SURVEY_S))

    def _run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        return self._runner.run(work)


class _OneMoment(Reader):
    """Reads within one transaction, and so all of one moment."""

    def __init__(self, server: Server, session: Session) -> None:
        super().__init__(server, SystemClock())
        self._session = session

    async def begin(self) -> None:
        """Take the snapshot with the first read."""
        begin = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY"
        idle = f"SET LOCAL idle_in_transaction_session_timeout = {_IDLE_MAX_MS}"
        await self._session.execute(f"{begin}; {idle}", READ_S)

    def close(self) -> None:
        """End it, with its connection."""
        self._session.drop()

    async def rows(self, sql: str, *values: Any, timeout_s: float = READ_S) -> list[Any]:
        """One statement; not tried again, for another connection would see another moment."""
        try:
            return await self._session.step_again(sql, values, timeout_s)
        except LostError as error:
            raise StoreError(f"{self._server.label} was lost: {error}") from error
        except asyncpg.PostgresError as error:
            raise self._server.error(error) from error
