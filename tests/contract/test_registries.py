"""Every registry keeps the contract."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from perdure.base.clock import SystemClock
from perdure.store.memory_registry import MemoryRegistry
from perdure.store.postgres_link import Server
from perdure.store.postgres_registry import PostgresRegistry
from perdure.store.registry import Registry
from perdure.testing import VirtualClock
from perdure.testing.postgres import fresh_database
from perdure.testing.registry_contract import RegistryContract


class MemoryPlace:
    """One registry for all, its clock, and who is connected."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.connections: set[int] = set()
        self.registry = MemoryRegistry(self.clock, self.connections.__contains__)


class TestMemoryRegistry(RegistryContract):
    @asynccontextmanager
    async def place(self) -> AsyncIterator[MemoryPlace]:
        yield MemoryPlace()

    def make_registry(self, place: MemoryPlace) -> Registry:
        return place.registry

    async def let_pass(self, place: MemoryPlace, seconds: float) -> None:
        await place.clock.advance(seconds)

    @asynccontextmanager
    async def connected(self, place: MemoryPlace, incarnation: int) -> AsyncIterator[None]:
        place.connections.add(incarnation)
        yield
        place.connections.remove(incarnation)

    async def is_fenced(self, place: MemoryPlace, incarnation: int) -> bool:
        return place.registry.is_fenced(incarnation)


class TestPostgresRegistry(RegistryContract):
    @asynccontextmanager
    async def place(self) -> AsyncIterator[str]:
        yield fresh_database()

    def make_registry(self, place: str) -> Registry:
        return PostgresRegistry(Server(place, SystemClock()))

    async def let_pass(self, place: str, seconds: float) -> None:
        await asyncio.sleep(seconds)

    @asynccontextmanager
    async def connected(self, place: str, incarnation: int) -> AsyncIterator[None]:
        settings = {"application_name": f"perdure:{incarnation}"}
        connection = await asyncpg.connect(place, server_settings=settings)
        try:
            yield
        finally:
            await connection.close()

    async def is_fenced(self, place: str, incarnation: int) -> bool:
        connection = await asyncpg.connect(place)
        try:
            sql = "SELECT 1 FROM perdure_fence WHERE incarnation = $1"
            return await connection.fetchval(sql, incarnation) is None
        finally:
            await connection.close()
