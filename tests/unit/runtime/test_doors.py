"""A process tells where it answers HTTP."""

from perdure.base.errors import StoreError
from perdure.runtime.doors import Doors
from perdure.store.memory_registry import MemoryRegistry
from perdure.store.registry import Door
from perdure.testing import VirtualClock, async_test

DOOR = Door("10.0.0.1:8000", "shop-1/web-1.a", "1.0")
TTL_S = 3.0


class Away(MemoryRegistry):
    """A registry whose database may be away."""

    is_away = True

    async def open(self, *, make_tables: bool = True) -> None:
        if self.is_away:
            raise StoreError("away")

    async def announce(self, door: Door, ttl_s: float) -> None:
        if self.is_away:
            raise StoreError("away")
        await super().announce(door, ttl_s)


class Process:
    """One whose readiness a test sets."""

    def __init__(self, *registries: MemoryRegistry, clock: VirtualClock, door: Door = DOOR) -> None:
        self.is_ready = True
        self.clock = clock
        self.doors = Doors(registries, door, clock, ttl_s=TTL_S, is_ready=lambda: self.is_ready)
        self.doors.start()

    async def pass_s(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.05)):
            await self.clock.advance(0.05)


@async_test
async def test_a_door_stays_announced_and_is_withdrawn_at_the_end() -> None:
    clock = VirtualClock()
    registry = MemoryRegistry(clock)
    process = Process(registry, clock=clock)
    await process.pass_s(4 * TTL_S)
    assert await registry.doors() == [DOOR]
    await process.doors.close()
    assert await registry.doors() == []


@async_test
async def test_a_door_drains_as_soon_as_readiness_says_no_and_can_come_back() -> None:
    clock = VirtualClock()
    registry = MemoryRegistry(clock)
    process = Process(registry, clock=clock)
    await process.pass_s(0.1)
    process.is_ready = False
    await process.pass_s(0.1)
    assert [door.state for door in await registry.doors()] == ["draining"]
    process.is_ready = True
    await process.pass_s(0.1)
    assert [door.state for door in await registry.doors()] == ["active"]
    await process.doors.close()


@async_test
async def test_a_process_that_leaves_does_not_withdraw_what_its_successor_announced() -> None:
    clock = VirtualClock()
    registry = MemoryRegistry(clock)
    successor_door = Door(DOOR.address, "shop-1/web-1.b", "1.1")
    process = Process(registry, clock=clock)
    successor = Process(registry, clock=clock, door=successor_door)
    await process.pass_s(0.1)
    assert await registry.doors() == [DOOR, successor_door]
    await process.doors.close()
    assert await registry.doors() == [successor_door]
    await successor.doors.close()


@async_test
async def test_a_database_that_is_away_holds_up_no_other_and_hears_of_it_later() -> None:
    clock = VirtualClock()
    away, here = Away(clock), MemoryRegistry(clock)
    process = Process(away, here, clock=clock)
    await process.pass_s(2 * TTL_S)
    assert await here.doors() == [DOOR]
    away.is_away = False
    await process.pass_s(TTL_S)
    assert await away.doors() == [DOOR]
    away.is_away = True
    await process.pass_s(TTL_S)
    assert await away.doors() == []
    assert await here.doors() == [DOOR]
    await process.doors.close()
