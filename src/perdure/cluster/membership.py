"""Membership: how a process comes to own shards, keeps them, and is rid of them.

**States**

- *joining*: no member yet, or a member that has not seen the map yet. Owns nothing.
- *active*: renews its lease, owns what the map says, and should own what `assignment.targets` says.
- *draining*: should own nothing, and gives away what it has; then it leaves. (Who was asked to by
  the registry, which everybody sees, stays *active*: it is no target any more, so it gives away all
  that it has, and stays a member that owns nothing, also when it is fenced and joins anew.)
- *fenced*: was taken out. Everything was thrown away at once; it joins anew, as if just started.
- *left*: for good.

**The lease.** A member renews it every third of `lease_ttl_s`. For others it ends when the
database's clock says so. For the member itself it ends earlier: it counts by its own monotonic
clock, from *before* the renewal was sent, and stops a tenth of the time short, by which the rates
of two clocks may differ. The database began to count at the sending or later. So when a lease is
over for others it has been over for its member. Only answers of turns that wrote nothing rest on
it. Commits rest on the fence alone: however wrong clocks are, two owners never both commit.

**A dead process need not be waited for** when its peers find nobody at its address *and* the
database has no session of it. Why that is proof: the operating system of a process that ended
closes its sessions, and nothing answers any more. If the process lives, its store learns that the
session ended before it can go on by another, and calls `connection_lost`: the lease is void at
once, and only a renewal that was sent after that makes another; such a renewal has a session that
others see. What is left is a session that ended at the database's end alone, while the news of it
is under way or lost: then the process is not at its address any more for its peers *and* holds a
lease for at most `lease_ttl_s`. It may then answer a read, once too late; it commits nothing.

**Three moves, and no other**

1. *Take over*: whoever sees that a member is dead (lease over, or as above) gives its shards to
   those who should have them. Any number may try; the registry lets one win.
2. *Hand over*: an owner gives away what should be another's: close, give, forget; see `handover`.
3. *Orphans*: shards without an owner are given away by whoever sees them.

Everybody computes the same targets from the same members, and a member that comes or goes changes
the target of those shards only that it gets or had. So nothing waits for membership to be quiet: a
member that comes and dies costs its own shards two moves. Waiting would make each of many short
pauses of a deploy longer, and spare moves only where several come at once, when they own little.

**Failures**

- *The process stops for a while* (SIGSTOP, a long pause): others take its shards. When it goes on,
  the first renewal or commit says FencedError. A read that was ready is held back, since the lease
  is over by its own clock.
- *The database is away*: answers go on until the lease is over, then they stop; nothing moves. When
  it is back, whoever is first sees every lease over. It takes nobody out before it has held a lease
  itself for `lease_ttl_s`: by then the others have renewed theirs.
- *The database's clock jumps*: a lease counts as over only if by this process' clock, too, as much
  time has passed as was left when it was last seen.
- *A call is applied, but its answer is lost*: a renewal, a departure or a take-over does no harm a
  second time, and the next view tells. A hand-over is repeated until it is answered. A join leaves
  a member behind that nobody is; it is at our address, so we know it to be dead, and say so.
- *A late error*: a commit of our former life fails after we joined anew. We cannot know, so we fall
  once more: before joining anew we leave what we were.
- *The database is set back* (a replica took over that had not got everything): all sessions ended,
  so everybody renews at once, and gets an answer that is older than what it knew when it asked.
  That is a fall, too: what is in memory may be newer than the store. What fences and leases had
  promised went with what the database lost: until all have asked, which takes a round trip, two may
  commit, and only the versions of states tell them apart.
- *Somebody mentions a newer map*: a hint to look, never a fact. What is ours we take from the
  registry only.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

from perdure.base.clock import Clock
from perdure.base.errors import FencedError, OtherClusterError, StoreError
from perdure.base.ids import jittered, random_below
from perdure.cluster.handover import HandOvers
from perdure.cluster.shard_map import ShardMap
from perdure.cluster.standing import Owner, Standing, State
from perdure.cluster.takeover import TakeOvers
from perdure.cluster.waits import Wake, answered
from perdure.store.registry import NOBODY, Registry

log = logging.getLogger("perdure.cluster")

_RETRY_S = 0.05  # the first pause after a failure; each later one is twice as long
_HINT_S = 0.01  # hints that come within about this time cost one look together
_START_TTLS = 2.0  # leases that a start waits for its shards: the dead before it have one to live


class Membership:
    """The membership of this process, from its start to its end."""

    def __init__(
        self,
        registry: Registry,
        owner: Owner,
        clock: Clock,
        *,
        name: str,
        address: str,
        release: str,
        lease_ttl_s: float,
        key_fingerprint: str = "",
    ) -> None:
        self._registry = registry
        self._clock = clock
        self._name = name
        self._address = address
        self._release = release
        self._ttl_s = lease_ttl_s
        self._key_fingerprint = key_fingerprint
        self._standing = standing = Standing(owner, clock, lease_ttl_s)
        self._takeovers = TakeOvers(
            standing, registry, clock, lease_ttl_s=lease_ttl_s, look=self._hint
        )
        self._handovers = HandOvers(
            standing,
            registry,
            clock,
            lease_ttl_s=lease_ttl_s,
            gone=self._takeovers.gone,
            fall=self.fenced,
        )
        self._wake = Wake(clock)
        self._hinted = False
        self._former = NOBODY  # what we fell from
        self._without_lease_s = 0.0  # since when, while it drains
        self._tasks: list[asyncio.Task[None]] = []

    # -- what others look at ---------------------------------------------------------------------

    @property
    def state(self) -> State:
        """See the module."""
        return self._standing.state

    @property
    def incarnation(self) -> int:
        """The number of this membership; NOBODY while it is none."""
        return self._standing.incarnation

    @property
    def lease_until_s(self) -> float:
        """Until when, by the monotonic clock, answers may leave that rest on ownership alone."""
        return self._standing.lease_until_s

    @property
    def map(self) -> ShardMap:
        """Who owns what, as last seen."""
        return self._standing.map

    @property
    def is_settled(self) -> bool:
        """True when this member owns all that it should, and nothing else."""
        return self._standing.is_settled

    # -- life ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Join, and wait for the shards that should be this member's, for a bounded time.

        Raises StoreError if the registry cannot be reached; OtherClusterError if members use
        another key, and go on living longer than those of a cluster that just died would.
        """
        end_s = self._clock.monotonic_s() + _START_TTLS * self._ttl_s
        while True:
            try:
                await self._join()
                break
            except OtherClusterError:
                if self._clock.monotonic_s() >= end_s:
                    raise
            await self._clock.sleep(jittered(self._ttl_s / 10))
        await self._renew()
        for name, work in {
            "lease": self._keep_lease(),
            "take-over": self._takeovers.run(),
            "hand-over": self._handovers.run(),
        }.items():
            task = asyncio.create_task(work, name=f"perdure-{name}")
            task.add_done_callback(_report)
            self._tasks.append(task)
        limit_s = self._clock.monotonic_s() + _START_TTLS * self._ttl_s
        await self._wait_until(lambda: self.is_settled, limit_s)

    async def drain(self, deadline_s: float) -> None:
        """Give everything away, or what can be until `deadline_s` on the monotonic clock; leave."""
        if self._standing.incarnation != NOBODY:
            self._standing.state = "draining"
            self._wake.set()
            self._without_lease_s = self._clock.monotonic_s()
            await self._wait_until(self._has_nothing_to_give, deadline_s)
        await self.leave()

    async def leave(self) -> None:
        """Be no member any more; shards that are left wait for the next who looks."""
        incarnation = self._standing.incarnation
        self._standing.leave()
        await self.stop()
        if incarnation != NOBODY:
            try:
                await answered(self._registry.leave(incarnation), self._ttl_s)
            except StoreError as error:  # then the lease runs out
                log.warning("could not leave", extra={"error": str(error)})

    async def stop(self) -> None:
        """End without a word, as a crash would: the others wait for the end of the lease."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    # -- what others tell it ---------------------------------------------------------------------

    def peer_died(self, incarnation: int) -> None:
        """The link to a member closed, and nobody is at its address any more: connecting was
        refused, or another incarnation answers there."""
        self._takeovers.seen_dead(incarnation)

    def behind(self, version: int) -> None:
        """Somebody has mentioned this version of the map."""
        if version > self.map.version:
            self._hint()

    def connection_lost(self) -> None:
        """The store has lost its session at the database; or is about to close it, and then calls
        this before."""
        self._standing.session_lost()
        self._wake.set()

    def fenced(self, error: Exception) -> None:
        """The database has refused a commit of this member, since it is none any more."""
        if self._standing.incarnation != NOBODY:
            self._fall(error)
            self._wake.set()

    # -- joining and renewing --------------------------------------------------------------------

    async def _keep_lease(self) -> None:
        """Renew in time, look when there is a reason, and join anew after a fall."""
        failures = 0
        pause_s = self._pause_s()
        while True:
            await self._wake.wait(pause_s)
            try:
                if self._standing.incarnation == NOBODY:
                    if self._standing.state == "draining":
                        return  # it is about to leave anyway
                    await self._join()
                await self._renew()
            except StoreError as error:
                failures += 1
                pause_s = jittered(min(_RETRY_S * 2 ** min(failures, 10), self._ttl_s / 6))
                log.warning("lease not renewed", extra={"error": str(error)})
            else:
                failures = 0
                pause_s = self._pause_s()

    def _fall(self, error: Exception) -> None:
        self._former = self._standing.incarnation
        log.error("fenced", extra={"incarnation": self._former, "error": str(error)})
        self._standing.fall(error)

    async def _join(self) -> None:
        if self._former != NOBODY:
            await answered(self._registry.leave(self._former), self._ttl_s)
            self._former = NOBODY
        call = self._registry.join(
            self._name, self._address, self._release, self._ttl_s, self._key_fingerprint
        )
        self._standing.joined(await answered(call, self._ttl_s))

    async def _renew(self) -> None:
        standing = self._standing
        self._hinted = False
        asked = standing.asks()
        call = self._registry.renew(
            asked.incarnation,
            self._ttl_s,
            "draining" if standing.state == "draining" or standing.is_to_drain else "active",
            standing.map.version,
        )
        try:
            view = await answered(call, self._ttl_s)
            standing.renewed(asked, view)
        except FencedError as error:
            if standing.incarnation == asked.incarnation:
                self._fall(error)
            raise
        for member in view.members:
            if member.address == self._address and member.incarnation != standing.incarnation:
                self._takeovers.seen_dead(member.incarnation)  # we are there, so it is not

    def _pause_s(self) -> float:
        """Until the next renewal: a third of a lease, not in step with others; less if a lease of
        another will be over sooner."""
        third_s = self._ttl_s / 3 * (0.9 + random_below(0.1))
        return min(third_s, self._standing.next_end_s() + _HINT_S + random_below(_HINT_S))

    def _hint(self) -> None:
        """Look soon; not at once, since many get the same hint and each gets it from many."""
        if not self._hinted:
            self._hinted = True
            self._clock.call_later(jittered(_HINT_S), self._wake.set)

    # -- waiting ---------------------------------------------------------------------------------

    def _has_nothing_to_give(self) -> bool:
        """True when all is given away, or nobody is there to take what is left, or the database
        has not let us renew for so long that the others need not be given anything."""
        standing = self._standing
        now_s = self._clock.monotonic_s()
        if standing.holds_lease:
            self._without_lease_s = now_s
        elif now_s - self._without_lease_s >= self._ttl_s:
            return True
        if not standing.held:
            return True
        own = standing.map.members.get(standing.incarnation)
        gone = self._takeovers.gone()
        others_know = own is not None and own.state == "draining"
        return others_know and not any(
            one.state == "active" and one.incarnation not in gone for one in standing.members
        )

    async def _wait_until(self, is_so: Callable[[], bool], deadline_s: float) -> None:
        wake = Wake(self._clock)
        self._standing.listeners.append(wake.set)
        try:
            while not is_so() and (left_s := deadline_s - self._clock.monotonic_s()) > 0:
                await wake.wait(min(left_s, self._ttl_s / 6))
        finally:
            with suppress(ValueError):
                self._standing.listeners.remove(wake.set)


def _report(task: asyncio.Task[None]) -> None:
    """None of the tasks ends by itself but through a mistake in the code."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("membership stands still", exc_info=error)
