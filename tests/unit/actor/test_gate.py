"""The output gate: nothing that rests on uncommitted state gets out."""

import asyncio

import pytest

from perdure import Actor, ConflictError, Limits, OverloadedError, StoreError, StoreFullError, read
from perdure.testing import async_test, running, spin
from perdure.testing.scripted_store import ScriptedStore


class Counter(Actor):
    total: int = 0

    async def add(self, amount: int) -> int:
        self.total += amount
        return self.total

    async def refuse(self) -> None:
        raise LookupError(f"total is {self.total}")

    @read
    async def view(self) -> int:
        return self.total

    async def add_and_tell(self, amount: int, other: str) -> int:
        self.total += amount
        await self.save()
        return await Counter.at(other).add(amount)

    async def tell_other(self, other: str) -> int:
        return await Counter.at(other).add(1)

    async def add_wait_and_save(self, amount: int) -> None:
        await _go.wait()
        self.total += amount
        await self.save()

    async def add_save_and_fail(self, amount: int) -> None:
        self.total += amount
        await self.save()
        self.total += 1000
        raise LookupError("after the save")


_go = asyncio.Event()


def _added(store: ScriptedStore) -> list[tuple[str, bytes, int]]:
    return [(w.key, w.state, w.version) for batch in store.batches for w in batch.writes]


@async_test
async def test_no_reply_leaves_before_its_commit() -> None:
    store = ScriptedStore()
    async with running(Counter, store=store):
        store.hold()
        call = asyncio.create_task(Counter.at("a").add(1))
        await store.next_commit()
        await spin()
        assert not call.done()
        store.release()
        assert await call == 1


@async_test
async def test_turns_go_on_while_a_commit_is_under_way_and_share_the_next() -> None:
    store = ScriptedStore()
    async with running(Counter, store=store):
        store.hold()
        first = asyncio.create_task(Counter.at("a").add(1))
        await store.next_commit()
        more = [asyncio.create_task(Counter.at(key).add(1)) for key in "aaabbc"]
        await spin()
        assert store.waiting == 1
        store.release()
        assert await first == 1
        await store.next_commit()
        assert not any(call.done() for call in more)
        store.open_up()
        assert await asyncio.gather(*more) == [2, 3, 4, 1, 2, 1]
        versions = [(key, version) for key, _, version in _added(store)]
        assert versions == [("a", 1), ("a", 2), ("b", 1), ("c", 1)]


@async_test
async def test_a_read_of_uncommitted_state_waits_for_its_commit() -> None:
    store = ScriptedStore()
    async with running(Counter, store=store):
        assert await Counter.at("a").view() == 0
        store.hold()
        write = asyncio.create_task(Counter.at("a").add(1))
        await store.next_commit()
        seen = asyncio.create_task(Counter.at("a").view())
        elsewhere = asyncio.create_task(Counter.at("b").view())
        assert await elsewhere == 0
        await spin()
        assert not seen.done()
        store.open_up()
        assert (await write, await seen) == (1, 1)


@async_test
async def test_a_refusal_that_saw_uncommitted_state_waits_too() -> None:
    store = ScriptedStore()
    async with running(Counter, store=store):
        store.hold()
        write = asyncio.create_task(Counter.at("a").add(7))
        await store.next_commit()
        refusal = asyncio.create_task(Counter.at("a").refuse())
        await spin()
        assert not refusal.done()
        store.fail(StoreFullError("no space"))
        with pytest.raises(StoreFullError):
            await write
        with pytest.raises(StoreFullError):  # the 7 it complains of never was
            await refusal


@async_test
async def test_a_failed_commit_answers_with_the_error_and_the_truth_is_read_again() -> None:
    store = ScriptedStore()
    async with running(Counter, store=store):
        await Counter.at("a").add(1)
        loads = store.loads
        store.hold()
        call = asyncio.create_task(Counter.at("a").add(10))
        await store.next_commit()
        store.fail(ConflictError("another version"))
        with pytest.raises(ConflictError):
            await call
        store.open_up()
        assert await Counter.at("a").view() == 1
        assert store.loads == loads + 1


@async_test
async def test_a_failed_commit_takes_the_later_ones_and_the_mailbox_with_it() -> None:
    store = ScriptedStore()
    async with running(Counter, store=store):
        store.hold()
        first = asyncio.create_task(Counter.at("a").add(1))
        await store.next_commit()
        later = [asyncio.create_task(Counter.at(key).add(1)) for key in "aab"]
        seen = asyncio.create_task(Counter.at("a").view())
        await spin()
        store.fail(StoreFullError("no space"))
        for call in (first, *later, seen):
            with pytest.raises(StoreFullError):
                await call
        store.open_up()
        assert len(store.batches) == 1  # the later one was never offered
        assert await asyncio.gather(*[Counter.at(key).view() for key in "ab"]) == [0, 0]


