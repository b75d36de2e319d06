"""Transactions whose actors live in several processes."""

import asyncio
from typing import Any

import pytest
from tests.unit.runtime.several import Several, Short, several, until

from perdure import TransactionConflictError, UniqueError, transaction
from perdure.base.shards import shard_of
from perdure.store.api import Batch
from perdure.testing import async_test


async def _money(cluster: Several, *keys: str) -> list[int]:
    """As those say who own them, asked from another process."""
    number = next(at for at in range(len(cluster.nodes)) if at not in cluster.dead)
    return [await cluster.classes[number].Account.at(key).view() for key in keys]


@async_test
async def test_a_transaction_commits_over_three_owners_and_owners_show_it() -> None:
    async with several(3) as cluster:
        account = cluster.classes[0].Account
        a, b, c = (cluster.keys(number)[0] for number in range(3))
        async with transaction():
            await account.at(a).put(1)
            await account.at(b).put(2)
            assert await account.at(c).put(3) == 103
        for number in range(3):
            made = cluster.classes[number].Account
            assert [await made.at(key).view() for key in (a, b, c)] == [101, 102, 103]
        await cluster.classes[2].Account.at(b).put(1)  # the owner goes on from there
        assert await account.at(b).view() == 103


@async_test
async def test_what_raises_leaves_no_trace_and_a_caught_error_undoes_its_call() -> None:
    async with several(2) as cluster:
        account = cluster.classes[0].Account
        a, b = cluster.keys(0)[0], cluster.keys(1)[0]
        with pytest.raises(Short):
            async with transaction():
                await account.at(b).put(5)
                await account.at(a).put(-500)
        assert await _money(cluster, a, b) == [100, 100]
        async with transaction():
            await account.at(b).put(5)
            with pytest.raises(Short):
                await account.at(b).put(-500)
            await account.at(a).put(-5)
        assert await _money(cluster, a, b) == [95, 105]
        assert await account.at(a).pay(b, 5) == 90
        assert await _money(cluster, a, b) == [90, 110]


@async_test
async def test_messages_timers_entries_and_keys_of_guests_commit_with_them() -> None:
    async with several(2) as cluster:
        account = cluster.classes[0].Account
        a, b = cluster.keys(0)[0], cluster.keys(1)[0]
        async with transaction():
            await account.at(a).put(-7)
            await account.at(b).note("x", 7)
            assert await account.at(b).noted("x") == 7
            await account.at(b, request_id="once").put(1)
        assert await cluster.classes[1].Account.at(b, request_id="once").put(1) == 108
        assert await cluster.classes[1].Account.at(b).noted("x") == 7
        lines: list[int] = []
        while not lines:
            lines = await cluster.classes[0].Ledger.at("all").all()
            await asyncio.sleep(0.01)
        assert lines == [7]
        while await cluster.classes[1].Account.at(b).view() < 1000:
            await asyncio.sleep(0.01)
        assert await account.at(b).view() == 1108


@async_test
async def test_a_unique_refusal_of_a_guest_takes_all_of_it_along() -> None:
    async with several(2) as cluster:
        account = cluster.classes[0].Account
        a, b = cluster.keys(0)[0], cluster.keys(1)[0]
        await account.at(a).call_me("ann")
        with pytest.raises(UniqueError):
            async with transaction():
                await account.at(a).put(5)
                await account.at(b).call_me("ann")
        assert await _money(cluster, a, b) == [100, 100]


@pytest.mark.parametrize("rerun", [True, False])
@async_test
async def test_transactions_that_cross_two_processes_do_not_stand(rerun: bool) -> None:
    async with several(2) as cluster:
        a, b = cluster.keys(0)[0], cluster.keys(1)[0]
        met = asyncio.Barrier(2)

        async def cross(number: int, one: str, other: str) -> None:
            account, runs = cluster.classes[number].Account, 0

            async def body() -> None:
                nonlocal runs
                runs += 1
                await account.at(one).put(-1)
                if runs == 1:
                    await met.wait()
                await account.at(other).put(1)

            if rerun:
                await transaction(body)()
            else:
                async with transaction():
                    await body()

        outcomes = await asyncio.gather(cross(0, a, b), cross(1, b, a), return_exceptions=True)
        failed = [one for one in outcomes if one is not None]
        assert all(isinstance(one, TransactionConflictError) for one in failed)
        assert len(failed) == 0 if rerun else len(failed) >= 1
        assert sum(await _money(cluster, a, b)) == 200


@async_test
async def test_accounts_of_two_processes_that_pay_each_other_both_come_through() -> None:
    async with several(2) as cluster:
        a, b = cluster.keys(0)[0], cluster.keys(1)[0]
        for _ in range(3):
            await asyncio.gather(
                cluster.classes[0].Account.at(a).pay(b, 1),
                cluster.classes[1].Account.at(b).pay(a, 1),
            )
        assert await _money(cluster, a, b) == [100, 100]


