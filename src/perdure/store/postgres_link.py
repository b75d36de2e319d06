"""Connections to PostgreSQL that come and go, and what is said when there is none.

A `Server` knows where the database is and whether it answers; a `Session` is one connection to it.
Nothing of a session matters once it is gone: no settings, no locks, no listening. So it works
behind a pooler that gives each transaction another connection, such as PgBouncer.

Statements are prepared under a name made from their text: whoever else has used the name on that
connection has prepared the same. A pooler may lose them all the same. As soon as there is a sign of
one, every statement goes without a name, within BEGIN and COMMIT, for only a transaction stays on
one connection from the preparation to the answer. That costs three more round trips.
"""

import asyncio
import hashlib
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import asyncpg

from perdure.base.clock import Clock
from perdure.base.errors import StoreError, StoreFullError
from perdure.base.ids import jittered

COMMIT_S = 10.0  # the longest a commit may take, with all tries and questions
CONNECT_S = 5.0  # the longest a connection may take to come about
_BACKOFF_S = 0.05  # after the first failure; each later one doubles it
_BACKOFF_MAX_S = 2.0
_STATEMENTS_MAX = 500  # that one session keeps prepared
_IDLE_IN_TRANSACTION_MS = 10_000  # then the server lets go of the locks of a client that froze
_NAME_DIGITS = 32

# The plan of a commit does not depend on its rows, and planning anew would cost more than running.
_SETTINGS = {"plan_cache_mode": "force_generic_plan"}
NAME = "perdure"


class LostError(Exception):
    """The connection broke, or did not answer in time: what became of the statement is unknown."""


class UnreachableStoreError(StoreError):
    """There is no connection just now, and nothing was sent."""

    may_pass = True  # it may be cured by waiting; a wrong password is not


class Server:
    """One database, named by its URL; all sessions of a store share what is known of it."""

    def __init__(self, url: str, clock: Clock) -> None:
        self._url = url
        self._clock = clock
        self.label = _label(url)
        self.pooled = False  # nothing can be counted on between two transactions
        self._failures = 0
        self._retry_at_s = 0.0
        self.away_since_s: float | None = None

    async def connect(self, timeout_s: float = CONNECT_S, name: str = NAME) -> "Session":
        """A new session. Raises UnreachableStoreError, at once if it was tried a moment ago.

        Args:
            name: what the server knows the session by.
        """
        if (wait_s := self.retry_in_s()) > 0:
            raise UnreachableStoreError(
                f"{self.label} does not answer; it is tried again in {wait_s:.2f} s"
            )
        try:
            connection = await self._connect(min(timeout_s, CONNECT_S), name)
        except _NOT_CONNECTED as error:
            failure = self._failed(_why(error))
            failure.may_pass = _may_pass(error)
            raise failure from error
        self._failures, self.away_since_s = 0, None
        return Session(connection, self)

    async def connect_by(self, deadline_s: float) -> "Session":
        """A new session, tried again and again until then. Raises UnreachableStoreError.

        It waits for a database that went away until a commit that was begun then would have to end;
        after that it says at once that there is none.
        """
        while True:
            now_s = self._clock.monotonic_s()
            try:
                return await self.connect(max(deadline_s - now_s, 0.1))
            except UnreachableStoreError:
                now_s, away_s = self._clock.monotonic_s(), self.away_since_s
                end_s = deadline_s if away_s is None else min(deadline_s, away_s + COMMIT_S)
                wait_s = max(self.retry_in_s(), 0.0) + 0.001
                if now_s + wait_s > end_s:
                    raise
                await self._clock.sleep(wait_s)

    def retry_in_s(self) -> float:
        """How long no new connection will be tried; not above 0: it would be."""
        return self._retry_at_s - self._clock.monotonic_s()

    async def _connect(self, timeout_s: float, name: str) -> asyncpg.Connection:
        named = {"application_name": name}
        if not self.pooled:
            try:
                connection = await self._open(timeout_s, named | _SETTINGS)
            except asyncpg.ProtocolViolationError:
                self.pooled = True  # PgBouncer: it takes no settings that it does not know
            else:
                await self._look_for_a_pooler(connection, timeout_s)
                return connection
        return await self._open(timeout_s, named)

    async def _look_for_a_pooler(self, connection: asyncpg.Connection, timeout_s: float) -> None:
        """One that takes all settings still cannot tell clients the number of a server's process,
        for that changes. Asked without a prepared statement, which would be more round trips."""
        number = connection.get_server_pid()
        try:
            said = await connection.execute(
                f"SELECT WHERE pg_backend_pid() = {number}", timeout=timeout_s
            )
        except BaseException:
            connection.terminate()
            raise
        self.pooled = said != "SELECT 1"

    async def _open(self, timeout_s: float, settings: dict[str, str]) -> asyncpg.Connection:
        return await asyncpg.connect(
            self._url,
            timeout=timeout_s,
            statement_cache_size=0,  # its names count up, and would meet others' behind a pooler
            server_settings=settings,
        )

    def _failed(self, why: str) -> UnreachableStoreError:
        now_s = self._clock.monotonic_s()
        if self.away_since_s is None:
            self.away_since_s = now_s
        backoff_s = min(_BACKOFF_S * 2.0**self._failures, _BACKOFF_MAX_S)
        self._failures = min(self._failures + 1, 16)
        self._retry_at_s = now_s + jittered(backoff_s)
        return UnreachableStoreError(f"{self.label} cannot be reached: {why}")

    def error(self, error: Exception) -> StoreError:
        """The named error for what PostgreSQL, or the driver, reported."""
        if isinstance(error, asyncpg.DiskFullError):
            return StoreFullError(f"no space left at {self.label}; free some, writes then resume")
        if isinstance(error, asyncpg.UndefinedTableError):
            return StoreError(f"{self.label} was not opened with this class: {error}")
        return StoreError(f"{self.label}: {error or type(error).__name__}")


