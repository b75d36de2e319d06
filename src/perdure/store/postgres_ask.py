"""One SELECT that a person typed, asked of PostgreSQL in a way in which it can only read.

Three things hold it back, each on its own:

- It is declared as a cursor. PostgreSQL takes nothing there but a SELECT, VALUES or WITH that does
  not write: no COMMIT, SET, DO, CALL or COPY, which a transaction that only reads would let through
  (COPY … TO PROGRAM runs a command on the server's machine).
- It goes by the extended protocol, which refuses a second statement behind the first.
- The transaction is read only, and its snapshot is taken before: from then on neither SET nor
  set_config() makes it one that writes, also not from within a function.

What this cannot stop is a function that acts elsewhere, where the role may call such: dblink, a
function in an untrusted language, pg_terminate_backend on sessions of the same role, or a lock on
an advisory key until this session ends. Only a role with fewer rights stops that.

A question that takes too long is ended: by the server, and by the client too, since the question
itself may change the server's mind with set_config().
"""

from collections.abc import Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any

import asyncpg

from perdure.base.errors import StoreError
from perdure.store.postgres_link import Server, Session, UnreachableStoreError

ANSWER_S = 300.0  # the longest that one page of rows may take
_GRACE_S = 5.0  # before the client does what the server should have done
_PAGE_ROWS = 200

_READ_ONLY = "only SELECT is allowed: the store is open for reading"
_WORDS = ("select", "with", "values", "table")  # that a question can begin with
_REFUSED = (asyncpg.ReadOnlySQLTransactionError, asyncpg.InvalidCursorDefinitionError)
_PLAIN = (bool, int, float, str, bytes, Decimal, date, time, timedelta)


class SlowQueryError(StoreError):
    """The question took too long."""


class Question:
    """One SELECT and its rows, over a session of its own.

    Every method may raise StoreError: itself for SQL that is wrong or would write.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._answer_s = ANSWER_S
        self._session: Session | None = None
        self._next: asyncpg.prepared_stmt.PreparedStatement | None = None

    async def ask(self, sql: str) -> list[str]:
        """Begin; returns the names of the columns."""
        if "\0" in sql:
            raise StoreError("PostgreSQL says: a text holds no NUL character")
        self._session = await self._server.connect()
        connection, limit_s = self._session.connection, self._answer_s + _GRACE_S
        try:
            await connection.execute(
                "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY;"
                f" SET LOCAL statement_timeout = {round(self._answer_s * 1000)};"
                " SELECT 1",  # the snapshot
                timeout=limit_s,
            )
            await connection.fetch(f"DECLARE question NO SCROLL CURSOR FOR {sql}", timeout=limit_s)
            fetch = f"FETCH {_PAGE_ROWS} FROM question"
            self._next = await connection.prepare(fetch, name="", timeout=limit_s)
        except Exception as error:
            raise self._error(error, sql) from error
        return [column.name for column in self._next.get_attributes()]

    async def rows(self) -> list[tuple[Any, ...]]:
        """Some more rows; none at the end."""
        assert self._next is not None
        try:
            found = await self._next.fetch(timeout=self._answer_s + _GRACE_S)
        except Exception as error:
            raise self._error(error, "select") from error
        return [tuple(map(_plain, row.values())) for row in found]

    def close(self) -> None:
        """Ask no more."""
        if self._session is not None:
            self._session.drop()

    def _error(self, error: Exception, sql: str) -> StoreError:
        if isinstance(error, asyncpg.QueryCanceledError | TimeoutError):
            return SlowQueryError(f"the query took longer than {self._answer_s:g} s and was ended")
        if isinstance(error, asyncpg.PostgresConnectionError | asyncpg.OperatorInterventionError):
            return UnreachableStoreError(f"{self._server.label}: {error}")
        if isinstance(error, asyncpg.PostgresError):
            return StoreError(_READ_ONLY if _writes(error, sql) else f"PostgreSQL says: {error}")
        if isinstance(error, OSError | asyncpg.InterfaceError | asyncpg.InternalClientError):
            return UnreachableStoreError(f"{self._server.label} did not answer: {error}")
        if isinstance(error, UnicodeEncodeError):
            return StoreError("the SQL is not valid UTF-8")
        raise error


def _writes(error: asyncpg.PostgresError, sql: str) -> bool:
    """Whether it was refused for what it is, and not for a mistake in it."""
    if isinstance(
        error, asyncpg.ReadOnlySQLTransactionError | asyncpg.InvalidCursorDefinitionError
    ):
        return True
    if any(words in str(error) for words in ("data-modifying", "multiple commands")):
        return True  # a server that speaks another language says it in its own words
    is_question = sql.lstrip("( \t\r\n").lower().startswith(_WORDS)
    return isinstance(error, asyncpg.PostgresSyntaxError) and not is_question


def _plain(value: Any) -> Any:
    """Values of types that nobody else knows, such as ranges and UUIDs, as text."""
    if value is None or isinstance(value, _PLAIN):
        return value
    if isinstance(value, asyncpg.Record | Mapping):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return str(value)
