"""The cluster's own database as a source: its web processes announce their doors there.

    perdure run ── announces its HTTP address every second ──► registry ◄── read twice a second

Invariants:
- While the database is away, or has lost the announcements meanwhile, the doors known last stay: a
  door that is no more shows in checks of health and failed connections, sooner than here.
- A door that was seen draining goes with its announcement; one that vanishes otherwise is kept for
  as long as an announcement counts, and the last ones for good.
"""

from collections.abc import Mapping, Sequence

import msgspec

from perdure.balance.backends import Target
from perdure.balance.sources import Found, target_of
from perdure.base.clock import Clock
from perdure.base.errors import SourceError, StoreError
from perdure.base.limits import Limits
from perdure.base.shards import SHARDS
from perdure.cluster import shard_map
from perdure.cluster.shard_map import ShardMap
from perdure.store.registry import Door, Registry

_LOOK_EVERY_S = 0.5


class _Seen(msgspec.Struct):
    """An address, as it was announced last."""

    target: Target
    machines: frozenset[str]
    is_draining: bool
    at_s: float


class StoreSource:
    """The doors in the registries of all cells of a cluster."""

    every_s = _LOOK_EVERY_S

    def __init__(
        self, registries: Sequence[Registry], clock: Clock, *, with_owners: bool = False
    ) -> None:
        """A source that has not been read.

        Args:
            registries: of all cells, in their order, not opened.
            with_owners: read too who owns which shard.
        """
        self._cells = [_Cell(registry) for registry in registries]
        self._clock = clock
        self._with_owners = with_owners
        self._kept_s = Limits().door_ttl_s
        self._seen: dict[str, _Seen] = {}

    async def read(self) -> Found | None:
        doors: list[Door] = []
        troubles: list[str] = []
        for cell in self._cells:
            try:
                doors += await cell.read(with_owners=self._with_owners)
            except StoreError as error:
                troubles.append(str(error))
        if len(troubles) == len(self._cells):
            raise SourceError(troubles[0])
        self._take(doors)
        if not self._seen:
            raise SourceError("no process of the cluster has announced where it answers HTTP")
        seen = self._seen.values()
        return Found(
            tuple(one.target for one in seen),
            frozenset(one.target.name for one in seen if one.is_draining),
            self._owners() if self._with_owners else None,
        )

    async def close(self) -> None:
        for cell in self._cells:
            await cell.close()

    def _take(self, doors: Sequence[Door]) -> None:
        now_s = self._clock.monotonic_s()
        for address, its in _by_address(doors).items():
            try:
                target = target_of(address)
            except SourceError:  # of a newer release; this one could not send there
                continue
            machines = frozenset(machine_of(door.name) for door in its)
            is_draining = all(door.state == "draining" for door in its)
            self._seen[address] = _Seen(target, machines, is_draining, now_s)
        if not any(seen.at_s == now_s for seen in self._seen.values()):
            return
        for address, seen in list(self._seen.items()):
            kept_s = 0 if seen.is_draining else self._kept_s
            if now_s - seen.at_s > kept_s:
                del self._seen[address]

    def _owners(self) -> tuple[str | None, ...]:
        maps = [cell.map for cell in self._cells]
        homes: dict[str, str] = {}
        # of several doors on one machine the first that serves, and one that drains if there is no
        # other: it still answers
        for one in sorted(self._seen.values(), key=lambda one: (one.is_draining, one.target.name)):
            for machine in one.machines:
                homes.setdefault(machine, one.target.name)
        return owners_of(maps, homes)


class _Cell:
    """One registry, opened when it can be."""

    def __init__(self, registry: Registry) -> None:
        self.map: ShardMap = shard_map.EMPTY
        self._registry = registry
        self._is_open = False

    async def read(self, *, with_owners: bool) -> list[Door]:
        """Its doors; raises StoreError."""
        registry = self._registry
        if not self._is_open:
            try:
                await registry.open(make_tables=False)
            except BaseException:
                await registry.close()
                raise
            self._is_open = True
        if with_owners:
            self.map = self.map.followed_by(await registry.view(self.map.version))
        return await registry.doors()

    async def close(self) -> None:
        if self._is_open:
            await self._registry.close()


def machine_of(name: str) -> str:
    """The machine in the name of a member or a door: they are told to be `MACHINE/PROCESS`."""
    return name.partition("/")[0]


def owners_of(maps: Sequence[ShardMap], homes: Mapping[str, str]) -> tuple[str | None, ...]:
    """For each shard the door on the machine of its owner, or None.

    Args:
        maps: of each cell, in their order.
        homes: the door of each machine.
    """
    doors: list[Mapping[int, str | None]] = [
        {number: homes.get(machine_of(member.name)) for number, member in one.members.items()}
        for one in maps
    ]
    count = len(maps)
    return tuple(
        doors[shard % count].get(maps[shard % count].owners[shard]) for shard in range(SHARDS)
    )


def _by_address(doors: Sequence[Door]) -> Mapping[str, list[Door]]:
    """All doors of each address. What one cell has heard of draining, all have."""
    named: dict[tuple[str, str], Door] = {}
    for door in doors:
        key = (door.address, door.name)
        if key not in named or door.state == "draining":
            named[key] = door
    found: dict[str, list[Door]] = {}
    for door in named.values():
        found.setdefault(door.address, []).append(door)
    return found
