"""The cluster as a source of backends."""

import pytest

from perdure.balance.sources import Found
from perdure.balance.sources_store import StoreSource
from perdure.base.errors import SourceError, StoreError
from perdure.base.limits import Limits
from perdure.base.shards import SHARDS
from perdure.store.memory_registry import MemoryRegistry
from perdure.store.registry import NOBODY, Door
from perdure.testing import VirtualClock, async_test

TTL_S = Limits().door_ttl_s
A, B = "10.0.0.1:8000", "10.0.0.2:8000"


class Database(MemoryRegistry):
    """A registry that may be away."""

    is_away = False

    async def doors(self) -> list[Door]:
        if self.is_away:
            raise StoreError("away")
        return await super().doors()


class Cluster:
    """Cells, and a source that reads them."""

    def __init__(self, cells: int = 1) -> None:
        self.clock = VirtualClock()
        self.cells = [Database(self.clock) for _ in range(cells)]
        self.source = StoreSource(self.cells, self.clock, with_owners=True)

    async def announce(
        self, address: str, name: str, *, draining: bool = False, ttl_s: float = TTL_S
    ) -> None:
        for cell in self.cells:
            if not cell.is_away:
                state = "draining" if draining else "active"
                await cell.announce(Door(address, name, "1.0", state), ttl_s)

    async def own(self, cell: int, name: str, shards: range) -> int:
        registry = self.cells[cell]
        member = await registry.join(name, "tcp:h:1", "1.0", 3600.0, "key")
        await registry.take_over(NOBODY, dict.fromkeys(shards, member), seen_dead=False)
        return member

    async def read(self) -> Found:
        found = await self.source.read()
        assert found is not None
        return found

    async def names(self) -> list[str]:
        return [target.name for target in (await self.read()).targets]


@async_test
async def test_each_address_is_one_backend_whatever_stands_behind_it() -> None:
    cluster = Cluster()
    for name in ("m1/web-1", "m1/web-2"):
        await cluster.announce(A, name)
    await cluster.announce("[::1]:8000", "m2/web-1")
    found = await cluster.read()
    assert [(one.name, one.host) for one in found.targets] == [
        (A, "10.0.0.1"),
        ("[::1]:8000", "::1"),
    ]
    assert found.draining == frozenset()


@async_test
async def test_an_address_drains_when_all_behind_it_do() -> None:
    cluster = Cluster()
    await cluster.announce(A, "m1/web-1", draining=True)
    await cluster.announce(A, "m1/web-2")
    assert (await cluster.read()).draining == frozenset()
    await cluster.announce(A, "m1/web-2", draining=True)
    found = await cluster.read()
    assert found.draining == {A}
    assert [target.name for target in found.targets] == [A]


@async_test
async def test_a_door_that_drained_goes_with_its_announcement() -> None:
    cluster = Cluster()
    await cluster.announce(A, "m1/web-1", draining=True)
    await cluster.announce(B, "m2/web-1", ttl_s=3600)
    assert await cluster.names() == [A, B]
    await cluster.cells[0].withdraw(Door(A, "m1/web-1", "1.0"))
    await cluster.clock.advance(0.1)
    assert await cluster.names() == [B]


@async_test
async def test_a_door_that_vanished_is_kept_for_a_while() -> None:
    cluster = Cluster()
    await cluster.announce(A, "m1/web-1", ttl_s=0.1)
    await cluster.announce(B, "m2/web-1", ttl_s=3600)
    assert await cluster.names() == [A, B]
    await cluster.clock.advance(TTL_S - 0.1)
    assert await cluster.names() == [A, B]
    await cluster.clock.advance(0.2)
    assert await cluster.names() == [B]


@async_test
async def test_the_last_doors_stay_while_the_database_is_away_and_when_it_comes_back_empty() -> (
    None
):
    cluster = Cluster()
    await cluster.announce(A, "m1/web-1")
    await cluster.announce(B, "m2/web-1")
    assert await cluster.names() == [A, B]
    cluster.cells[0].is_away = True
    await cluster.clock.advance(100)
    with pytest.raises(SourceError, match="away"):
        await cluster.source.read()
    cluster.cells[0].is_away = False  # nobody could announce meanwhile
    assert await cluster.names() == [A, B]


@async_test
async def test_a_cluster_without_a_door_is_no_source() -> None:
    with pytest.raises(SourceError, match="announced"):
        await Cluster().source.read()


@async_test
async def test_of_several_cells_one_is_enough() -> None:
    cluster = Cluster(2)
    cluster.cells[0].is_away = True
    await cluster.announce(A, "m1/web-1")
    assert await cluster.names() == [A]
    cluster.cells[0].is_away = False
    assert await cluster.names() == [A]


@async_test
async def test_what_one_cell_has_heard_of_draining_counts() -> None:
    cluster = Cluster(2)
    await cluster.announce(A, "m1/web-1")
    await cluster.cells[1].announce(Door(A, "m1/web-1", "1.0", "draining"), TTL_S)
    assert (await cluster.read()).draining == {A}


# -- who owns what -----------------------------------------------------------------------------


@async_test
async def test_a_shard_goes_to_the_door_on_its_owners_machine_or_to_none() -> None:
    cluster = Cluster()
    await cluster.announce(A, "m1/web-1")
    await cluster.announce(B, "m2/web-1")
    await cluster.own(0, "m1/state-1", range(1000))
    await cluster.own(0, "m2/state-1", range(1000, 2000))
    await cluster.own(0, "m3/state-1", range(2000, 3000))  # a machine that serves no requests
    owners = (await cluster.read()).owners
    assert owners == (A,) * 1000 + (B,) * 1000 + (None,) * (SHARDS - 2000)


@async_test
async def test_the_map_follows_its_changes() -> None:
    cluster = Cluster()
    await cluster.announce(A, "m1/web-1")
    await cluster.announce(B, "m2/web-1")
    first = await cluster.own(0, "m1/state-1", range(SHARDS))
    assert (await cluster.read()).owners == (A,) * SHARDS
    second = await cluster.own(0, "m2/state-1", range(0))
    await cluster.cells[0].hand_over(first, dict.fromkeys(range(10), second), 10**9)
    assert (await cluster.read()).owners == (B,) * 10 + (A,) * (SHARDS - 10)
    await cluster.cells[0].leave(first)
    assert (await cluster.read()).owners == (B,) * 10 + (None,) * (SHARDS - 10)


@async_test
async def test_a_door_that_serves_comes_before_one_that_drains() -> None:
    cluster = Cluster()
    await cluster.own(0, "m1/state-1", range(SHARDS))
    await cluster.announce(A, "m1/web-1", draining=True)
    assert (await cluster.read()).owners == (A,) * SHARDS
    await cluster.announce(B, "m1/web-2")
    assert (await cluster.read()).owners == (B,) * SHARDS


@async_test
async def test_each_cell_says_who_owns_its_own_shards() -> None:
    cluster = Cluster(2)
    await cluster.announce(A, "m1/web-1")
    await cluster.announce(B, "m2/web-1")
    await cluster.own(0, "m1/state-1", range(SHARDS))
    await cluster.own(1, "m2/state-2", range(SHARDS))
    assert (await cluster.read()).owners == (A, B) * (SHARDS // 2)
