"""Being the only one on a PostgreSQL database, for work that bears no other owner of actors.

`SoleMember` joins the cluster of the database with a key that nobody else has. So it is refused
while any process has a lease; what is left of dead ones is taken out, and their commits are fenced;
and whoever starts meanwhile is refused in turn, until it leaves or its lease runs out. Every commit
must rest on its fence, as any member's: if it is thought dead all the same, it can do no harm.

Standing alone on row 0 of the fence (see `postgres_chain`) was rejected: a server that starts
meanwhile would join without a word, and end the work in the middle.
"""

import asyncio
import os
import socket
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import version

from perdure.base.clock import Clock
from perdure.base.errors import FencedError, OtherClusterError, StoreError, StoreLockedError
from perdure.base.ids import new_id
from perdure.base.shards import Cell
from perdure.store.api import ActorSchema
from perdure.store.postgres import PostgresStore
from perdure.store.postgres_link import CONNECT_S, LostError, Server
from perdure.store.postgres_registry import PostgresRegistry

LEASE_S = 15.0  # what is cut off keeps servers from starting for so long
_RENEW_S = LEASE_S / 5

# A process that is no member, such as a store opened by hand. Behind a pooler it may not be seen;
# joining fences it.
_OTHERS = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    " AND (application_name = 'perdure' OR starts_with(application_name, 'perdure:'))"
    " AND pid <> pg_backend_pid()"
)


class SoleMember:
    """The only member of a database. Every method may raise StoreError."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._registry = PostgresRegistry(server)
        self._is_open = False
        self.incarnation = 0

    async def join(self, cell: Cell | None = None) -> None:
        """Become it; raises StoreLockedError while others are there, OtherClusterError if the
        database is not the cell that is named."""
        await self._refuse_others()
        await self._registry.open()
        self._is_open = True
        if cell is not None:
            await self._registry.claim(cell)
        name = f"{socket.gethostname()}/{os.getpid()}"
        try:
            joined = await self._registry.join(name, "", version("perdure"), LEASE_S, new_id())
        except OtherClusterError as error:
            raise self._locked() from error
        self.incarnation = joined
        self._registry.stand_on(joined)

    async def renew(self) -> None:
        """Be it for another `LEASE_S`; raises FencedError when it was taken out."""
        await self._registry.renew(self.incarnation, LEASE_S, "active", 0)

    async def leave(self) -> None:
        """Be it no longer; never raises, since the lease ends by itself."""
        if not self._is_open:
            return
        with suppress(StoreError):
            if self.incarnation:
                await self._registry.leave(self.incarnation)
        await self._registry.close()

    async def _refuse_others(self) -> None:
        session = await self._server.connect()
        try:
            [[others]] = await session.run(_OTHERS, (), CONNECT_S)
        except LostError as error:
            raise self._server.error(error) from error
        finally:
            session.drop()
        if others:
            raise self._locked()

    def _locked(self) -> StoreLockedError:
        return StoreLockedError(
            f"{self._server.label} is used by running processes, or was until a few seconds ago:"
            " stop them first"
        )


class SolePostgresStore(PostgresStore):
    """A store that nobody else can have open; `open` raises StoreLockedError while somebody has."""

    def __init__(self, url: str, clock: Clock | None = None) -> None:
        super().__init__(url, clock)
        self._member = SoleMember(self._server)
        self._renewals: asyncio.Task[None] | None = None

    async def open(self, schemas: Iterable[ActorSchema]) -> None:
        await self._member.join()
        try:
            await super().open(schemas)
        except BaseException:
            await self._member.leave()
            raise
        self.stand_on(self._member.incarnation)
        self._renewals = asyncio.create_task(self._renew())

    async def close(self) -> None:
        if self._renewals is not None:
            self._renewals.cancel()
        await super().close()
        await self._member.leave()

    async def _renew(self) -> None:
        while True:
            await self._clock.sleep(_RENEW_S)
            try:
                await self._member.renew()
            except FencedError:
                return  # the next commit says so
            except StoreError:
                continue  # the database is away: it may be back before the lease ends
