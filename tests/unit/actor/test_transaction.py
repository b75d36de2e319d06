"""Transactions: all or nothing, one after the other."""

import asyncio
from typing import Annotated

import pytest

from perdure import Actor, DomainError, StoreFullError, UniqueError, read, transaction, unique
from perdure.testing import VirtualClock, async_test, running, spin
from perdure.testing.scripted_store import ScriptedStore


class Short(DomainError):
    """Not enough money."""


class Account(Actor):
    money: int = 100
    name: Annotated[str | None, unique] = None

    async def take(self, amount: int) -> int:
        self.money -= amount
        if self.money < 0:
            raise Short("not enough")
        Ledger.at("all").tell.note(-amount)
        return self.money

    async def put(self, amount: int) -> int:
        self.money += amount
        Ledger.at("all").tell.note(amount)
        return self.money

    async def call_me(self, name: str) -> None:
        self.name = name

    async def pay(self, to: str, amount: int) -> int:
        async with transaction():
            self.money -= amount
            await Account.at(to).put(amount)
            if self.money < 0:
                raise Short("not enough")
        return self.money

    @read
    async def view(self) -> int:
        return self.money


class Ledger(Actor):
    lines: list[int] = []

    async def note(self, amount: int) -> None:
        self.lines.append(amount)

    @read
    async def all(self) -> list[int]:
        return self.lines


@transaction
async def move(source: str, target: str, amount: int) -> None:
    await Account.at(source).take(amount)
    await asyncio.sleep(0)
    await Account.at(target).put(amount)


async def money(*keys: str) -> list[int]:
    return [await Account.at(key).view() for key in keys]


@async_test
async def test_what_ends_well_is_one_commit() -> None:
    store = ScriptedStore()
    async with running(Account, Ledger, store=store, clock=VirtualClock()):
        await move("a", "b", 30)
        [batch] = [batch for batch in store.batches if len(batch.writes) == 2]
        assert {write.group for write in batch.writes} == {1}
        assert await money("a", "b") == [70, 130]
        await spin()
        assert sorted(await Ledger.at("all").all()) == [-30, 30]


@async_test
async def test_what_raises_leaves_no_trace() -> None:
    async with running(Account, Ledger, clock=VirtualClock()):
        with pytest.raises(Short):
            async with transaction():
                await Account.at("b").put(500)
                await Account.at("a").take(500)
        assert await money("a", "b") == [100, 100]
        await spin()
        assert await Ledger.at("all").all() == []


@async_test
async def test_an_actor_can_open_one_and_takes_part() -> None:
    async with running(Account, Ledger, clock=VirtualClock()):
        assert await Account.at("a").pay("b", 40) == 60
        with pytest.raises(Short):
            await Account.at("a").pay("b", 70)
        assert await money("a", "b") == [60, 140]


@async_test
async def test_nobody_sees_the_middle() -> None:
    async with running(Account, Ledger, clock=VirtualClock()):
        begun = asyncio.Event()

        async def read_meanwhile() -> int:  # in a task of before the block: not a part of it
            await begun.wait()
            return await Account.at("a").view()

        reading = asyncio.create_task(read_meanwhile())
        async with transaction():
            await Account.at("a").take(10)
            begun.set()
            await spin()
            assert not reading.done()
            await Account.at("b").put(10)
        assert await reading == 90


@async_test
async def test_transfers_that_cross_are_run_again_and_keep_the_sum() -> None:
    keys = [f"k{n}" for n in range(5)]
    async with running(Account, Ledger, clock=VirtualClock()):
        moves = [move(keys[n % 5], keys[(n * 3 + 1) % 5], n % 7) for n in range(60)]
        answers = await asyncio.gather(*moves, return_exceptions=True)
        assert {type(answer) for answer in answers} <= {type(None), Short}
        assert sum(await money(*keys)) == 500


@async_test
async def test_a_commit_that_fails_fails_all_of_it() -> None:
    store = ScriptedStore()
    async with running(Account, Ledger, store=store, clock=VirtualClock()):
        store.hold()
        moving = asyncio.create_task(move("a", "b", 5))
        await store.next_commit()
        store.fail(StoreFullError("full"))
        with pytest.raises(StoreFullError):
            await moving
        store.open_up()
        assert await money("a", "b") == [100, 100]


@async_test
async def test_a_unique_refusal_takes_all_of_it_along() -> None:
    async with running(Account, Ledger, clock=VirtualClock()):
        await Account.at("x").call_me("ann")
        with pytest.raises(UniqueError):
            async with transaction():
                await Account.at("a").put(5)
                await Account.at("b").call_me("ann")
        assert await money("a", "b") == [100, 100]
