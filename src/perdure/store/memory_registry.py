"""A registry in dicts: for the simulator and for tests, where all processes are in one.

Every method does its work without a pause, so each is one transaction by itself. Nothing in it
waits for commits: a memory store commits without a pause too, and asks `is_fenced` first.
"""

from collections.abc import Callable, Mapping, Sequence
from math import floor
from typing import Literal

import msgspec

from perdure.base.clock import Clock
from perdure.base.shards import SHARDS
from perdure.store.registry import NOBODY, Member, View, fenced


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
        self._last = NOBODY
        self._version = 1
        self._members: dict[int, Member] = {}
        self._lease_until_ms: dict[int, float] = {}
        self._owners = [NOBODY] * SHARDS

    async def open(self) -> None:
        """Nothing: what is in memory is open."""

    async def close(self) -> None:
        """Nothing: memberships stay."""

    def is_fenced(self, incarnation: int) -> bool:
        """True if this is no member any more, so that nothing may be committed in its name."""
        return incarnation not in self._members

    async def join(self, name: str, address: str, release: str, lease_ttl_s: float) -> int:
        self._last += 1
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

    async def hand_over(self, incarnation: int, heirs: Mapping[int, int]) -> View:
        if incarnation not in self._members:
            raise fenced(incarnation)
        self._give(incarnation, heirs)
        return self._view()

    async def leave(self, incarnation: int) -> None:
        if incarnation in self._members:
            self._remove(incarnation, {})

    # ---------------------------------------------------------------------------------------------

    def _now_ms(self) -> float:
        return self._clock.monotonic_s() * 1000

    def _extend(self, incarnation: int, lease_ttl_s: float) -> None:
        self._lease_until_ms[incarnation] = self._now_ms() + lease_ttl_s * 1000

    def _remove(self, incarnation: int, heirs: Mapping[int, int]) -> None:
        del self._members[incarnation], self._lease_until_ms[incarnation]
        self._give(incarnation, heirs)
        self._owners = [NOBODY if one == incarnation else one for one in self._owners]
        self._version += 1

    def _give(self, owner: int, heirs: Mapping[int, int]) -> bool:
        """Give those shards that are the owner's to heirs that are members; was there any?"""
        given = {
            shard: heir
            for shard, heir in heirs.items()
            if self._owners[shard] == owner and heir in self._members and heir != owner
        }
        for shard, heir in given.items():
            self._owners[shard] = heir
        self._version += bool(given)
        return bool(given)

    def _view(self, known_version: int = 0) -> View:
        now_ms = self._now_ms()
        members = [
            msgspec.structs.replace(one, lease_left_ms=floor(self._lease_until_ms[key] - now_ms))
            for key, one in self._members.items()
        ]
        owners: Sequence[int] | None = None
        if known_version != self._version:
            owners = tuple(self._owners)
        return View(self._version, members, owners)
