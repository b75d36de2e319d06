"""One effect per idempotency key."""

import asyncio
from pathlib import Path

import pytest

from perdure import (
    Actor,
    RequestReusedError,
    RequestRunningError,
    StoreError,
    StoreFullError,
    interleave,
    read,
)
from perdure.store.sqlite import SqliteStore
from perdure.testing import async_test, running, spin
from perdure.testing.scripted_store import ScriptedStore


class Purse(Actor):
    money: int = 0

    async def pay(self, amount: int) -> int:
        self.money += amount
        return self.money

    async def pay_slowly(self, amount: int) -> int:
        await asyncio.sleep(0)
        self.money += amount
        return self.money

    @interleave
    async def pay_interleaved(self, amount: int) -> int:
        before = self.money
        await asyncio.sleep(0)
        self.money = before + amount
        return self.money

    async def fail_below(self, amount: int) -> int:
        self.money += 1
        if self.money <= amount:
            raise LookupError("too poor")
        return self.money

    @read
    async def view(self) -> int:
        return self.money


@pytest.mark.parametrize("method", ["pay", "pay_slowly", "pay_interleaved"])
def test_a_repeat_has_no_effect_and_gets_the_first_answer(method: str) -> None:
    @async_test
    async def body() -> None:
        async with running(Purse):
            assert await getattr(Purse.at("a", request_id="r1"), method)(5) == 5
            assert await getattr(Purse.at("a", request_id="r2"), method)(5) == 10
            assert await getattr(Purse.at("a", request_id="r1"), method)(5) == 5
            assert await Purse.at("a").view() == 10

    body()


@pytest.mark.parametrize("method", ["pay", "pay_slowly", "pay_interleaved"])
def test_repeats_at_the_same_time_have_one_effect(method: str) -> None:
    @async_test
    async def body() -> None:
        store = ScriptedStore()
        async with running(Purse, store=store):
            store.hold()
            calls = [
                asyncio.create_task(getattr(Purse.at("a", request_id="r"), method)(5))
                for _ in range(20)
            ]
            await store.next_commit()
            await spin()
            store.open_up()
            answers = await asyncio.gather(*calls, return_exceptions=True)
            # what comes while the first runs is told so; what comes later waits for its answer
            running_still = [one for one in answers if isinstance(one, RequestRunningError)]
            assert len(running_still) == (0 if method == "pay" else 19)
            assert answers.count(5) == 20 - len(running_still)
            assert await getattr(Purse.at("a", request_id="r"), method)(5) == 5
            assert sum(len(batch.requests) for batch in store.batches) == 1
            assert await Purse.at("a").view() == 5

    body()


@async_test
async def test_another_request_under_the_same_id_is_refused() -> None:
    async with running(Purse):
        await Purse.at("a", request_id="r").pay(5)
        with pytest.raises(RequestReusedError, match="'r' came before with another request"):
            await Purse.at("a", request_id="r").pay(6)
        with pytest.raises(RequestReusedError):
            await Purse.at("a", request_id="r").pay_slowly(5)
        assert await Purse.at("b", request_id="r").pay(6) == 6  # ids belong to one actor
        assert await Purse.at("a").view() == 5


@async_test
async def test_a_failed_call_is_not_remembered() -> None:
    async with running(Purse):
        await Purse.at("a").pay(3)
        call = Purse.at("a", request_id="r")
        with pytest.raises(LookupError):
            await call.fail_below(10)
        await Purse.at("a").pay(10)
        assert await call.fail_below(10) == 14
        assert await call.fail_below(10) == 14


@async_test
async def test_the_record_commits_with_the_state_or_not_at_all() -> None:
    store = ScriptedStore()
    async with running(Purse, store=store):
        store.hold()
        first = asyncio.create_task(Purse.at("a", request_id="r").pay(5))
        batch = await store.next_commit()
        assert ([w.key for w in batch.writes], [r.reply for r in batch.requests]) == (["a"], [b"5"])
        store.fail(StoreFullError("no space"))
        with pytest.raises(StoreFullError):
            await first
        store.open_up()
        assert await Purse.at("a", request_id="r").pay(5) == 5
        assert await Purse.at("a").view() == 5


@async_test
async def test_a_repeat_that_meets_the_failing_commit_is_answered_too() -> None:
    """Its turn had the actor when the activation was thrown away, but had not begun."""
    store = ScriptedStore()
    async with running(Purse, store=store):
        store.hold()
        first = asyncio.create_task(Purse.at("a", request_id="r").pay(5))
        await store.next_commit()
        repeat = asyncio.create_task(Purse.at("a", request_id="r").pay(5))
        store.fail(StoreFullError("no space"))
        for call in (first, repeat):
            with pytest.raises(StoreError):
                async with asyncio.timeout(5):
                    await call
        store.open_up()


@async_test
async def test_it_holds_across_a_restart_and_until_forgotten(tmp_path: Path) -> None:
    for _ in range(3):
        async with running(Purse, store=SqliteStore(tmp_path)):
            assert await Purse.at("a", request_id="r").pay(5) == 5
    store = SqliteStore(tmp_path)
    async with running(Purse, store=store):
        assert await store.forget_requests(1 << 60, 100) == 1
        assert await Purse.at("a", request_id="r").pay(5) == 10
