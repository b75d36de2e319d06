"""Several members in one event loop, with faults.

Each process has its own view of the registry, and its own clock, which rings late while the process
is frozen.
"""

import asyncio
import functools
from collections import Counter

from perdure.base.clock import Handle
from perdure.base.errors import StoreError
from perdure.base.shards import SHARDS
from perdure.cluster.membership import Membership
from perdure.store.memory_registry import MemoryRegistry
from perdure.store.registry import NOBODY
from perdure.testing.clock import VirtualClock

TTL_S = 3.0
ALL = frozenset(range(SHARDS))


class Process:
    """One process: its node, as the owner of shards, and its membership."""

    def __init__(self, cluster, name, address):
        self.cluster = cluster
        self.name = name
        self.address = address
        self.registry = Faulty(cluster.registry, self)
        self.clock = Freezable(cluster.clock, self)
        self.frozen = False
        self.alive = True
        self.is_linked = True  # it tells others of a newer map, and hears of it
        self.thawed = asyncio.Event()
        self.open = set()  # shards whose actors take calls here
        self.closed = set()
        self.busy = set()  # shards of which a turn runs
        self.stands_on = NOBODY
        self.gains = []
        self.reopened = set()
        self.falls = []
        self.members = Membership(
            self.registry,
            self,
            self.clock,
            name=name,
            address=address,
            release="0",
            lease_ttl_s=TTL_S,
        )

    @property
    def holds_lease(self):
        return self.cluster.clock.monotonic_s() < self.members.lease_until_s

    @property
    def can_commit(self):
        return not self.cluster.registry.is_fenced(self.stands_on)

    # -- as the owner

    async def close_shards(self, shards):
        assert shards <= self.open
        await asyncio.sleep(0)
        closed = (shards & self.open) - self.busy
        self.open -= closed
        self.closed |= closed
        return closed

    def reopen(self, shards):
        assert shards <= self.closed
        self.closed -= shards
        self.open |= shards
        self.reopened |= shards

    def lost(self, shards):
        assert shards <= self.open | self.closed
        self.open -= shards
        self.closed -= shards
        self.busy -= shards

    def gained(self, shards):
        assert not shards & (self.open | self.closed)
        assert self.stands_on == self.members.incarnation
        self.open |= shards
        self.gains.append(shards)
        self.cluster.check()

    def lose_all(self, error):
        self.falls.append(error)
        self.open.clear()
        self.closed.clear()
        self.busy.clear()

    def stand_on(self, incarnation):
        assert incarnation > self.stands_on
        self.stands_on = incarnation
        self.cluster.sessions.add(incarnation)

    def map_changed(self, shard_map):
        for other in self.cluster.processes:
            if other is not self and other.is_linked and self.is_linked:
                tell = functools.partial(other.members.behind, shard_map.version)
                other.clock.call_later(0.001, tell)

    def saw_leases(self, ends_s):
        self.lease_ends_s = ends_s

    # -- faults

    def freeze(self):
        self.frozen = True
        self.thawed.clear()

    def thaw(self):
        self.frozen = False
        self.thawed.set()
        self.clock.thaw()

    def lose_session(self):
        """The database ends the session; the process learns of it, and opens another at once."""
        self.cluster.sessions.discard(self.stands_on)
        self.members.connection_lost()
        self.cluster.sessions.add(self.stands_on)


class Freezable:
    """The clock of one process."""

    def __init__(self, clock, process):
        self._clock = clock
        self._process = process
        self._missed = []
        self.monotonic_s = clock.monotonic_s
        self.wall_ms = clock.wall_ms
        self.sleep = clock.sleep

    def call_later(self, delay_s, callback) -> Handle:
        alarm = Alarm()

        def ring():
            if self._process.frozen:
                self._missed.append(ring)
            elif alarm.wanted and self._process.alive:
                callback()

        self._clock.call_later(delay_s, ring)
        return alarm

    def thaw(self):
        missed, self._missed = self._missed, []
        for ring in missed:
            ring()


class Alarm:
    wanted = True

    def cancel(self):
        self.wanted = False


