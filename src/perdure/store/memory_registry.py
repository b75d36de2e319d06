"""A registry in dicts: for the simulator and for tests, where all processes are in one.

Every method does its work without a pause, so each is one transaction by itself. Nothing in it
waits for commits: a memory store commits without a pause too, and asks `is_fenced` first.
"""

from collections.abc import Callable, Mapping, Sequence
from math import floor
from typing import Literal

import msgspec

from perdure.base.clock import Clock
from perdure.base.shards import SHARDS, Cell
from perdure.store.registry import NOBODY, Door, Member, View, fenced, other_cell, other_cluster


class MemoryRegistry:
    """Keeps what `Registry` promises; `clock` is the one that a database would have.

    Args:
        is_connected: says if the database has a connection from this member, which a store made
            that stands on it. By default it has none.
    """

    def __init__(self, clock: Clock, is_connected: Callable[[int], bool] | None = None) -> None:
        self._clock = clock
        self.session_lost: Callable[[], None] = lambda: None
        self._is_connected = is_connected or (lambda _incarnation: False)
        self._cell: Cell | None = None
        self._last = NOBODY
        self._version = 1
        self._members: dict[int, Member] = {}
        self._lease_until_ms: dict[int, float] = {}
        self._fingerprints: dict[int, str] = {}
        self._asked_to_drain: set[int] = set()
        self._owners = [NOBODY] * SHARDS
        self._since = [0] * SHARDS  # the version with which the owner came
        self._doors: dict[tuple[str, str], tuple[Door, float]] = {}  # with when their time is over

    async def open(self, *, make_tables: bool = True) -> None:
        """Nothing: what is in memory is open."""

    async def claim(self, cell: Cell) -> None:
        if self._cell is None:
            self._cell = cell if self._last == NOBODY else Cell()
        if self._cell != cell:
            raise other_cell(self._cell, cell)

    async def close(self) -> None:
        """Nothing: memberships stay."""

    def is_fenced(self, incarnation: int) -> bool:
        """True if this is no member any more, so that nothing may be committed in its name."""
        return incarnation not in self._members

    async def join(
        self, name: str, address: str, release: str, lease_ttl_s: float, key_fingerprint: str
    ) -> int:
        others = [one for one, its in self._fingerprints.items() if its != key_fingerprint]
        if living := [one for one in others if self._lease_until_ms[one] > self._now_ms()]:
            raise other_cluster(self._members[living[0]].name)
        for one in others:
            self._remove(one, {})
        self._last += 1
        self._fingerprints[self._last] = key_fingerprint
        self._members[self._last] = Member(self._last, name, address, release)
        self._extend(self._last, lease_ttl_s)
        self._version += 1
        return self._last

    def stand_on(self, incarnation: int) -> None:
        """Nothing: whoever made the registry says who is connected."""

    async def renew(
        self,
        incarnation: int,
        lease_ttl_s: float,
        state: Literal["active", "draining"],
        known_version: int,
    ) -> View:
        member = self._members.get(incarnation)
        if member is None:
            raise fenced(incarnation)
        if member.state != state:
            self._members[incarnation] = msgspec.structs.replace(member, state=state)
            self._version += 1
        self._extend(incarnation, lease_ttl_s)
        return self._view(known_version)

    async def view(self, known_version: int) -> View:
        return self._view(known_version)

    async def take_over(
        self, victim: int, heirs: Mapping[int, int], *, seen_dead: bool
    ) -> View | None:
        if victim == NOBODY:
            return self._view() if self._give(NOBODY, heirs) else None
        if victim not in self._members:
            return None
        is_over = self._lease_until_ms[victim] <= self._now_ms()
        if not is_over and (not seen_dead or self._is_connected(victim)):
            return None
        self._remove(victim, heirs)
        return self._view()

    async def hand_over(
        self, incarnation: int, heirs: Mapping[int, int], known_version: int
    ) -> View:
        if incarnation not in self._members:
            raise fenced(incarnation)
        known = {shard: one for shard, one in heirs.items() if self._since[shard] <= known_version}
        self._give(incarnation, known)
        return self._view()

    async def ask_to_drain(self, incarnation: int) -> bool:
        if incarnation not in self._members:
            return False
        if incarnation not in self._asked_to_drain:
            self._asked_to_drain.add(incarnation)
            self._version += 1
        return True

    async def leave(self, incarnation: int) -> None:
        if incarnation in self._members:
            self._remove(incarnation, {})

    async def announce(self, door: Door, ttl_s: float) -> None:
        self._doors[door.address, door.name] = (door, self._now_ms() + ttl_s * 1000)

    async def doors(self) -> list[Door]:
        now_ms = self._now_ms()
        return [door for _, (door, until_ms) in sorted(self._doors.items()) if until_ms > now_ms]

    async def withdraw(self, door: Door) -> None:
        self._doors.pop((door.address, door.name), None)

    # ---------------------------------------------------------------------------------------------

    def _now_ms(self) -> float:
        return self._clock.monotonic_s() * 1000

    def _extend(self, incarnation: int, lease_ttl_s: float) -> None:
        self._lease_until_ms[incarnation] = self._now_ms() + lease_ttl_s * 1000

    def _remove(self, incarnation: int, heirs: Mapping[int, int]) -> None:
        del self._members[incarnation], self._lease_until_ms[incarnation]
        del self._fingerprints[incarnation]
        self._asked_to_drain.discard(incarnation)
        self._give(incarnation, heirs)
        self._version += 1
        for shard, owner in enumerate(self._owners):
            if owner == incarnation:
                self._owners[shard], self._since[shard] = NOBODY, self._version

    def _give(self, owner: int, heirs: Mapping[int, int]) -> bool:
        """Give those shards that are the owner's to heirs that are members; was there any?"""
        given = {
            shard: heir
            for shard, heir in heirs.items()
            if self._owners[shard] == owner and heir in self._members and heir != owner
        }
        self._version += bool(given)
        for shard, heir in given.items():
            self._owners[shard], self._since[shard] = heir, self._version
        return bool(given)

    def _view(self, known_version: int = 0) -> View:
        now_ms = self._now_ms()
        members = [
            msgspec.structs.replace(
                one,
                lease_left_ms=floor(self._lease_until_ms[key] - now_ms),
                state="draining" if key in self._asked_to_drain else one.state,
            )
            for key, one in self._members.items()
        ]
        owners: Sequence[int] | None = None
        if known_version != self._version:
            owners = tuple(self._owners)
        return View(self._version, members, owners)
