"""Cells that a process looks into from outside: all of them for a web process, all but its own for
an owner.

A cell is a whole cluster on a database of its own. Nothing that makes ownership safe reaches
beyond it, and so neither does what rests on one commit: there are no transactions and no unique
fields across cells. What crosses is a call, under a name of its own, and so done once.
"""

import asyncio
from collections.abc import Collection, Mapping

from perdure.actor.host import Watcher
from perdure.actor.methods import ActorType
from perdure.base.clock import Clock
from perdure.base.errors import DefinitionError, StoreError
from perdure.base.limits import Limits
from perdure.base.shards import Cell, cell_of
from perdure.cluster.network import Network
from perdure.runtime.forwarder import Forwarder
from perdure.runtime.lookout import Lookout
from perdure.runtime.place import Place
from perdure.store.api import Query, StoredActor
from perdure.store.registry import Registry


class Cells:
    """The cells that are elsewhere, for one process.

    Args:
        registries: of each of them, by its number; None: see `Lookout`.
        count: of all there are, with the one that may be here.
    """

    def __init__(
        self,
        registries: Mapping[int, Registry | None],
        count: int,
        place: Place,
        clock: Clock,
        limits: Limits,
        *,
        network: Network | None = None,
    ) -> None:
        self.count = count
        self._lookouts = {
            number: Lookout(registry, Cell(number, count), place, clock, limits, network=network)
            for number, registry in registries.items()
        }
        self.forwarders = [one.station.forwarder for one in self._lookouts.values()]
        self._clock = clock

    @property
    def links(self) -> int:
        """How many links to other processes are open."""
        return sum(1 for one in self._lookouts.values() for _ in one.station.links.open_links())

    async def start(self) -> list[StoreError]:
        """Begin to look; returns what is in the way of seeing some of them, which may pass."""
        starts = [one.start() for one in self._lookouts.values()]
        return [trouble for trouble in await asyncio.gather(*starts) if trouble is not None]

    async def close(self) -> None:
        """Look no more, and close all links in order."""
        await asyncio.gather(*(one.close() for one in self._lookouts.values()))

    def to(self, key: str) -> Forwarder:
        """The way to actors with this key, which live in one of these cells."""
        return self._lookouts[cell_of(key, self.count)].station.forwarder

    def watch(self, actor_type: ActorType, key: str, watcher: Watcher, *, on: bool) -> None:
        """Tell `watcher` of every commit of this actor; or stop."""
        watches = self._lookouts[cell_of(key, self.count)].station.watches
        watches.watch(actor_type, key, watcher, on=on)

    async def ask(self, query: Query, deadline_s: float) -> list[list[StoredActor]]:
        """What is found in each; see `Forwarder.ask`."""
        return await asyncio.gather(*(one.ask(query, deadline_s) for one in self.forwarders))

    def alone_for_s(self) -> float:
        """How long there has been no link into any of them."""
        return min((one.station.alone_for_s() for one in self._lookouts.values()), default=0.0)

    async def wait_idle(self, end_s: float) -> None:
        """Wait until nothing waits for an answer, for a bounded time."""
        while self._clock.monotonic_s() < end_s:
            if all(one.is_idle for one in self.forwarders):
                return
            await self._clock.sleep(0.01)


def refuse_unique(actor_types: Collection[ActorType], count: int) -> None:
    """Raise DefinitionError for a unique field where there are several cells: each database sees
    to its own actors only."""
    if count == 1:
        return
    for actor_type in actor_types:
        for index in actor_type.schema.indexes:
            if index.unique:
                raise DefinitionError(
                    f"{actor_type.actor_class.__name__}.{index.name} is unique, and {count} "
                    "databases cannot see to that together; make it the key of an actor instead"
                )
