"""Relaxed methods answer first; what they changed is durable soon after."""

import asyncio

import pytest

from perdure import Actor, DefinitionError, StoreFullError, expose, read, relaxed
from perdure.actor.methods import actor_type_of
from perdure.testing import async_test, running, spin
from perdure.testing.scripted_store import ScriptedStore


class World(Actor):
    tick: int = 0
    score: int = 0

    @relaxed(loss_max_s=3600)
    async def move(self) -> int:
        self.tick += 1
        return self.tick

    @relaxed(loss_max_s=0.05)
    async def move_soon(self) -> int:
        self.tick += 1
        return self.tick

    async def goal(self) -> int:
        self.score += 1
        return self.score

    async def look(self) -> int:
        return self.tick

    @read
    async def view(self) -> tuple[int, int]:
        return self.tick, self.score


@async_test
async def test_a_relaxed_method_answers_without_a_commit() -> None:
    store = ScriptedStore()
    async with running(World, store=store):
        store.hold()
        assert [await World.at("a").move() for _ in range(3)] == [1, 2, 3]
        assert await World.at("a").view() == (3, 0)
        assert store.batches == []
        store.open_up()


@async_test
async def test_its_change_is_committed_within_its_bound() -> None:
    store = ScriptedStore()
    async with running(World, store=store):
        await World.at("a").move()
        store.hold()
        await World.at("a").move_soon()  # the shorter bound counts, though the other came first
        batch = await store.next_commit()
        assert batch.writes[0].state == b'{"tick":2,"score":0}'
        store.open_up()


@async_test
async def test_an_ordinary_write_commits_relaxed_changes_along() -> None:
    store = ScriptedStore()
    async with running(World, store=store):
        await World.at("a").move()
        await World.at("a").goal()
        assert store.batches[0].writes[0].state == b'{"tick":1,"score":1}'


@async_test
async def test_an_ordinary_method_that_saw_a_relaxed_change_waits_until_it_is_durable() -> None:
    store = ScriptedStore()
    async with running(World, store=store):
        await World.at("a").move()
        store.hold()
        look = asyncio.create_task(World.at("a").look())
        await store.next_commit()
        assert not look.done()
        store.open_up()
        assert await look == 1


@async_test
async def test_a_relaxed_answer_does_not_let_out_an_ordinary_change_before_its_commit() -> None:
    store = ScriptedStore()
    async with running(World, store=store):
        store.hold()
        goal = asyncio.create_task(World.at("a").goal())
        await store.next_commit()
        move = asyncio.create_task(World.at("a").move())
        await spin()
        assert not move.done()
        store.fail(StoreFullError("no space"))
        for call in (goal, move):
            with pytest.raises(StoreFullError):
                await call
        store.open_up()


@async_test
async def test_stop_commits_relaxed_changes() -> None:
    store = ScriptedStore()
    async with running(World, store=store):
        await World.at("a").move()
    async with running(World, store=store):
        assert await World.at("a").view() == (1, 0)


@async_test
async def test_an_actor_with_relaxed_changes_does_not_fall_asleep() -> None:
    store = ScriptedStore()
    async with running(World, store=store) as app:
        await World.at("a").move()
        assert app._node is not None
        catalog = app._node._catalog
        assert [catalog.put_idle_to_sleep() for _ in range(3)] == [0, 0, 0]
        catalog.shrink_to(0)
        assert await World.at("a").view() == (1, 0)


def test_a_read_cannot_be_relaxed() -> None:
    class Wrong(Actor):
        @expose
        @read
        @relaxed(loss_max_s=1)
        async def view(self) -> int:
            return 0

    with pytest.raises(DefinitionError, match="cannot be relaxed"):
        actor_type_of(Wrong)