class Session:
    """One connection. After LostError it is of no use, and closed."""

    def __init__(self, connection: asyncpg.Connection, server: Server) -> None:
        self.connection = connection
        self._server = server
        self._prepared: dict[str, asyncpg.prepared_stmt.PreparedStatement] = {}

    @property
    def is_usable(self) -> bool:
        """False once the connection has broken."""
        return not self.connection.is_closed()

    def on_end(self, told: Callable[[], None]) -> None:
        """Call `told` when the connection has ended, whoever ended it."""
        self.connection.add_termination_listener(lambda _connection: told())

    def drop(self) -> None:
        """Cut the connection, without a word and without waiting."""
        self.connection.terminate()

    async def run(self, sql: str, arguments: Sequence[Any], timeout_s: float) -> list[Any]:
        """One statement that is a transaction of its own; returns its rows.

        Raises LostError, StoreError for what cannot be sent, or asyncpg.PostgresError: then nothing
        of it was done.
        """
        if self._server.pooled:
            async with self.transaction(timeout_s):
                return await self.step(sql, arguments, timeout_s)
        with _translated(self):
            try:
                statement = self._prepared.get(sql) or await self._prepare(sql, timeout_s)
                rows: list[Any] = await statement.fetch(*arguments, timeout=timeout_s)
                return rows
            except (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError):
                self._server.pooled = True  # another connection stands behind this one now
        return await self.run(sql, arguments, timeout_s)

    async def step(self, sql: str, arguments: Sequence[Any], timeout_s: float) -> list[Any]:
        """One statement within a transaction. Raises as `run` does; then the transaction fails."""
        with _translated(self):
            rows: list[Any] = await self.connection.fetch(sql, *arguments, timeout=timeout_s)
            return rows

    async def step_again(self, sql: str, arguments: Sequence[Any], timeout_s: float) -> list[Any]:
        """The same for a statement that comes many times within transactions: it stays prepared,
        unless there is a pooler."""
        if self._server.pooled:
            return await self.step(sql, arguments, timeout_s)
        with _translated(self):
            statement = self._prepared.get(sql) or await self._prepare(sql, timeout_s)
            rows: list[Any] = await statement.fetch(*arguments, timeout=timeout_s)
            return rows

    async def execute(self, sql: str, timeout_s: float) -> None:
        """Statements without values. Raises as `run` does."""
        with _translated(self):
            await self.connection.execute(sql, timeout=timeout_s)

    @asynccontextmanager
    async def transaction(self, timeout_s: float) -> AsyncIterator[None]:
        """BEGIN, and at the end COMMIT, or ROLLBACK after an error."""
        await self.execute(
            "BEGIN ISOLATION LEVEL READ COMMITTED;"
            f" SET LOCAL idle_in_transaction_session_timeout = {_IDLE_IN_TRANSACTION_MS}",
            timeout_s,
        )
        try:
            yield
        except LostError:
            raise
        except Exception:
            await self.execute("ROLLBACK", timeout_s)
            raise
        except BaseException:
            self.drop()
            raise
        await self.execute("COMMIT", timeout_s)

    async def _prepare(self, sql: str, timeout_s: float) -> Any:
        name = "perdure_" + hashlib.sha256(sql.encode()).hexdigest()[:_NAME_DIGITS]
        if len(self._prepared) >= _STATEMENTS_MAX:
            del self._prepared[next(iter(self._prepared))]
        made = await self.connection.prepare(sql, name=name, timeout=timeout_s)
        self._prepared[sql] = made
        return made


