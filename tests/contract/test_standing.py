"""What stores that several processes share promise of groups that rest on others: on the version
that another process may have written, and on another member."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import asyncpg
import pytest

from perdure.base.clock import SystemClock
from perdure.base.errors import ConflictError
from perdure.store.api import ActorSchema, ActorWrite, Answers, Batch, Standing, Store
from perdure.store.memory import MemoryStore
from perdure.store.memory_registry import MemoryRegistry
from perdure.store.postgres import PostgresStore
from perdure.store.postgres_batch import statement
from perdure.store.registry import Registry
from perdure.testing import async_test
from perdure.testing.postgres import fresh_database

Opened = AbstractAsyncContextManager[tuple[Store, Registry]]
SCHEMAS = [ActorSchema("cart")]


@asynccontextmanager
async def in_memory() -> AsyncIterator[tuple[Store, Registry]]:
    registry = MemoryRegistry(SystemClock())
    store = MemoryStore(lambda one: not registry.is_fenced(one))
    await store.open(SCHEMAS)
    yield store, registry


@asynccontextmanager
async def in_postgres() -> AsyncIterator[tuple[Store, Registry]]:
    store = PostgresStore(fresh_database())
    await store.open(SCHEMAS)
    assert store.registry is not None
    await store.registry.open()
    try:
        yield store, store.registry
    finally:
        await store.registry.close()
        await store.close()


on_both = pytest.mark.parametrize("opened", [in_memory, in_postgres])


async def _join(registry: Registry) -> int:
    return await registry.join("n", "tcp:h:1", "1", 60.0, "key")


def _write(key: str, version: int, group: int = 0, *, yields: bool = False) -> ActorWrite:
    return ActorWrite("cart", key, b"%d" % version, version, group, yields)


async def _versions(store: Store, *keys: str) -> list[int]:
    found = [await store.load("cart", key) for key in keys]
    return [0 if one is None else one.version for one in found]


@on_both
@async_test
async def test_a_group_is_left_out_once_who_it_rests_on_is_no_member(
    opened: Callable[[], Opened],
) -> None:
    async with opened() as (store, registry):
        me, other = await _join(registry), await _join(registry)
        store.stand_on(me)
        standing = [Standing(other, 1)]
        writes = [_write("a", 1, 1), _write("b", 1, 1, yields=True), _write("c", 1)]
        answers = [Answers("g", 1, 1, b"1", 1), Answers("g", 2, 2, b"2")]
        committed = await store.commit(Batch(writes, [], 1, standing=standing))
        assert not committed.refused
        await registry.leave(other)
        writes = [_write("a", 2, 1), _write("b", 2, 1, yields=True), _write("c", 2)]
        committed = await store.commit(Batch(writes, [], 1, answers=answers, standing=standing))
        assert {(one.key, one.is_outdated) for one in committed.refused} == {
            ("a", True),
            ("b", True),
        }
        assert await _versions(store, "a", "b", "c") == [1, 1, 2]
        assert await store.find_answers("g", 1) == []
        assert await store.find_answers("g", 2) == [b"2"]


@on_both
@async_test
async def test_a_write_that_yields_leaves_out_its_group_and_no_other(
    opened: Callable[[], Opened],
) -> None:
    async with opened() as (store, registry):
        store.stand_on(await _join(registry))
        await store.commit(Batch([_write("a", 1), _write("b", 1), _write("c", 1)], [], 1))
        await store.commit(Batch([_write("b", 2)], [], 1))
        writes = [_write("a", 2, 1), _write("b", 2, 1, yields=True), _write("c", 2, 2)]
        committed = await store.commit(Batch(writes, [], 1))
        assert {one.key for one in committed.refused} == {"a", "b"}
        assert await _versions(store, "a", "b", "c") == [1, 2, 2]
        with pytest.raises(ConflictError):
            await store.commit(Batch([_write("a", 2, 1, yields=True), _write("c", 2)], [], 1))
        assert await _versions(store, "a", "c") == [1, 2]


@async_test
async def test_taking_a_member_out_waits_for_commits_that_rest_on_it() -> None:
    """In PostgreSQL: else its heir could load an actor before such a commit is there."""
    async with in_postgres() as (store, registry):
        assert isinstance(store, PostgresStore)
        me, other = await _join(registry), await _join(registry)
        batch = Batch([_write("a", 1, 1)], [], 1, standing=[Standing(other, 1)])
        made = statement(batch, store._tables)
        made.values[:2] = (me, 1)
        connection = await asyncpg.connect(store._server._url)
        async with connection.transaction():
            assert await connection.fetch(made.sql, *made.values)
            leaving = asyncio.create_task(registry.leave(other))
            done, _ = await asyncio.wait([leaving], timeout=0.3)
            assert not done
        await leaving
        await connection.close()
        assert await _versions(store, "a") == [1]
