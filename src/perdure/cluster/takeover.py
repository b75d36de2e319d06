"""Taking dead members out, and giving away the shards that nobody owns.

Any member may try at any time, on as old a view as it has: the registry checks the grounds once
more, in the transaction, and lets one win.
"""

import logging
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet

from perdure.base.clock import Clock
from perdure.base.errors import StoreError
from perdure.base.shards import SHARDS
from perdure.cluster.assignment import heirs
from perdure.cluster.standing import Standing
from perdure.cluster.waits import Wake, answered
from perdure.store.registry import NOBODY, Registry

log = logging.getLogger("perdure.cluster")

_AGAIN_S = 0.05  # between attempts on a member that was seen dead


class TakeOvers:
    """One task that does so for one member."""

    def __init__(
        self,
        standing: Standing,
        registry: Registry,
        clock: Clock,
        *,
        lease_ttl_s: float,
        look: Callable[[], None],
    ) -> None:
        self._standing = standing
        self._registry = registry
        self._clock = clock
        self._ttl_s = lease_ttl_s
        self._look = look  # asks for a renewal, and so for a view
        self._seen_dead: dict[int, float] = {}  # by incarnation: until when that is believed
        self._wake = Wake(clock)
        standing.listeners.append(self._wake.set)

    def seen_dead(self, incarnation: int) -> None:
        """A member's process is gone, as far as the machine at its address knows.

        The database may still see a session of it, for as long as its system takes to close one. So
        it is tried again and again, until the lease would be over anyway.
        """
        if incarnation not in self._seen_dead:
            self._seen_dead[incarnation] = self._clock.monotonic_s() + self._ttl_s
            self._wake.set()

    def gone(self) -> AbstractSet[int]:
        """The members that nothing should be given to."""
        return self._standing.overdue() | self._seen_dead.keys()

    async def run(self) -> None:
        """Take over what is to be taken over, for ever."""
        while True:
            await self._wake.wait(_AGAIN_S if self._seen_dead else None)
            try:
                await self._take_over_all()
            except StoreError as error:
                log.warning("take-over failed", extra={"error": str(error)})
                self._look()

    async def _take_over_all(self) -> None:
        """Try each victim once; what comes of it wakes this task again."""
        standing = self._standing
        self._forget_seen_dead()
        victims = dict.fromkeys(standing.overdue(), False) | dict.fromkeys(self._seen_dead, True)
        for victim, seen_dead in victims.items():
            if standing.incarnation != NOBODY and victim in standing.map.members:
                await self._take_over(victim, seen_dead=seen_dead)
        if standing.incarnation != NOBODY and NOBODY in standing.map.owners:
            await self._take_over(NOBODY, seen_dead=False)

    async def _take_over(self, victim: int, *, seen_dead: bool) -> None:
        wanted = self._heirs(victim)
        if victim == NOBODY and NOBODY in wanted.values():
            return  # there is no active member; whoever comes next does it
        call = self._registry.take_over(victim, wanted, seen_dead=seen_dead)
        view = await answered(call, self._ttl_s)
        if view is None:
            if not seen_dead:
                self._look()  # it has renewed its lease after all, or another was quicker
            return
        level = logging.INFO if victim == NOBODY else logging.WARNING  # at the first start it is
        log.log(level, "shards taken over", extra={"victim": victim, "seen_dead": seen_dead})
        self._standing.saw(view)

    def _heirs(self, victim: int) -> Mapping[int, int]:
        """Who should get each shard, if the victim has it: it may have got more since we looked."""
        standing = self._standing
        gone = self.gone()
        alive = [one for one in standing.members if one.incarnation not in gone]
        if victim == NOBODY:
            return heirs(alive, standing.map.shards_of(NOBODY))
        return heirs(alive, range(SHARDS))

    def _forget_seen_dead(self) -> None:
        """Drop those who are no members any more, or may be alive after all."""
        now_s, members = self._clock.monotonic_s(), self._standing.map.members
        self._seen_dead = {
            one: until_s
            for one, until_s in self._seen_dead.items()
            if one in members and until_s > now_s
        }