class Faulty:
    """The registry as one process reaches it."""

    def __init__(self, registry, process):
        self.database = registry
        self._process = process
        self.is_down = False
        self.answers_lost = Counter()  # so many such calls are applied, and nobody hears of it
        self.request_s = 0.0  # how long a call takes to get there
        self.answer_s = 0.0
        self.calls = Counter()

    def __getattr__(self, name):
        return functools.partial(self._call, name)

    async def _call(self, name, *args, **kwargs):
        self.calls[name] += 1
        await self._pass(self.request_s)
        if self.is_down:
            raise StoreError("the database is away")
        answer = await getattr(self.database, name)(*args, **kwargs)
        await self._pass(self.answer_s)
        if self.answers_lost[name]:
            self.answers_lost[name] -= 1
            raise StoreError("the answer got lost")
        return answer

    async def _pass(self, seconds):
        arrived = asyncio.Event()
        self._process.clock.call_later(seconds, arrived.set) if seconds else arrived.set()
        await arrived.wait()
        await asyncio.sleep(0)
        while self._process.frozen:
            await self._process.thawed.wait()


class Jumping:
    """The clock of the database."""

    def __init__(self, clock):
        self._clock = clock
        self.jumped_s = 0.0

    def monotonic_s(self):
        return self._clock.monotonic_s() + self.jumped_s


class Cluster:
    """Some processes, one database, one time."""

    def __init__(self):
        self.clock = VirtualClock()
        self.database_clock = Jumping(self.clock)
        self.sessions = set()  # of which incarnations the database has a connection
        self.registry = MemoryRegistry(self.database_clock, self.sessions.__contains__)
        self.processes = []

    @property
    def living(self):
        return [one for one in self.processes if one.alive]

    def process(self, address=None):
        """A process that has not started yet."""
        number = len(self.processes) + 1
        process = Process(self, f"process {number}", address or f"tcp:127.0.0.1:{number}")
        self.processes.append(process)
        return process

    async def begin(self, process=None):
        """Start a process, and go on while it waits for its shards."""
        process = process or self.process()
        process.starting = asyncio.create_task(process.members.start())
        await self.pass_s(0)
        return process

    async def start(self, count=1):
        """Start processes, one after the other, and let everything come to rest."""
        started = []
        for _ in range(count):
            process = await self.begin()
            await self.until(process.starting.done)
            await process.starting
            started.append(process)
        await self.settled()
        self.moved()
        return started

    async def crash(self, process, *, keep_session=False):
        """The process is gone from one moment to the next."""
        process.alive = False
        process.is_linked = False
        process.starting.cancel()
        await process.members.stop()
        if not keep_session:
            self.sessions.discard(process.stands_on)

    async def while_passing(self, work):
        """Let time pass until this work is done."""
        task = asyncio.create_task(work)
        took_s = await self.until(task.done)
        await task
        return took_s

    async def pass_s(self, seconds):
        """Let time pass, in small steps, and look at each."""
        end_s = self.clock.monotonic_s() + seconds
        while True:
            await self.clock.advance(max(0, min(0.01, end_s - self.clock.monotonic_s())))
            self.check()
            if self.clock.monotonic_s() >= end_s - 1e-9:
                return

    async def until(self, is_so, limit_s=30.0):
        """Let time pass until it is so; returns how long it took."""
        start_s = self.clock.monotonic_s()
        while not is_so():
            assert self.clock.monotonic_s() < start_s + limit_s, "it never came to this"
            await self.pass_s(0.01)
        return self.clock.monotonic_s() - start_s

    async def settled(self, limit_s=30.0):
        """Let time pass until every shard is where it should be; returns how long it took."""
        return await self.until(self.is_settled, limit_s)

    def is_settled(self):
        active = [one for one in self.living if one.members.state != "left"]
        incarnations = {one.members.incarnation for one in active}
        return (
            bool(active)
            and all(one.members.map.members.keys() == incarnations for one in active)
            and len({one.members.map.version for one in active}) == 1
            and all(one.members.is_settled and not one.closed for one in active)
            and sum(len(one.open) for one in active) == SHARDS
        )

    def check(self):
        """No shard takes calls at two processes that may answer, or at two that may commit."""
        for owners in (
            [one.open for one in self.living if one.holds_lease],
            [one.open for one in self.living if one.can_commit],
        ):
            assert sum(map(len, owners)) == len(set().union(*owners)), "two owners"

    def moved(self):
        """How many shards were gained by anybody since this was asked last."""
        total = sum(sum(map(len, one.gains)) for one in self.processes)
        for one in self.processes:
            one.gains.clear()
        return total


def with_cluster(test):
    """A test that gets a cluster of its own, and leaves nothing running."""

    def run():
        async def inside():
            cluster = Cluster()
            try:
                await test(cluster)
            finally:
                for process in cluster.processes:
                    process.thaw()
                    await process.members.stop()

        asyncio.run(inside())

    run.__name__ = test.__name__
    return run