@async_test
async def test_an_unexpected_error_of_the_store_is_a_store_error() -> None:
    store = ScriptedStore()
    async with running(Counter, store=store):
        store.hold()
        call = asyncio.create_task(Counter.at("a").add(1))
        await store.next_commit()
        store.fail(RuntimeError("a bug"))
        with pytest.raises(StoreError, match="the commit failed: a bug"):
            await call
        store.open_up()
        assert await Counter.at("a").add(1) == 1


@async_test
async def test_another_actor_hears_of_a_change_only_once_it_is_durable() -> None:
    store = ScriptedStore()
    async with running(Counter, store=store):
        store.hold()
        change = asyncio.create_task(Counter.at("a").add(1))
        await store.next_commit()
        tell_other = asyncio.create_task(Counter.at("a").tell_other("b"))
        await spin()
        assert "b" not in {key for key, _, _ in _added(store)}
        store.open_up()
        assert (await change, await tell_other) == (1, 1)
        assert [key for key, _, _ in _added(store)] == ["a", "b"]


@async_test
async def test_save_makes_the_first_half_durable_whatever_becomes_of_the_rest() -> None:
    store = ScriptedStore()
    async with running(Counter, store=store):
        with pytest.raises(LookupError, match="after the save"):
            await Counter.at("a").add_save_and_fail(5)
        assert await Counter.at("a").view() == 5
        assert (await store.load("counter", "a")).state == b'{"total":5}'  # type: ignore[union-attr]


@async_test
async def test_save_that_fails_raises_in_the_turn() -> None:
    store = ScriptedStore()
    async with running(Counter, store=store):
        store.hold()
        call = asyncio.create_task(Counter.at("a").add_and_tell(5, "b"))
        await store.next_commit()
        store.fail(StoreFullError("no space"))
        with pytest.raises(StoreFullError):
            await call
        store.open_up()
        assert await Counter.at("b").view() == 0


@async_test
async def test_a_turn_of_an_activation_that_was_thrown_away_cannot_save() -> None:
    """Its memory holds what never was, yet its version may be the very next one."""
    global _go
    _go = asyncio.Event()
    store = ScriptedStore()
    async with running(Counter, store=store):
        store.hold()
        lost = asyncio.create_task(Counter.at("a").add(1))
        await store.next_commit()
        zombie = asyncio.create_task(Counter.at("a").add_wait_and_save(100))
        await spin()
        store.fail(StoreFullError("no space"))
        with pytest.raises(StoreFullError):
            await lost
        store.open_up()
        assert await Counter.at("a").add(5) == 5
        _go.set()
        with pytest.raises(StoreError, match="thrown away"):
            await zombie
        assert (await store.load("counter", "a")).state == b'{"total":5}'  # type: ignore[union-attr]
        assert await Counter.at("a").add(1) == 6


@async_test
async def test_answers_that_wait_for_a_slow_commit_are_bounded() -> None:
    """Also those that wait for the commit that is being written, not only the one filling up."""
    store = ScriptedStore()
    async with running(Counter, store=store, limits=Limits(uncommitted_turns_max=10)):
        store.hold()
        write = asyncio.create_task(Counter.at("a").add(1))
        await store.next_commit()
        reads = [asyncio.create_task(Counter.at("a").view()) for _ in range(9)]
        await spin()
        with pytest.raises(OverloadedError):
            await Counter.at("a").view()
        store.open_up()
        await write
        assert await asyncio.gather(*reads) == [1] * 9


@async_test
async def test_a_load_that_fails_is_told_and_tried_again_by_the_next_call() -> None:
    store = ScriptedStore()
    async with running(Counter, store=store):
        store.load_error = StoreError("unreachable")
        with pytest.raises(StoreError, match="unreachable"):
            await Counter.at("a").view()
        assert await Counter.at("a").view() == 0


@async_test
async def test_stop_answers_what_waits_for_its_commit() -> None:
    store = ScriptedStore()
    async with running(Counter, store=store) as app:
        store.hold()
        call = asyncio.create_task(Counter.at("a").add(1))
        await store.next_commit()
        stopping = asyncio.create_task(app.stop())
        await spin()
        assert not stopping.done()
        store.open_up()
        assert await call == 1
        await stopping