class _translated:
    """Tells a broken connection, and values that cannot be sent, from an answer of the server."""

    __slots__ = ("_session",)

    def __init__(self, session: Session) -> None:
        self._session = session

    def __enter__(self) -> None: ...

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is None:
            return
        if isinstance(error, asyncpg.InterfaceError) and isinstance(error, ValueError):
            raise StoreError(f"a value cannot be stored: {error}") from error
        if isinstance(error, _LOST) and not isinstance(error, asyncpg.QueryCanceledError):
            self._session.drop()
            raise LostError(str(error) or type(error).__name__) from error
        if isinstance(error, asyncio.CancelledError):
            self._session.drop()  # an answer is under way that nobody waits for


_LOST = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,  # the server shuts down, or has been told to end this one
    asyncpg.ReadOnlySQLTransactionError,  # this one is no primary any more
    asyncpg.IdleInTransactionSessionTimeoutError,
)


_NOT_CONNECTED = (
    OSError,
    TimeoutError,
    ValueError,
    asyncpg.InterfaceError,
    asyncpg.PostgresError,
    asyncpg.TargetServerAttributeNotMatched,  # several servers, and no primary among them
)
_PASSING = ("08", "53", "57P")  # SQLSTATE: connections, resources, and a server that comes or goes


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, asyncpg.PostgresError):
        if isinstance(error, asyncpg.ProtocolViolationError):  # all that PgBouncer ever says
            return "server_login_retry" in str(error)  # that its server is away
        return str(error.sqlstate).startswith(_PASSING)
    if isinstance(error, asyncpg.TargetServerAttributeNotMatched):
        return True
    is_refusal_of_tls = isinstance(error, ssl.SSLError) or "rejected SSL" in str(error)
    return isinstance(error, OSError) and not is_refusal_of_tls


def _why(error: BaseException) -> str:
    if isinstance(error, TimeoutError) and not error.errno:
        return f"no answer within {CONNECT_S:g} s"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"  # each event loop puts it in other words
    return str(error) or type(error).__name__


def _label(url: str) -> str:
    """Host and database, for errors; never the password."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2] or "the local socket"
    return f"PostgreSQL at {host}{parts.path.rstrip('/')}"
