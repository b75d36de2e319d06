"""Every registry keeps the contract."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from perdure.store.memory_registry import MemoryRegistry
from perdure.store.registry import Registry
from perdure.testing import VirtualClock
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
