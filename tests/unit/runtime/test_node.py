"""A node: waking, sleeping, limits, start and stop."""

import asyncio
from pathlib import Path

import pytest

from perdure import (
    Actor,
    App,
    DefinitionError,
    Limits,
    NotRunningError,
    StoppingError,
    StoreBrokenError,
    StoreLockedError,
)
from perdure.runtime.catalog import Catalog
from perdure.store.api import ActorSchema
from perdure.store.memory import MemoryStore
from perdure.store.sqlite import SqliteStore
from perdure.testing import async_test, running, spin
from perdure.testing.scripted_store import ScriptedStore

_go = asyncio.Event()


class Counter(Actor):
    total: int = 0

    async def add(self, amount: int = 1) -> int:
        self.total += amount
        return self.total

    async def wait(self) -> int:
        self.total += 1
        await _go.wait()
        return self.total


def _catalog(app: App) -> Catalog:
    assert app._node is not None
    return app._node._catalog


@async_test
async def test_an_idle_actor_sleeps_after_two_sweeps_and_wakes_with_its_state() -> None:
    store = ScriptedStore()
    async with running(Counter, store=store) as app:
        await Counter.at("a").add(5)
        assert [_catalog(app).put_idle_to_sleep() for _ in range(2)] == [0, 1]
        assert app.statistics()["awake"] == 0
        assert await Counter.at("a").add() == 6
        assert store.loads == 2


@async_test
async def test_a_busy_actor_does_not_sleep() -> None:
    global _go
    _go = asyncio.Event()
    async with running(Counter) as app:
        call = asyncio.create_task(Counter.at("a").wait())
        await spin()
        assert [_catalog(app).put_idle_to_sleep() for _ in range(3)] == [0, 0, 0]
        _catalog(app).shrink_to(0)
        assert app.statistics()["awake"] == 1
        _go.set()
        assert await call == 1


@async_test
async def test_an_actor_whose_commit_is_under_way_does_not_sleep() -> None:
    store = ScriptedStore()
    async with running(Counter, store=store) as app:
        store.hold()
        call = asyncio.create_task(Counter.at("a").add())
        await store.next_commit()
        _catalog(app).shrink_to(0)
        assert app.statistics()["awake"] == 1
        store.open_up()
        await call
        _catalog(app).shrink_to(0)
        assert app.statistics()["awake"] == 0


@async_test
async def test_beyond_the_limit_those_not_called_lately_sleep_first() -> None:
    async with running(Counter) as app:
        catalog = _catalog(app)
        await asyncio.gather(*[Counter.at(str(n)).add() for n in range(10)])
        catalog.put_idle_to_sleep()
        await Counter.at("3").add()
        catalog.shrink_to(1)
        assert [activation.key for activation in catalog] == ["3"]


@async_test
async def test_the_sweep_runs_by_itself() -> None:
    async with running(Counter, limits=Limits(idle_sleep_s=0.02)) as app:
        await Counter.at("a").add()
        async with asyncio.timeout(5):
            while app.statistics()["awake"]:
                await asyncio.sleep(0.005)
        assert await Counter.at("a").add() == 2


@async_test
async def test_many_calls_to_a_sleeping_actor_load_it_once() -> None:
    store = ScriptedStore()
    async with running(Counter, store=store):
        assert sorted(await asyncio.gather(*[Counter.at("a").add() for _ in range(20)]))[-1] == 20
        assert store.loads == 1


@async_test
async def test_a_class_runs_in_one_app_at_a_time() -> None:
    async with running(Counter):
        with pytest.raises(DefinitionError, match="Counter already runs in another App"):
            await App(Counter, store="memory:").start()
    async with running(Counter):
        assert await Counter.at("a").add() == 1


@async_test
async def test_a_second_start_does_nothing_and_so_does_a_second_stop() -> None:
    app = App(Counter, store=MemoryStore())
    await asyncio.gather(app.start(), app.start())
    assert await Counter.at("a").add() == 1
    await app.stop()
    await app.stop()
    await app.start()
    assert await Counter.at("a").add() == 2
    await app.stop()


@async_test
async def test_an_app_can_start_again_on_the_same_sqlite_store(tmp_path: Path) -> None:
    app = App(Counter, store=SqliteStore(tmp_path))
    for total in (1, 2, 3):
        async with app:
            assert await Counter.at("a").add() == total


@async_test
async def test_a_start_that_fails_leaves_the_classes_free(tmp_path: Path) -> None:
    async with running(Counter, store=SqliteStore(tmp_path)):
        pass
    holder = SqliteStore(tmp_path)
    await holder.open([ActorSchema("counter")])
    app = App(Counter, store=f"sqlite:{tmp_path}")
    with pytest.raises(StoreLockedError):
        await app.start()
    await holder.close()
    async with app:
        assert await Counter.at("a").add() == 1


@async_test
async def test_stop_lets_running_turns_end_and_refuses_new_calls() -> None:
    global _go
    _go = asyncio.Event()
    async with running(Counter) as app:
        call = asyncio.create_task(Counter.at("a").wait())
        await spin()
        stopping = asyncio.create_task(app.stop())
        await spin()
        with pytest.raises(StoppingError):
            await Counter.at("b").add()
        _go.set()
        assert await call == 1
        await stopping
        with pytest.raises(NotRunningError):
            await Counter.at("a").add()


@async_test
async def test_stop_cuts_off_what_takes_too_long_and_undoes_it() -> None:
    global _go
    _go = asyncio.Event()
    store = MemoryStore()
    async with running(Counter, store=store) as app:
        await Counter.at("a").add(5)
        call = asyncio.create_task(Counter.at("a").wait())
        queued = asyncio.create_task(Counter.at("a").add())
        await spin()
        await app.stop(drain_s=0.01)
        for one in (call, queued):
            with pytest.raises(StoppingError):
                await one
    async with running(Counter, store=store):
        assert await Counter.at("a").add(0) == 5


@async_test
async def test_a_broken_store_is_reported_once_and_ends_all_calls() -> None:
    store, told = ScriptedStore(), list[Exception]()
    app = App(Counter, store=store)
    await app.start(on_broken=told.append)
    store.hold()
    calls = [asyncio.create_task(Counter.at(key).add()) for key in "ab"]
    await store.next_commit()
    store.fail(StoreBrokenError("fsync failed"))
    for call in calls:
        with pytest.raises(StoreBrokenError):
            await call
    assert [str(error) for error in told] == ["fsync failed"]
    store.open_up()
    with pytest.raises(StoppingError):
        await Counter.at("c").add()
    await app.stop()


@async_test
async def test_statistics_count_commits_and_turns() -> None:
    async with running(Counter) as app:
        await asyncio.gather(*[Counter.at(str(n)).add() for n in range(10)])
        statistics = app.statistics()
        assert (statistics["awake"], statistics["turns_committed"]) == (10, 10)
        assert 1 <= statistics["commits"] <= 10
    assert app.statistics() == {}
