"""The registry in PostgreSQL: see `postgres_registry_tables` for how it stays right.

It has two sessions, made when they are needed: one for renewals and looking around, which wait for
nobody, and one for changes, which may wait for each other and for commits. No answer is waited for
longer than a deadline. Whether a change whose answer was lost has been made, the next view tells.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal

import asyncpg

from perdure.base.codec import decoder
from perdure.base.errors import FencedError, StoreError
from perdure.base.shards import Cell
from perdure.store.postgres_link import NAME, LostError, Server, Session
from perdure.store.postgres_registry_tables import (
    ANNOUNCE,
    CELL,
    CLAIM,
    CREATE,
    CREATE_CELL,
    CREATE_DOORS,
    DOORS,
    HAS_DOORS,
    IS_CLAIMED,
    IS_THERE,
    LOCK_SCHEMA,
    LOCK_WAIT_S,
    NO_SESSION,
    OTHER_CLUSTER,
    RENEW,
    VIEW,
    WITHDRAW,
)
from perdure.store.registry import Door, Member, View, fenced, other_cell, other_cluster

LOOK_S = 3.0  # the longest a renewal or a look may take
CHANGE_S = 3 * LOCK_WAIT_S  # the same for changes, with what they may wait for in the server
_UNKNOWN = 0  # a version that never was

_members = decoder(list[Member])


class PostgresRegistry:
    """A `Registry` in the database of a store."""

    def __init__(self, server: Server, confirmed: Callable[[int], int] = lambda _: 0) -> None:
        self._server = server
        self._confirmed = confirmed  # the last commit of an incarnation that was said to be there
        self.session_lost: Callable[[], None] = lambda: None
        self._has_doors = False  # that there is a table for them

    async def open(self, *, make_tables: bool = True) -> None:
        self._looks = _Lane(self._server, LOOK_S, lambda: self.session_lost())
        self._changes = _Lane(self._server, CHANGE_S)
        if make_tables:
            await self._changes.create_tables()
            return
        [[is_there]] = await self._looks.run(IS_THERE)
        if not is_there:
            raise StoreError(f"{self._server.label}: no cluster has ever run on this database")

    async def claim(self, cell: Cell) -> None:
        found = await self._changes.claim(cell)
        if found != cell:
            raise other_cell(found, cell)

    async def close(self) -> None:
        self._looks.close()
        self._changes.close()

    async def join(
        self, name: str, address: str, release: str, lease_ttl_s: float, key_fingerprint: str
    ) -> int:
        sql = "SELECT perdure_join($1, $2, $3, $4, $5)"
        arguments = (name, address, release, lease_ttl_s, key_fingerprint)
        try:
            [[incarnation]] = await self._changes.run(sql, *arguments)
        except StoreError as error:
            if getattr(error.__cause__, "sqlstate", None) == OTHER_CLUSTER:
                raise other_cluster(str(error.__cause__)) from None
            raise
        assert isinstance(incarnation, int)
        if self._server.pooled:
            await self._changes.run(NO_SESSION, incarnation)
        return incarnation

    def stand_on(self, incarnation: int) -> None:
        # renewals go by a session of this name, so while it renews the database has one
        self._looks.rename(f"{NAME}:{incarnation}")

    async def renew(
        self,
        incarnation: int,
        lease_ttl_s: float,
        state: Literal["active", "draining"],
        known_version: int,
    ) -> View:
        arguments = (known_version, incarnation, state, lease_ttl_s)
        confirmed = self._confirmed(incarnation)  # before asking: there may be more by the answer
        [row] = await self._looks.run(RENEW, *arguments)
        if row[4] is not None and row[4] < confirmed:
            raise FencedError(
                f"{self._server.label} has forgotten commits that it confirmed: it was set back"
            )
        if row[3]:
            return _view(row)
        sql = "SELECT perdure_set_state($1, $2, $3)"  # it has another state, or is no member
        if not await self._is_true(sql, incarnation, state, lease_ttl_s):
            raise fenced(incarnation)
        return await self.view(known_version)

    async def view(self, known_version: int) -> View:
        [row] = await self._looks.run(VIEW, known_version)
        return _view(row)

    async def take_over(
        self, victim: int, heirs: Mapping[int, int], *, seen_dead: bool
    ) -> View | None:
        sql = "SELECT perdure_take_over($1, $2, $3, $4)"
        if not await self._is_true(sql, victim, seen_dead, list(heirs), list(heirs.values())):
            return None
        return await self.view(_UNKNOWN)

    async def hand_over(
        self, incarnation: int, heirs: Mapping[int, int], known_version: int
    ) -> View:
        sql = "SELECT perdure_hand_over($1, $2, $3, $4)"
        arguments = (incarnation, list(heirs), list(heirs.values()), known_version)
        if not await self._is_true(sql, *arguments):
            raise fenced(incarnation)
        return await self.view(_UNKNOWN)

    async def ask_to_drain(self, incarnation: int) -> bool:
        return await self._is_true("SELECT perdure_ask_to_drain($1)", incarnation)

    async def leave(self, incarnation: int) -> None:
        await self._changes.run("SELECT perdure_leave($1)", incarnation)

    async def announce(self, door: Door, ttl_s: float) -> None:
        if not await self._sees_doors():
            await self._changes.create_doors()
        arguments = (door.address, door.name, door.release, door.state, ttl_s)
        await self._looks.run(ANNOUNCE, *arguments)

    async def doors(self) -> list[Door]:
        if not await self._sees_doors():
            return []
        return [Door(*row) for row in await self._looks.run(DOORS)]

    async def withdraw(self, door: Door) -> None:
        if await self._sees_doors():
            await self._looks.run(WITHDRAW, door.address, door.name)

    async def _sees_doors(self) -> bool:
        if not self._has_doors:
            [[self._has_doors]] = await self._looks.run(HAS_DOORS)
        return self._has_doors

    async def _is_true(self, sql: str, *arguments: Any) -> bool:
        [[answer]] = await self._changes.run(sql, *arguments)
        return bool(answer)


def _view(row: Any) -> View:
    version, members, owners, *_ = row
    return View(version, _members.decode(members), owners)


class _Lane:
    """One session for one statement at a time. Every method may raise StoreError."""

    def __init__(
        self, server: Server, answer_s: float, session_lost: Callable[[], None] | None = None
    ) -> None:
        self._server = server
        self._answer_s = answer_s
        self._session_lost = session_lost
        self._name = NAME
        self._session: Session | None = None
        self._turn = asyncio.Lock()

    def rename(self, name: str) -> None:
        """Be known to the server by this name from the next statement on."""
        self._name = name
        self.close()

    def close(self) -> None:
        """Cut the connection."""
        if self._session is not None:
            self._session.drop()
            self._session = None

    async def run(self, sql: str, *arguments: Any) -> Sequence[Any]:
        """The rows of one statement."""
        async with self._in_turn() as session:
            return await session.run(sql, arguments, self._answer_s)

    async def create_tables(self) -> None:
        """Make the registry's tables and functions if they are not there."""
        async with self._in_turn() as session, session.transaction(self._answer_s):
            [[is_there]] = await session.step(IS_THERE, (), self._answer_s)
            if is_there:  # then without the lock, which somebody may hold who makes large indexes
                return
            await session.execute(LOCK_SCHEMA, self._answer_s)
            [[is_there]] = await session.step(IS_THERE, (), self._answer_s)
            if not is_there:
                await session.execute(CREATE, self._answer_s)

    async def claim(self, cell: Cell) -> Cell:
        """Let the database be this cell if it is none yet; returns which it is."""
        async with self._in_turn() as session:
            [[is_there]] = await session.run(IS_CLAIMED, (), self._answer_s)
            if not is_there:
                async with session.transaction(self._answer_s):
                    await session.execute(LOCK_SCHEMA, self._answer_s)
                    await session.execute(CREATE_CELL, self._answer_s)
                    await session.step(CLAIM, (cell.number, cell.count), self._answer_s)
            [[number, count]] = await session.run(CELL, (), self._answer_s)
            return Cell(number, count)

    async def create_doors(self) -> None:
        """Make the table of doors if it is not there."""
        async with self._in_turn() as session, session.transaction(self._answer_s):
            await session.execute(LOCK_SCHEMA, self._answer_s)
            await session.execute(CREATE_DOORS, self._answer_s)

    @asynccontextmanager
    async def _in_turn(self) -> AsyncIterator[Session]:
        try:
            async with asyncio.timeout(self._answer_s), self._turn:
                if self._session is None or not self._session.is_usable:
                    self._session = await self._server.connect(self._answer_s, self._name)
                    if self._session_lost is not None:
                        self._session.on_end(self._session_lost)
                yield self._session
        except TimeoutError as error:
            raise StoreError(
                f"{self._server.label} did not answer within {self._answer_s:g} s"
            ) from error
        except LostError as error:
            raise StoreError(f"{self._server.label}: the connection was lost: {error}") from error
        except asyncpg.PostgresError as error:
            raise self._server.error(error) from error
