"""Turns whose process is taken out while they run: run again, but never twice."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from tests.unit.runtime.several import KEY, LIMITS, Handle

from perdure import Actor, InterruptedCallError
from perdure.actor.methods import actor_type_of
from perdure.base.clock import SystemClock
from perdure.base.errors import FencedError
from perdure.runtime.cluster_node import ClusterNode
from perdure.runtime.place import Place
from perdure.store.memory import MemoryStore
from perdure.store.memory_registry import MemoryRegistry
from perdure.testing import async_test


def classes():
    """A class for each test, since it is bound to a node; and what its turns wait for."""
    gate = asyncio.Event()

    class Steps(Actor):
        count: int = 0

        async def hit(self) -> int:
            self.count += 1
            await gate.wait()
            return self.count

        async def save_and_hit(self) -> int:
            self.count += 1
            await self.save()
            await gate.wait()
            self.count += 100
            return self.count

        async def tell_and_hit(self, other: str) -> int:
            await Steps.at(other).now()
            await gate.wait()
            self.count += 100
            return self.count

        async def now(self) -> int:
            self.count += 1
            return self.count

    return Steps, gate


@asynccontextmanager
async def node_of(actor_class):
    clock = SystemClock()
    registry = MemoryRegistry(clock)
    store = MemoryStore(lambda one: not registry.is_fenced(one))
    handle = Handle(store, registry)
    place = Place("all", name="n", key=KEY, listen="tcp:127.0.0.1:0")
    node = ClusterNode([actor_type_of(actor_class)], handle, place, limits=LIMITS, clock=clock)
    await node.start()
    try:
        yield node, store
    finally:
        await node.stop(0.5)


async def fall(node):
    """The registry takes the node out; it finds out, and joins anew."""
    incarnation = node._membership.incarnation
    await node.store.registry.leave(incarnation)
    node._membership.fenced(FencedError("taken out"))
    while node._membership.incarnation in {0, incarnation} or len(node.owned) < 4096:
        await asyncio.sleep(0.005)


async def committed(store, at_least):
    while (stored := await store.load("steps", "a")) is None or stored.version < at_least:
        await asyncio.sleep(0.002)


@async_test
async def test_a_turn_that_had_no_effect_is_run_again() -> None:
    steps, gate = classes()
    async with node_of(steps) as (node, _store):
        call = asyncio.create_task(steps.at("a").hit())
        await asyncio.sleep(0)
        await fall(node)
        gate.set()
        assert await call == 1
        assert await steps.at("a").now() == 2


@async_test
async def test_a_turn_whose_first_part_was_committed_is_not_run_again() -> None:
    steps, gate = classes()
    async with node_of(steps) as (node, store):
        call = asyncio.create_task(steps.at("a").save_and_hit())
        await committed(store, 1)
        await fall(node)
        gate.set()
        with pytest.raises(InterruptedCallError):
            await call
        assert await steps.at("a").now() == 2


@async_test
async def test_a_turn_whose_call_was_committed_is_not_run_again() -> None:
    steps, gate = classes()
    async with node_of(steps) as (node, store):
        call = asyncio.create_task(steps.at("b").tell_and_hit("a"))
        await committed(store, 1)
        await fall(node)
        gate.set()
        with pytest.raises(InterruptedCallError):
            await call
        assert await steps.at("a").now() == 2
