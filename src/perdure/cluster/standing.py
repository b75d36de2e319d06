"""What one process is in the cluster at this moment, and what it makes its node do about it.

No waiting here and no database: views, losses and errors come in, and the node is told which shards
became its own and which are so no longer. The rules behind it are written up in `membership`.

Invariants: the version of the map never falls within one incarnation. A shard is held between
`gained` and `lost` or `lose_all`, and only as long as this incarnation stands. What is being given
away is neither gained nor lost until the registry has answered.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Literal, NamedTuple, Protocol

from perdure.base.clock import Clock
from perdure.base.errors import FencedError
from perdure.cluster.assignment import share_of
from perdure.cluster.reach import lease_ends_s
from perdure.cluster.shard_map import EMPTY, ShardMap
from perdure.store.registry import NOBODY, Member, View

State = Literal["joining", "active", "draining", "fenced", "left"]

_MARGIN = 0.1  # of the lease: by so much the rates of two clocks may differ


class Owner(Protocol):
    """The node, as the one that has the actors of some shards in memory."""

    async def close_shards(self, shards: AbstractSet[int]) -> AbstractSet[int]:
        """Admit no more turns to these shards, and wait until none runs and all is durable.

        Returns those that have come so far within a time that callers can bear; the others are
        open again.
        """
        ...

    def reopen(self, shards: AbstractSet[int]) -> None:
        """Admit turns to these closed shards again: they have not been given away."""
        ...

    def lost(self, shards: AbstractSet[int]) -> None:
        """Throw away the activations of these shards, closed or not; call no more of them."""
        ...

    def gained(self, shards: AbstractSet[int]) -> None:
        """Take calls for these shards: what is in the store is all there is."""
        ...

    def lose_all(self, error: Exception) -> None:
        """Throw away every activation, closed shards and all; their callers get the error."""
        ...

    def stand_on(self, incarnation: int) -> None:
        """Commit in the name of this incarnation from now on."""
        ...

    def map_changed(self, shard_map: ShardMap) -> None:
        """There is another map: newer, unless the database was set back."""
        ...

    def saw_leases(self, ends_s: Mapping[int, float]) -> None:
        """When the leases of members end, by the clock of this process."""
        ...


class Asked(NamedTuple):
    """As what, and when, a renewal left this process."""

    incarnation: int
    sent_at_s: float
    sessions_lost: int
    version: int  # of the map that was known then


class Standing:
    """Incarnation, lease, map and shards of this process."""

    def __init__(self, owner: Owner, clock: Clock, lease_ttl_s: float) -> None:
        self.owner = owner
        self.state: State = "joining"
        self.incarnation = NOBODY
        self.lease_until_s = -math.inf
        self.map: ShardMap = EMPTY
        self.giving: frozenset[int] = frozenset()
        self.is_to_drain = False  # for good: whoever asked, asked this process
        self.listeners: list[Callable[[], None]] = []  # called after everything that changed
        self._clock = clock
        self._ttl_s = lease_ttl_s
        self._held: set[int] = set()
        self._mine_of = (self.map.owners, NOBODY, frozenset[int]())  # and what was theirs
        self._ends_s: dict[int, float] = {}  # when leases of others end, by this clock
        self._lease_since_s = math.inf
        self._sessions_lost = 0

    # -- what happens ----------------------------------------------------------------------------

    def joined(self, incarnation: int) -> None:
        """The registry has made this process a member; the map that it knew goes with the fall."""
        self.incarnation = incarnation
        self.state = "joining"
        self.map = EMPTY
        self.owner.stand_on(incarnation)

    def asks(self) -> Asked:
        """A renewal is about to leave."""
        now_s = self._clock.monotonic_s()
        return Asked(self.incarnation, now_s, self._sessions_lost, self.map.version)

    def renewed(self, asked: Asked, view: View) -> None:
        """The registry has answered a renewal.

        The lease is measured from its sending, since the database may have begun to count as early.
        A renewal that left before the session was lost says nothing about the session after it.

        Raises FencedError when the answer is older than what the registry had said before: then
        the database has been set back, and what this process has in memory may be newer.
        """
        if asked.incarnation != self.incarnation:
            return
        if view.version < asked.version:
            raise FencedError("the database has lost the newest of what it had: it was set back")
        if self.state == "joining":
            self.state = "active"
        if asked.sessions_lost == self._sessions_lost:
            if asked.sent_at_s >= self.lease_until_s:
                self._lease_since_s = asked.sent_at_s
            self.lease_until_s = asked.sent_at_s + self._ttl_s * (1 - _MARGIN)
        ends_s = lease_ends_s(view, asked.sent_at_s)
        self._ends_s = {
            one.incarnation: ends_s.get(
                one.incarnation, self._ends_s.get(one.incarnation, -math.inf)
            )
            for one in view.members
        }
        self.owner.saw_leases(ends_s)
        self.saw(view)

    def saw(self, view: View) -> None:
        """The registry has shown who is there and who owns what."""
        before = self.map
        self.map = before.followed_by(view)
        own = self.map.members.get(self.incarnation)
        if own is not None and own.state == "draining":
            self.is_to_drain = True
        self._settle()
        if self.map.version != before.version:
            self.owner.map_changed(self.map)
        self._tell()

    def gave(self, shards: AbstractSet[int], view: View) -> None:
        """The registry has answered that it gave these shards away, but for those whose heir is no
        member.

        All of them are thrown away even so, and even if the map says they are ours: it may be
        newer than the answer, and the shards have been another's and come back.
        """
        self._held -= shards
        self.owner.lost(shards)
        self.giving = frozenset()
        self.saw(view)

    def session_lost(self) -> None:
        """The database has no session of this process any more: the lease is void."""
        self._sessions_lost += 1
        self.lease_until_s = -math.inf

    def fall(self, error: Exception) -> None:
        """The fence is gone: nothing is ours any more, and nothing we know of it is true."""
        if self.state != "draining":
            self.state = "fenced"
        self._stand_down()
        self.owner.lose_all(error)
        self._tell()

    def leave(self) -> None:
        """Be no member, by this process' own will; called before the registry hears of it."""
        held = self._held
        self.state = "left"
        self._stand_down()
        if held:
            self.owner.lost(held)
        self._tell()

    # -- what follows from it --------------------------------------------------------------------

    @property
    def holds_lease(self) -> bool:
        """True while answers may leave that rest on nothing but ownership."""
        return self._clock.monotonic_s() < self.lease_until_s

    @property
    def held(self) -> AbstractSet[int]:
        """The shards that the node has been told to be its own."""
        return self._held

    @property
    def is_settled(self) -> bool:
        """True when it holds all that it should."""
        share = share_of(self.incarnation, self.members)
        return self._held >= share and self._held == self._mine()

    @property
    def members(self) -> Iterable[Member]:
        """All members, as of the map."""
        return self.map.members.values()

    def overdue(self) -> frozenset[int]:
        """The members whose lease is over, and who had a fair chance to renew it.

        The database's clock has said so. That alone is not enough: it may have jumped, or was
        silent for so long that all leases ran out, and who comes back first must not take all. So
        this clock has to agree with what was left when we saw the lease last, and we ourselves must
        have held a lease without a gap for as long as one lasts.
        """
        now_s = self._clock.monotonic_s()
        if now_s < self._lease_since_s + self._ttl_s or not self.holds_lease:
            return frozenset()
        return frozenset(
            one.incarnation
            for one in self.members
            if one.lease_left_ms < 0 and self._ends_s.get(one.incarnation, math.inf) <= now_s
        )

    def next_end_s(self) -> float:
        """How long until the first lease of another ends that has not ended yet."""
        now_s = self._clock.monotonic_s()
        ends_s = (
            end_s - now_s
            for one, end_s in self._ends_s.items()
            if end_s > now_s and one != self.incarnation
        )
        return min(ends_s, default=math.inf)

    def _settle(self) -> None:
        """Tell the node what it holds no longer, and then what it holds now."""
        if self.incarnation == NOBODY:
            return
        mine = self._mine()
        if mine == self._held:
            return
        lost = self._held - mine - self.giving
        gained = mine - self._held
        self._held = (self._held - lost) | gained
        if lost:
            self.owner.lost(lost)
        if gained:
            self.owner.gained(gained)

    def _mine(self) -> frozenset[int]:
        """What the map says is ours: asked after each renewal, and seldom of other owners."""
        asked = (self.map.owners, self.incarnation)
        if self._mine_of[0] is not asked[0] or self._mine_of[1] != asked[1]:
            self._mine_of = (*asked, self.map.shards_of(self.incarnation))
        return self._mine_of[2]

    def _stand_down(self) -> None:
        self.incarnation = NOBODY
        self.lease_until_s = -math.inf
        self._lease_since_s = math.inf
        self._held = set()
        self.giving = frozenset()

    def _tell(self) -> None:
        for listener in list(self.listeners):
            listener()