@async_test
async def test_a_cut_link_before_the_commit_gives_the_transaction_up() -> None:
    async with several(2) as cluster:
        account = cluster.classes[0].Account
        a, b = cluster.keys(0)[0], cluster.keys(1)[0]
        with pytest.raises(TransactionConflictError):
            async with transaction():
                await account.at(a).put(1)
                await account.at(b).put(-1)
                cluster.cut(0, 1)
                await until(lambda: cluster.nodes[1]._loans.decided == 1)
                with pytest.raises(TransactionConflictError):
                    await account.at(b).put(0)
        assert await _money(cluster, a, b) == [100, 100]


@pytest.mark.parametrize("borrower_first", [True, False])
@async_test
async def test_of_a_commit_and_an_owner_that_lost_sight_of_it_one_wins(
    borrower_first: bool,
) -> None:
    async with several(2) as cluster:
        account = cluster.classes[0].Account
        a, b, other = *cluster.keys(0, 2), cluster.keys(1)[0]

        async def cut(batch: Batch) -> None:
            if any(one.yields for one in batch.writes):
                decided = cluster.nodes[1]._loans.decided
                cluster.cut(0, 1)
                await until(lambda: cluster.nodes[1]._loans.decided > decided)
                if not borrower_first:
                    await cluster.classes[1].Account.at(other).view()
                handle.before_commit = handle.after_commit = None

        handle = cluster.handles[0]
        setattr(handle, "after_commit" if borrower_first else "before_commit", cut)

        async def move() -> None:
            async with transaction():
                await account.at(a).put(1)
                await account.at(other).put(-1)

        outcome, beside = await asyncio.gather(move(), account.at(b).put(7), return_exceptions=True)
        assert beside == 107  # the conflict leaves others alone
        expected: list[Any] = [101, 99] if borrower_first else [100, 100]
        assert (outcome is None) == borrower_first
        assert borrower_first or isinstance(outcome, TransactionConflictError)
        assert await _money(cluster, a, other) == expected


@async_test
async def test_what_was_only_read_is_still_so_when_the_transaction_commits() -> None:
    async with several(2) as cluster:
        account = cluster.classes[0].Account
        a, b = cluster.keys(0)[0], cluster.keys(1)[0]
        await account.at(b).put(1)

        async def change(batch: Batch) -> None:
            handle.before_commit = None
            cluster.cut(0, 1)
            await until(lambda: cluster.nodes[1]._loans.decided == 1)
            await cluster.classes[1].Account.at(b).put(5)

        handle = cluster.handles[0]
        handle.before_commit = change
        with pytest.raises(TransactionConflictError):
            async with transaction():
                await account.at(a).put(await account.at(b).view())
        assert await _money(cluster, a, b) == [100, 106]


@async_test
async def test_an_owner_that_died_before_the_commit_refuses_it() -> None:
    async with several(3) as cluster:
        account = cluster.classes[0].Account
        a, b = cluster.keys(0)[0], cluster.keys(1)[0]
        handle = cluster.handles[0]

        async def die(batch: Batch) -> None:
            if batch.standing:
                handle.before_commit = None
                cluster.kill(1)
                await until(lambda: cluster.registry.is_fenced(cluster.handles[1].incarnation))

        handle.before_commit = die
        with pytest.raises(TransactionConflictError):
            async with transaction():
                await account.at(a).put(1)
                await account.at(b).put(-1)
        assert await _money(cluster, a, b) == [100, 100]

        @transaction
        async def again() -> None:
            await account.at(a).put(1)
            await account.at(b).put(-1)

        await again()
        assert await _money(cluster, a, b) == [101, 99]


@pytest.mark.parametrize("at", ["before_commit", "after_commit"])
@async_test
async def test_a_borrower_that_dies_has_committed_all_or_nothing(at: str) -> None:
    async with several(3) as cluster:
        account = cluster.classes[0].Account
        a, b, c = (cluster.keys(number)[0] for number in range(3))

        async def die(batch: Batch) -> None:
            if batch.standing:
                cluster.kill(0)

        setattr(cluster.handles[0], at, die)

        async def move() -> None:
            async with transaction():
                for key in (a, b, c):
                    await account.at(key).put(1)

        task = asyncio.create_task(move())
        await until(lambda: 0 in cluster.dead)
        expected = [101] * 3 if at == "after_commit" else [100] * 3
        assert await _money(cluster, a, b, c) == expected
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@async_test
async def test_an_actor_whose_shard_is_being_given_away_is_lent_to_nobody() -> None:
    async with several(2) as cluster:
        a, b = cluster.keys(0)[0], cluster.keys(1)[0]
        owner, shards = cluster.nodes[0], frozenset({shard_of(a)})
        assert await owner.close_shards(shards) == shards
        paying = asyncio.create_task(cluster.classes[1].Account.at(b).pay(a, 1))
        await until(lambda: owner._territory._waiting_count == 1)
        assert not paying.done()
        owner.reopen(shards)
        assert await paying == 99
        assert await _money(cluster, a, b) == [101, 99]
