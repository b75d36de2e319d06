"""Transactions that code in a web process opens, and nodes carry out."""

import asyncio

import pytest
from tests.unit.runtime.several import Several, Short, several, until

from perdure import DeadlineError, TransactionConflictError, TransactionError, transaction
from perdure.store.api import Batch
from perdure.testing import async_test


async def _money(cluster: Several, *keys: str) -> list[int]:
    number = next(at for at in range(len(cluster.nodes)) if at not in cluster.dead)
    return [await cluster.classes[number].Account.at(key).view() for key in keys]


@async_test
async def test_a_block_of_a_web_process_commits_over_owners_or_leaves_no_trace() -> None:
    async with several(2) as cluster:
        account = (await cluster.open_gateway()).Account
        a, b = cluster.keys(0)[0], cluster.keys(1)[0]
        async with transaction():
            assert await account.at(a).put(1) == 101
            assert await account.at(b).put(2) == 102
            assert await account.at(a).view() == 101
        assert await _money(cluster, a, b) == [101, 102]
        async with transaction(account.at(a), account.at(b)):
            await asyncio.gather(account.at(a).put(1), account.at(b).put(-1))
        assert await _money(cluster, a, b) == [102, 101]
        with pytest.raises(Short):
            async with transaction():
                await account.at(a).put(1)
                await account.at(b).put(-500)
        async with transaction():
            await account.at(a).put(1)
            with pytest.raises(Short):
                await account.at(a).put(-500)
        assert await _money(cluster, a, b) == [103, 101]
        assert await account.at(b).pay(a, 1) == 100


@async_test
async def test_deadlines_and_open_calls_end_a_block_of_a_web_process() -> None:
    async with several(1) as cluster:
        account = (await cluster.open_gateway()).Account
        with pytest.raises(DeadlineError):
            async with transaction(timeout_s=0.2):
                await account.at("a").put(1)
                await asyncio.get_running_loop().create_future()
        assert await account.at("a").view() == 100
        with pytest.raises(TransactionError):
            async with transaction():
                task = asyncio.ensure_future(account.at("a").put(1))
                await asyncio.sleep(0)
        await asyncio.gather(task, return_exceptions=True)
        assert await account.at("a").view() == 100


@async_test
async def test_a_link_that_breaks_before_the_end_rolls_back() -> None:
    async with several(1) as cluster:
        account = (await cluster.open_gateway()).Account
        with pytest.raises(TransactionConflictError):
            async with transaction():
                await account.at("a").put(1)
                cluster.cut_gateway()
                await account.at("a").put(1)
        async with asyncio.timeout(3):  # others need not wait for its deadline
            assert await account.at("a").view() == 100
        runs = 0

        @transaction
        async def again() -> None:
            nonlocal runs
            runs += 1
            await account.at("a").put(1)
            if runs == 1:
                cluster.cut_gateway()

        await again()
        assert (runs, await account.at("a").view()) == (2, 101)


@pytest.mark.parametrize("at", ["before_commit", "after_commit"])
@async_test
async def test_a_link_that_breaks_at_the_commit_does_not_hide_its_outcome(at: str) -> None:
    async with several(2) as cluster:
        account = (await cluster.open_gateway()).Account
        a, b = cluster.keys(0)[0], cluster.keys(1)[0]
        handle = cluster.handles[0]

        async def cut(batch: Batch) -> None:
            if batch.answers:
                setattr(handle, at, None)
                cluster.cut_gateway()
                await asyncio.sleep(0.05)

        setattr(handle, at, cut)
        async with transaction():
            await account.at(a).put(1)
            await account.at(b).put(-1)
        assert await _money(cluster, a, b) == [101, 99]


@pytest.mark.parametrize("at", ["before_commit", "after_commit"])
@async_test
async def test_a_node_that_dies_at_the_commit_has_done_it_or_it_is_done_again(at: str) -> None:
    async with several(2) as cluster:
        account = (await cluster.open_gateway()).Account
        a, b = cluster.keys(0)[0], cluster.keys(1)[0]
        runs = 0

        async def die(batch: Batch) -> None:
            if batch.answers:
                cluster.kill(0)

        setattr(cluster.handles[0], at, die)

        @transaction
        async def move() -> None:
            nonlocal runs
            runs += 1
            await account.at(a).put(1)
            await account.at(b).put(-1)

        await move()
        assert runs == (1 if at == "after_commit" else 2)
        await until(lambda: len(cluster.nodes[1].owned) == 4096)
        assert await _money(cluster, a, b) == [101, 99]
