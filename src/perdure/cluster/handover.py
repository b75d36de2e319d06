"""Handing over shards that should be another's: first close, then give, then forget.

A hand-over that the registry was asked for is asked for again, word for word, until it has
answered: without an answer it may have come about, or may come about yet, and a shard that is
opened again meanwhile would have two owners with a fence. The shards stay closed so long; nothing
could be committed anyway while the database does not answer.
"""

import logging
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet

from perdure.base import points
from perdure.base.clock import Clock
from perdure.base.errors import FencedError, StoreError
from perdure.base.ids import jittered
from perdure.cluster.assignment import share_of, targets
from perdure.cluster.standing import Standing
from perdure.cluster.waits import Wake, answered
from perdure.store.registry import NOBODY, Registry

log = logging.getLogger("perdure.cluster")

_PORTION = 512  # shards that are closed together: the fewer, the shorter the pause for each
_AGAIN_S = 0.1


class HandOvers:
    """One task that does so for one member."""

    def __init__(
        self,
        standing: Standing,
        registry: Registry,
        clock: Clock,
        *,
        lease_ttl_s: float,
        gone: Callable[[], AbstractSet[int]],
        fall: Callable[[Exception], None],
    ) -> None:
        self._standing = standing
        self._registry = registry
        self._ttl_s = lease_ttl_s
        self._gone = gone
        self._fall = fall
        self._busy: set[int] = set()  # could not be closed lately; others come first
        self._wake = Wake(clock)
        standing.listeners.append(self._wake.set)

    async def run(self) -> None:
        """Hand over what is to be handed over, for ever."""
        pause_s: float | None = None
        while True:
            await self._wake.wait(pause_s)
            pause_s = await self._hand_over_some()

    async def _hand_over_some(self) -> float | None:
        """Hand over one portion; returns the seconds until it is worth another try."""
        standing = self._standing
        incarnation = standing.incarnation
        due = self._due()
        if not due or not standing.holds_lease:
            self._busy.clear()
            return None
        portion = self._portion(due.keys())
        closed = await standing.owner.close_shards(portion)
        if standing.incarnation != incarnation:
            return None  # we fell meanwhile, and all is thrown away already
        due = self._due()  # an heir may have died meanwhile
        if not_due := closed - due.keys():
            standing.owner.reopen(not_due)
        given = {shard: due[shard] for shard in closed if shard in due}
        if given:
            points.reach("after_handover_closed")
            await self._give(incarnation, given)
        self._busy = (self._busy | portion) - closed
        return 0 if given else _AGAIN_S

    def _portion(self, due: AbstractSet[int]) -> frozenset[int]:
        """What is closed next: first what was not in vain lately."""
        first = sorted(due - self._busy)[:_PORTION]
        return frozenset(first + sorted(due & self._busy)[: _PORTION - len(first)])

    def _due(self) -> Mapping[int, int]:
        """The heir of each shard that should be another's who is there to take it.

        Shards of a member whose death is not settled yet are not moved on to the next best: if it
        comes back they would have to move twice.
        """
        standing = self._standing
        if standing.state not in ("active", "draining"):
            return {}
        moving = standing.held - share_of(standing.incarnation, standing.members)
        if not moving:
            return {}
        wanted = targets(standing.members)
        absent = self._gone() | {NOBODY}
        return {shard: wanted[shard] for shard in moving if wanted[shard] not in absent}

    async def _give(self, incarnation: int, heirs: Mapping[int, int]) -> None:
        """Give closed shards away, and do not give up before it is known what became of it."""
        standing = self._standing
        standing.giving = frozenset(heirs)
        version = standing.map.version  # what comes to us later, no repetition gives away
        while standing.incarnation == incarnation:
            try:
                view = await answered(
                    self._registry.hand_over(incarnation, heirs, version), self._ttl_s
                )
            except FencedError as error:
                if standing.incarnation == incarnation:
                    self._fall(error)
            except StoreError as error:
                log.warning("hand-over not answered", extra={"error": str(error)})
                await self._wake.wait(jittered(_AGAIN_S))
            else:
                if standing.incarnation == incarnation:
                    standing.gave(heirs.keys(), view)
                return
