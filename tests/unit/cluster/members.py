"""Several members in one event loop, with faults: each process has its own view of the registry and
its own clock, which stands still while the process is frozen."""

import asyncio
import math
from collections import Counter

from perdure.base.clock import Handle
from perdure.base.errors import FencedError, StoreError
from perdure.base.shards import SHARDS
from perdure.cluster.membership import Membership
from perdure.store.registry import NOBODY
from perdure.testing.clock import VirtualClock

from .simple_registry import SimpleRegistry

TTL_S = 3.0


class Process:
    """One process: its node, as the owner of shards, and its membership."""

    def __init__(self, cluster, name, address):
        self.cluster = cluster
        self.registry = Faulty(cluster.registry, self)
        self.clock = Freezable(cluster.clock, self)
        self.frozen = False
        self.alive = True
        self.linked = True  # hears from others that there is a newer map
        self.thawed = asyncio.Event()
        self.open = set()  # shards whose actors take calls here
        self.closed = set()
        self.busy = set()  # shards of which a turn runs
        self.stands_on = NOBODY
        self.gained_total = 0
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
        return self.stands_on in self.cluster.registry.members

    def try_commit(self):
        """What a turn's commit would do just now."""
        if not self.can_commit:
            self.members.fenced(FencedError("fenced"))

    # -- Owner

    async def close_shards(self, shards):
        assert shards <= self.open
        closed = shards - self.busy
        self.open -= closed
        self.closed |= closed
        await asyncio.sleep(0)
        return closed & self.closed

    def reopen(self, shards):
        assert shards <= self.closed
        self.closed -= shards
        self.open |= shards

    def lost(self, shards):
        assert shards <= self.open | self.closed
        self.open -= shards
        self.closed -= shards

    def gained(self, shards):
        assert not shards & (self.open | self.closed)
        assert shards <= set(range(SHARDS))
        self.open |= shards
        self.gained_total += len(shards)
        self.cluster.check()

    def lose_all(self, error):
        self.falls.append(error)
        self.open.clear()
        self.closed.clear()
        self.busy.clear()

    def stand_on(self, incarnation):
        assert incarnation > self.stands_on
        self.stands_on = incarnation

    def map_changed(self, shard_map):
        for other in self.cluster.processes:
            if other is not self and other.alive and other.linked and self.linked:
                other.clock.call_later(0.001, lambda to=other: to.members.behind(shard_map.version))

    # -- faults

    def freeze(self):
        self.frozen = True
        self.thawed.clear()

    def thaw(self):
        self.frozen = False
        self.thawed.set()
        self.clock.thaw()


class Freezable:
    """A process' own clock: it counts on while the process is frozen, but rings later."""

    def __init__(self, clock, process):
        self._clock = clock
        self._process = process
        self._missed = []
        self.monotonic_s = clock.monotonic_s
        self.wall_ms = clock.wall_ms
        self.sleep = clock.sleep

    def call_later(self, delay_s, callback) -> Handle:
        handle = Alarm()

        def ring():
            if self._process.frozen:
                self._missed.append(ring)
            elif handle.wanted and self._process.alive:
                callback()

        self._clock.call_later(delay_s, ring)
        return handle

    def thaw(self):
        missed, self._missed = self._missed, []
        for ring in missed:
            ring()


class Alarm:
    wanted = True

    def cancel(self):
        self.wanted = False


class Faulty:
    """The registry as one process sees it."""

    def __init__(self, registry, process):
        self._registry = registry
        self._process = process
        self.down = False
        self.answers_lost = 0  # so many calls are applied, and their answers get lost
        self.calls = Counter()

    def __getattr__(self, name):
        call = getattr(self._registry, name)

        async def asked(*args, **kwargs):
            self.calls[name] += 1
            await self._awake()
            if self.down:
                raise StoreError("the database is away")
            answer = await call(*args, **kwargs)
            await asyncio.sleep(0)
            await self._awake()
            if self.answers_lost:
                self.answers_lost -= 1
                raise StoreError("the answer got lost")
            return answer

        return asked

    async def _awake(self):
        while self._process.frozen:
            await self._process.thawed.wait()


class Cluster:
    """Some processes, one database, one time."""

    def __init__(self):
        self.clock = VirtualClock()
        self.registry = SimpleRegistry(self.clock)
        self.processes = []

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        for process in self.processes:
            process.frozen = False
            process.thawed.set()
            await process.members.stop()

    async def begin(self, *, address=None):
        """Start a process, and go on while it waits for its shards."""
        number = len(self.processes) + 1
        process = Process(self, f"process {number}", address or f"tcp:127.0.0.1:{number}")
        self.processes.append(process)
        process.starting = asyncio.create_task(process.members.start())
        await self.pass_s(0)
        return process

    async def start(self, count=1, **named):
        """Start processes, one after the other, and let everything come to rest."""
        started = []
        for _ in range(count):
            process = await self.begin(**named)
            await self.until(process.starting.done)
            await process.starting
            started.append(process)
        await self.settled()
        return started

    async def crash(self, process):
        """The process is gone from one moment to the next."""
        process.alive = False
        await process.members.stop()
        process.open.clear()
        process.closed.clear()

    async def pass_s(self, seconds):
        """Let time pass, in small steps; nobody may own what is another's at any of them."""
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
        """Let time pass until every shard is where it should be."""
        return await self.until(self.is_settled, limit_s)

    def is_settled(self):
        living = [one for one in self.processes if one.alive and one.members.state == "active"]
        return (
            bool(living)
            and {one.members.incarnation for one in living} == set(self.registry.members)
            and all(one.members._standing.is_settled for one in living)
            and sum(len(one.open) for one in living) == SHARDS
        )

    def check(self):
        """No shard is taken calls for by two processes that may answer, or by two that may commit."""
        living = [one for one in self.processes if one.alive]
        for group in (
            [one.open for one in living if one.holds_lease],
            [one.open for one in living if one.can_commit],
        ):
            assert sum(map(len, group)) == len(set().union(*group)), "two owners"

    def moved(self):
        """How many shards changed hands since this was asked last."""
        total = sum(one.gained_total for one in self.processes)
        for one in self.processes:
            one.gained_total = 0
        return total


def lease_is_void(process):
    return process.members.lease_until_s == -math.inf
