"""What holds in a transaction, rule by rule."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Annotated, Any

import pytest

from perdure import (
    Actor,
    CycleError,
    DeadlineError,
    DomainError,
    Limits,
    NotRunningError,
    OverloadedError,
    ReadOnlyError,
    RequestReusedError,
    StoreError,
    StoreFullError,
    TransactionConflictError,
    TransactionError,
    UniqueError,
    interleave,
    read,
    relaxed,
    transaction,
    unique,
)
from perdure.actor import gate
from perdure.testing import async_test, running, spin
from perdure.testing.scripted_store import ScriptedStore


class Refused(DomainError):
    """No."""


_go: dict[str, asyncio.Event] = {}


def _event(name: str) -> asyncio.Event:
    return _go.setdefault(name, asyncio.Event())


@pytest.fixture(autouse=True)
def _fresh_events() -> None:
    _go.clear()


class Cell(Actor):
    value: int = 0
    name: Annotated[str | None, unique] = None

    async def add(self, amount: int) -> int:
        self.value += amount
        return self.value

    async def add_and_refuse(self, amount: int) -> None:
        self.value += amount
        self.timers.set("t", call="get", after=timedelta(days=1))
        Cell.at("told").tell.add(1)
        raise Refused("no")

    async def add_and_wait(self, amount: int, name: str) -> int:
        self.value += amount
        await _event(name).wait()
        return self.value

    @read
    async def get(self) -> int:
        return self.value

    @read
    async def change_in_a_read(self) -> None:
        self.value += 1

    @read
    async def tell_in_a_read(self) -> None:
        Cell.at("told").tell.add(1)

    @read
    async def timers_set(self) -> list[str]:
        return [timer.name for timer in self.timers]

    async def call_me(self, name: str) -> None:
        self.name = name

    async def set_timer(self, name: str) -> list[str]:
        self.timers.set(name, call="get", after=timedelta(days=1))
        return [timer.name for timer in self.timers]

    async def add_and_tell(self, amount: int) -> None:
        self.value += amount
        Cell.at("told").tell.add(amount)

    async def go(self) -> None:
        self.forget()

    async def save_it(self) -> None:
        self.value += 1
        await self.save()

    async def through(self, path: list[str]) -> None:
        self.value += 1
        if path:
            await Cell.at(path[0]).through(path[1:])

    async def wait_then_call(self, name: str, other: str) -> None:
        self.value += 1
        await _event(name).wait()
        await Cell.at(other).add(1)

    @interleave
    async def add_around_a_wait(self, amount: int) -> int:
        self.value += amount
        await asyncio.sleep(0)
        self.value += amount
        return self.value

    @interleave
    async def open_in_interleaving(self) -> None:
        async with transaction():
            await Cell.at("b").add(1)

    @relaxed(loss_max_s=60)
    async def add_soon(self, amount: int) -> int:
        self.value += amount
        return self.value

    # -- turns that open one

    async def pay(self, to: str, amount: int, fail: str = "") -> int:
        self.value -= 1
        Cell.at("told").tell.add(1)
        try:
            async with transaction():
                self.value -= amount
                Cell.at("told").tell.add(10)
                await Cell.at(to).add(amount)
                if fail == "inside":
                    raise Refused("inside")
        except Refused:
            self.value -= 1000
        if fail == "after":
            raise Refused("after")
        return self.value

    @transaction
    async def swap_into(self, other: str, amount: int) -> int:
        self.value -= amount
        await _event(f"{self.key} begins").wait()
        return await Cell.at(other).add(amount)

    async def save_inside(self, to: str) -> None:
        async with transaction():
            await Cell.at(to).add(1)
            await self.save()

    async def pay_and_save(self, to: str, then_wait: str = "") -> None:
        async with transaction():
            self.value -= 1
            await Cell.at(to).add(1)
        await self.save()
        if then_wait:
            await _event(then_wait).wait()

    async def forget_inside(self, to: str) -> None:
        async with transaction():
            await Cell.at(to).add(1)
            self.forget()

    async def leave_open(self, to: str) -> None:
        async def stray() -> None:
            async with transaction():
                await Cell.at(to).add(1)
                await _event("never").wait()

        task = asyncio.create_task(stray())
        await _event("open").wait()
        _strays.append(task)


_strays: list[asyncio.Task[Any]] = []


async def values(*keys: str) -> list[int]:
    return [await Cell.at(key).get() for key in keys]


def _keys(store: ScriptedStore) -> list[list[str]]:
    """Of each commit, the actors it wrote."""
    return [sorted(write.key for write in batch.writes) for batch in store.batches]


# -- one call of several -------------------------------------------------------------------------


@async_test
async def test_an_exception_undoes_its_call_only_if_the_block_catches_it() -> None:
    store = ScriptedStore()
    async with running(Cell, store=store):
        async with transaction():
            assert await Cell.at("a").add(1) == 1
            with pytest.raises(Refused):
                await Cell.at("a").add_and_refuse(5)
            assert await Cell.at("a").get() == 1
            await Cell.at("b").add(2)
        assert await values("a", "b", "told") == [1, 2, 0]
        assert await Cell.at("a").timers_set() == []
        assert sum(len(batch.sent) for batch in store.batches) == 0


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_an_exception_of_any_participant_undoes_all(failing: int) -> None:
    @async_test
    async def body() -> None:
        store = ScriptedStore()
        async with running(Cell, store=store):
            with pytest.raises(Refused):
                async with transaction():
                    for number, key in enumerate("abc"):
                        await Cell.at(key).add_and_tell(1)
                        if number == failing:
                            await Cell.at(key).add_and_refuse(1)
            assert store.batches == []
            assert await values("a", "b", "c", "told") == [0, 0, 0, 0]
            assert await Cell.at("a").add(1) == 1  # it is free, and its version fits

    body()


@async_test
async def test_later_calls_see_the_effects_of_earlier_ones_and_all_commit_at_once() -> None:
    store = ScriptedStore()
    async with running(Cell, store=store):
        async with transaction():
            await Cell.at("a").set_timer("one")
            assert await Cell.at("a").set_timer("two") == ["one", "two"]
            assert await Cell.at("a").timers_set() == ["one", "two"]
            await Cell.at("a").add_and_tell(1)
            await Cell.at("b").add_and_tell(2)
            await spin()
            assert store.batches == []
        assert len(store.batches[0].writes) == 2
        assert [timer.name for timer in store.batches[0].timers] == ["one", "two"]
        assert len(store.batches[0].sent) == 2


@async_test
async def test_a_read_method_may_not_change_anything_here_either() -> None:
    async with running(Cell):
        async with transaction():
            await Cell.at("a").add_and_tell(1)
            with pytest.raises(ReadOnlyError):
                await Cell.at("a").change_in_a_read()
            with pytest.raises(ReadOnlyError):
                await Cell.at("a").tell_in_a_read()
        assert await Cell.at("a").get() == 1


@async_test
async def test_an_interleaving_method_keeps_its_actor_and_a_relaxed_one_is_durable() -> None:
    store = ScriptedStore()
    async with running(Cell, store=store):
        async with transaction():
            assert await Cell.at("a").add_around_a_wait(1) == 2
            await Cell.at("b").add_soon(1)
        assert _keys(store) == [["a", "b"]]


@async_test
async def test_what_a_relaxed_method_did_before_is_durable_before_the_block_ends() -> None:
    store = ScriptedStore()
    async with running(Cell, store=store):
        await Cell.at("a").add_soon(5)
        assert store.batches == []
        async with transaction():
            assert await Cell.at("a").get() == 5
        assert _keys(store) == [["a"]]


@async_test
async def test_what_participants_call_belongs_to_it() -> None:
    async with running(Cell):
        with pytest.raises(Refused):
            async with transaction():
                await Cell.at("a").through(["b", "c"])
                raise Refused("after")
        assert await values("a", "b", "c") == [0, 0, 0]


@pytest.mark.parametrize("path", ["a", "ba", "bcb"])
def test_a_call_chain_that_comes_back_is_a_cycle(path: str) -> None:
    @async_test
    async def body() -> None:
        async with running(Cell):
            with pytest.raises(CycleError):
                async with transaction():
                    await Cell.at("a").through(list(path))
            assert await values("a", "b", "c") == [0, 0, 0]

    body()


@async_test
async def test_two_chains_of_one_transaction_that_wait_for_each_other_are_a_cycle() -> None:
    async with running(Cell):
        with pytest.raises(CycleError):
            async with transaction():
                crossing = asyncio.gather(
                    Cell.at("a").wait_then_call("go", "b"), Cell.at("b").wait_then_call("go", "a")
                )
                await spin()
                _event("go").set()
                await crossing
        assert await values("a", "b") == [0, 0]


@async_test
async def test_calls_at_once_run_side_by_side_or_one_after_the_other() -> None:
    async with running(Cell):
        async with transaction():
            slow = [asyncio.create_task(Cell.at(key).add_and_wait(1, "go")) for key in "aab"]
            await spin()
            _event("go").set()
            assert await asyncio.gather(*slow) == [1, 2, 1]
        assert await values("a", "b") == [2, 1]


# -- idempotency keys ------------------------------------------------------------------------------


@async_test
async def test_a_request_id_inside_joins_and_is_gone_with_it() -> None:
    store = ScriptedStore()
    async with running(Cell, store=store):
        with pytest.raises(Refused):
            async with transaction():
                await Cell.at("a", request_id="r").add(1)
                raise Refused("after")
        async with transaction():
            for _ in range(2):
                assert await Cell.at("a", request_id="r").add(1) == 1
            with pytest.raises(RequestReusedError):
                await Cell.at("a", request_id="r").add(2)
            await Cell.at("b").add(1)
        assert len(store.batches) == 1
        assert len(store.batches[0].requests) == 1
        assert await Cell.at("a", request_id="r").add(1) == 1
        async with transaction():
            assert await Cell.at("a", request_id="r").add(1) == 1
        assert await values("a", "b") == [1, 1]


@async_test
async def test_with_an_idempotency_key_answer_and_transaction_are_one_commit() -> None:
    store = ScriptedStore()
    async with running(Cell, store=store):
        for _ in range(2):
            assert await Cell.at("a", request_id="r").pay("b", 5) == -6
        first = store.batches[0]
        assert sorted(write.key for write in first.writes) == ["a", "b"]
        assert len(first.requests) == 1
        assert await values("a", "b") == [-6, 5]


@async_test
async def test_with_an_idempotency_key_what_fails_after_the_block_undoes_it_too() -> None:
    store = ScriptedStore()
    async with running(Cell, store=store):
        with pytest.raises(Refused):
            await Cell.at("a", request_id="r").pay("b", 5, "after")
        assert store.batches == []
        assert await values("a", "b") == [0, 0]


@async_test
async def test_with_an_idempotency_key_save_after_the_block_commits_it() -> None:
    store = ScriptedStore()
    async with running(Cell, store=store):
        await Cell.at("a", request_id="r").pay_and_save("b")
        assert _keys(store)[0] == ["a", "b"]
        assert await values("a", "b") == [-1, 1]


@async_test
async def test_an_error_after_a_kept_block_waits_for_what_was_seen() -> None:
    store = ScriptedStore()
    async with running(Cell, store=store):
        store.hold()
        write = asyncio.create_task(Cell.at("b").add(7))
        await store.next_commit()
        refused = asyncio.create_task(Cell.at("a", request_id="r").pay("b", 5, "after"))
        await spin()
        assert not refused.done()
        store.fail(StoreFullError("full"))
        for task in (write, refused):
            with pytest.raises(StoreFullError):
                await task


# -- the turn that opens it ------------------------------------------------------------------------


@async_test
async def test_the_own_actor_commits_with_the_block() -> None:
    store = ScriptedStore()
    async with running(Cell, store=store):
        assert await Cell.at("a").pay("b", 5) == -6
        assert sorted(write.key for write in store.batches[0].writes) == ["a", "b"]
        assert len(store.batches[0].sent) == 2
        with pytest.raises(Refused):
            await Cell.at("a").pay("b", 5, "after")
        assert await values("a", "b") == [-12, 10]  # like save(): what was committed stays


@async_test
async def test_an_exception_takes_the_own_fields_back_to_the_begin_of_the_block() -> None:
    store = ScriptedStore()
    async with running(Cell, store=store):
        assert await Cell.at("a").pay("b", 5, "inside") == -1001
        assert [message.arguments for batch in store.batches for message in batch.sent] == [
            b'{"amount":1}'
        ]
        assert await values("a", "b") == [-1001, 0]


@pytest.mark.parametrize("method", ["save_inside", "forget_inside"])
def test_save_and_the_own_end_are_refused_inside(method: str) -> None:
    @async_test
    async def body() -> None:
        async with running(Cell):
            with pytest.raises(TransactionError):
                await getattr(Cell.at("a"), method)("b")
            with pytest.raises(TransactionError):
                async with transaction():
                    await Cell.at("a").save_it()
            assert await values("a", "b") == [0, 0]

    body()


@async_test
async def test_an_interleaving_method_cannot_open_one() -> None:
    async with running(Cell):
        with pytest.raises(TransactionError, match="interleave"):
            await Cell.at("a").open_in_interleaving()


@async_test
async def test_a_turn_that_ends_before_its_transaction_leaves_no_trace() -> None:
    async with running(Cell):
        leaving = asyncio.create_task(Cell.at("a", request_id="r").leave_open("b"))
        while not await _is_held("b"):
            await spin()
        _event("open").set()
        with pytest.raises(TransactionError):
            await leaving
        assert await values("a", "b") == [0, 0]
        _event("never").set()
        with pytest.raises(NotRunningError):
            await _strays.pop()


async def _is_held(key: str) -> bool:
    reading = asyncio.create_task(Cell.at(key).get())
    await spin()
    if reading.done():
        return False
    reading.cancel()
    return True


@async_test
async def test_two_turns_that_pay_each_other_both_come_through() -> None:
    """Each holds its own actor, which the other wants: one has to step aside."""
    async with running(Cell):
        for request_id in (None, "r"):
            _go.clear()
            both = [
                asyncio.create_task(Cell.at(one, request_id=request_id).swap_into(other, 1))
                for one, other in ("ab", "ba")
            ]
            await spin()
            for key in "ab":
                _event(f"{key} begins").set()
            await asyncio.gather(*both)
        assert await values("a", "b") == [0, 0]


@async_test
async def test_a_turn_that_steps_aside_is_not_run_a_second_time_meanwhile() -> None:
    async with running(Cell):
        both = [
            asyncio.create_task(Cell.at(one, request_id="r").swap_into(other, 1))
            for one, other in ("ab", "ba")
        ]
        await spin()
        _event("a begins").set()
        await spin()
        _event("b begins").set()
        again = [asyncio.create_task(Cell.at("b", request_id="r").swap_into("a", 1))]
        await asyncio.wait([*both, *again])
        assert all(task.exception() is None for task in both)
        assert await values("a", "b") == [0, 0]


# -- blocks in blocks ------------------------------------------------------------------------------


@transaction
async def add_inside(key: str, amount: int, fail: bool = False) -> None:
    await Cell.at(key).add(amount)
    if fail:
        raise Refused("inside")


@async_test
async def test_a_block_inside_joins_the_outer_one() -> None:
    store = ScriptedStore()
    async with running(Cell, store=store):
        async with transaction():
            await Cell.at("a").add(1)
            await add_inside("b", 1)
            assert store.batches == []
        assert _keys(store) == [["a", "b"]]


@async_test
async def test_a_block_inside_that_fails_fails_all_even_if_it_is_caught() -> None:
    async with running(Cell):
        with pytest.raises(TransactionError):
            async with transaction():
                await Cell.at("a").add(1)
                with pytest.raises(Refused):
                    await add_inside("b", 1, fail=True)
        assert await values("a", "b") == [0, 0]


@async_test
async def test_a_block_inside_that_is_still_open_is_refused() -> None:
    async with running(Cell):

        async def inside() -> None:
            async with transaction():
                await Cell.at("b").add(1)
                await _event("go").wait()

        with pytest.raises(TransactionError):
            async with transaction():
                task = asyncio.create_task(inside())
                await Cell.at("a").add(1)
                await spin()
        _event("go").set()
        with pytest.raises(NotRunningError):
            await task
        assert await values("a", "b") == [0, 0]


# -- the end ---------------------------------------------------------------------------------------


@async_test
async def test_a_call_that_was_not_awaited_is_cut_off_and_all_is_undone() -> None:
    async with running(Cell):
        with pytest.raises(TransactionError, match="await"):
            async with transaction():
                await Cell.at("b").add(1)
                task = asyncio.create_task(Cell.at("a").add_and_wait(1, "never"))
                await spin()
        with pytest.raises(NotRunningError):
            await task
        assert await values("a", "b") == [0, 0]


@async_test
async def test_tasks_that_outlive_the_block_are_refused() -> None:
    async def stray() -> None:
        await _event("go").wait()
        await Cell.at("a").add(1)

    async with running(Cell):
        async with transaction():
            task = asyncio.create_task(stray())
            await Cell.at("a").add(1)
        _event("go").set()
        with pytest.raises(NotRunningError):
            await task
        assert await values("a") == [1]


@async_test
async def test_the_others_are_free_at_once_and_their_answers_wait_for_the_commit() -> None:
    store = ScriptedStore()
    async with running(Cell, store=store):
        await values("a", "b")
        store.hold()

        async def both() -> None:
            async with transaction():
                await Cell.at("a").add(1)
                await Cell.at("b").add(1)

        task = asyncio.create_task(both())
        await store.next_commit()
        reading = asyncio.create_task(Cell.at("a").get())
        adding = asyncio.create_task(Cell.at("b").add(1))
        await spin()
        assert not any(one.done() for one in (reading, adding, task))
        store.open_up()
        assert (await reading, await adding) == (1, 2)
        await task


@async_test
async def test_a_block_that_only_reads_waits_for_what_it_read() -> None:
    store = ScriptedStore()
    async with running(Cell, store=store):
        store.hold()
        write = asyncio.create_task(Cell.at("a").add(1))
        await store.next_commit()

        async def look() -> list[int]:
            async with transaction():
                return await values("a", "b")

        looking = asyncio.create_task(look())
        await spin()
        assert not looking.done()
        store.fail(StoreFullError("full"))
        for task in (write, looking):
            with pytest.raises(StoreFullError):
                await task


@async_test
async def test_an_error_out_of_the_block_waits_for_what_it_may_tell() -> None:
    store = ScriptedStore()
    async with running(Cell, store=store):
        store.hold()
        write = asyncio.create_task(Cell.at("a").add(1))
        await store.next_commit()

        async def refuse() -> None:
            async with transaction():
                raise Refused(str(await Cell.at("a").get()))

        refusing = asyncio.create_task(refuse())
        await spin()
        assert not refusing.done()
        store.fail(StoreFullError("full"))
        for task in (write, refusing):
            with pytest.raises(StoreFullError):
                await task


@async_test
async def test_forgotten_participants_are_gone_with_the_commit() -> None:
    async with running(Cell):
        await Cell.at("a").add(5)
        with pytest.raises(Refused):
            async with transaction():
                await Cell.at("a").go()
                raise Refused("after")
        assert await values("a") == [5]
        async with transaction():
            await Cell.at("a").go()
            await Cell.at("b").add(5)
            with pytest.raises(TransactionError):
                await Cell.at("a").get()
        assert await values("a", "b") == [0, 5]


@pytest.mark.parametrize("plant", [False, True])
def test_a_participant_that_was_only_read_takes_the_rest_along(
    plant: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its uncommitted state is refused by the store: what rests on it must not stay."""
    if plant:
        monkeypatch.setattr(gate, "linked", lambda _links: {})
        monkeypatch.setattr(gate.GroupCommit, "hold_future", _hold_for_nobody)

    @async_test
    async def body() -> None:
        store = ScriptedStore()
        async with running(Cell, store=store):
            await Cell.at("x").call_me("ann")
            store.hold()
            naming = asyncio.create_task(Cell.at("a").call_me("ann"))
            await spin()

            async def look_and_add() -> None:
                async with transaction():
                    await Cell.at("a").get()
                    await Cell.at("b").add(1)

            adding = asyncio.create_task(look_and_add())
            await spin()
            store.open_up()
            with pytest.raises(UniqueError):
                await naming
            if plant:
                await adding
                assert await values("b") == [1]  # and so the test below could fail
                return
            with pytest.raises((UniqueError, StoreError)):
                await adding
            assert await values("a", "b") == [0, 0]

    body()


def _hold_for_nobody(self: gate.GroupCommit, waiter: "asyncio.Future[None]", *_: object) -> None:
    self._waiters.append((waiter, ()))


# -- what goes wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["first lock", "second lock", "method", "own code", "commit"])
def test_it_can_be_cancelled_wherever_it_waits(at: str) -> None:
    @async_test
    async def body() -> None:
        store = ScriptedStore()
        async with running(Cell, store=store):
            await Cell.at("a").add(0)
            blocked = {"first lock": "a", "second lock": "b"}.get(at, "other")
            blocking = asyncio.create_task(Cell.at(blocked).add_and_wait(0, "free"))
            await spin()
            if at == "commit":
                store.hold()

            async def both() -> None:
                async with transaction():
                    await Cell.at("a").add(1)
                    await Cell.at("b").add(1)
                    if at == "method":
                        await Cell.at("a").add_and_wait(1, "never")
                    if at == "own code":
                        await _event("never").wait()

            task = asyncio.create_task(both())
            await spin()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            _event("free").set()
            store.open_up()
            await blocking
            # a commit that is on its way is not called back
            assert await values("a", "b") == ([1, 1] if at == "commit" else [0, 0])
            assert await Cell.at("a").add(1) == (2 if at == "commit" else 1)

    body()


@pytest.mark.parametrize("at", ["lock", "method", "own code"])
def test_the_deadline_undoes_it_wherever_it_is(at: str) -> None:
    @async_test
    async def body() -> None:
        async with running(Cell, limits=Limits(call_timeout_s=0.1)):
            if at == "lock":
                holding = asyncio.create_task(Cell.at("b").add_and_wait(0, "never"))
                await spin()
            with pytest.raises(DeadlineError):
                async with transaction(timeout_s=0.05 if at == "lock" else None):
                    await Cell.at("a").add(1)
                    if at == "lock":
                        await Cell.at("b").add(1)
                    elif at == "method":
                        await Cell.at("a").add_and_wait(1, "never")
                    await _event("never").wait()
            assert await values("a") == [0]
            if at == "lock":
                with pytest.raises(DeadlineError):
                    await holding

    body()


@async_test
async def test_a_participant_that_dies_fails_it_and_restores_the_others() -> None:
    store = ScriptedStore()
    async with running(Cell, store=store):
        store.hold()
        write = asyncio.create_task(Cell.at("a").add(1))
        await store.next_commit()
        begun = asyncio.Event()

        async def both() -> None:
            async with transaction():
                await Cell.at("a").get()
                await Cell.at("b").add(1)
                begun.set()
                await _event("go").wait()
                await Cell.at("c").add(1)

        task = asyncio.create_task(both())
        await begun.wait()
        store.fail(StoreFullError("full"))
        with pytest.raises(StoreFullError):
            await write
        _event("go").set()
        with pytest.raises(StoreFullError):
            await task
        store.open_up()
        assert await values("a", "b", "c") == [0, 0, 0]


@async_test
async def test_a_full_mailbox_refuses_it_and_the_rest_is_undone() -> None:
    async with running(Cell, limits=Limits(mailbox_depth_max=1)):
        calls = [asyncio.create_task(Cell.at("b").add_and_wait(0, "go")) for _ in range(2)]
        await spin()
        with pytest.raises(OverloadedError):
            async with transaction():
                await Cell.at("a").add(1)
                await Cell.at("b").add(1)
        _event("go").set()
        await asyncio.gather(*calls)
        assert await values("a", "b") == [0, 0]


# -- deadlocks -------------------------------------------------------------------------------------


async def _cross(wrap: Callable[[Callable[..., Awaitable[None]]], Any]) -> list[Any]:
    """Two that lock a and b in opposite orders, one step at a time."""

    async def both(first: str, second: str) -> None:
        await Cell.at(first).add(1)
        _event(first).set()
        await _event(second).wait()
        await Cell.at(second).add(1)

    run = wrap(both)
    return await asyncio.gather(run("a", "b"), run("b", "a"), return_exceptions=True)


@async_test
async def test_of_two_bare_blocks_that_wait_for_each_other_one_is_told_at_once() -> None:
    def bare(function: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        async def run(*keys: str) -> None:
            async with transaction():
                await function(*keys)

        return run

    async with running(Cell):
        outcomes = await _cross(bare)
        assert sorted(map(str, map(type, outcomes))) == sorted(
            map(str, [type(None), TransactionConflictError])
        )
        assert await values("a", "b") == [1, 1]


@async_test
async def test_decorated_functions_are_run_again() -> None:
    async with running(Cell):
        assert await _cross(transaction) == [None, None]
        assert await values("a", "b") == [2, 2]


@async_test
async def test_with_all_named_they_go_one_after_the_other() -> None:
    async with running(Cell):

        async def both(first: str, second: str) -> None:
            async with transaction(Cell.at(first), Cell.at(second)):
                await Cell.at(first).add(1)
                await spin(5)
                await Cell.at(second).add(1)

        await asyncio.gather(*[both(*keys) for keys in ("ab", "ba", "bc", "ca", "cb") * 5])
        assert await values("a", "b", "c") == [15, 20, 15]


@async_test
async def test_a_call_chain_and_a_transaction_that_wait_for_each_other_are_told() -> None:
    class Chain(Actor):
        async def call(self, key: str) -> int:
            await _event("chain").wait()
            return await Cell.at(key).add(1)

        async def touch(self) -> None: ...

    async with running(Cell, Chain):
        chain = asyncio.create_task(Chain.at("c").call("a"))
        await spin()

        async def both() -> None:
            async with transaction():
                await Cell.at("a").add(1)
                _event("chain").set()
                await Chain.at("c").touch()

        with pytest.raises(TransactionConflictError):
            await asyncio.gather(both(), chain)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            assert not task.done()
        await spin()
        assert (await values("a"))[0] == 1  # one of the two came through


@async_test
async def test_a_deadlock_that_comes_with_a_lock_that_is_granted_late_is_told() -> None:
    """It waits for b and c at once; when it gets c, others wait for c who hold b."""
    async with running(Cell):
        holding = asyncio.create_task(Cell.at("c").add_and_wait(0, "c is free"))
        await spin()

        async def one() -> None:
            async with transaction():
                await asyncio.gather(Cell.at("c").add(1), Cell.at("b").add(1))

        async def other() -> None:
            async with transaction():
                await Cell.at("b").add(1)
                _event("b is held").set()
                await _event("one waits").wait()
                await Cell.at("c").add(1)

        others = asyncio.create_task(other())
        await _event("b is held").wait()
        ones = asyncio.create_task(one())
        await spin()
        _event("one waits").set()
        await spin()
        _event("c is free").set()
        outcomes = await asyncio.gather(ones, others, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes].count(TransactionConflictError) == 1
        await holding
        assert await values("b", "c") == [1, 1]


@async_test
async def test_retries_end_with_the_deadline() -> None:
    runs: list[int] = []

    @transaction(timeout_s=0.1)
    async def never() -> None:
        runs.append(1)
        await Cell.at("a").add(1)
        raise TransactionConflictError("again")

    async with running(Cell):
        with pytest.raises((TransactionConflictError, DeadlineError)):
            await never()
        assert len(runs) > 2
        assert await values("a") == [0]


@async_test
async def test_many_that_fight_for_the_same_two_all_come_through() -> None:
    @transaction
    async def both(first: str, second: str) -> None:
        await Cell.at(first).add(1)
        await spin(3)
        await Cell.at(second).add(1)

    async with running(Cell):
        await asyncio.gather(*[both(*keys) for keys in ("ab", "ba") * 50])
        assert await values("a", "b") == [100, 100]


# -- misuse ----------------------------------------------------------------------------------------


@async_test
async def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(TransactionError, match="address"):
        transaction("a")  # type: ignore[call-overload]
    with pytest.raises(TransactionError, match="async"):
        transaction()(lambda: None)  # type: ignore[arg-type,return-value]
    with pytest.raises(NotRunningError):
        async with transaction(Cell.at("a")):
            pass
    async with running(Cell):
        block = transaction()
        async with block:
            pass
        with pytest.raises(TransactionError, match="once"):
            await block.__aenter__()


@async_test
async def test_actors_of_two_apps_cannot_take_part_in_one() -> None:
    class Other(Actor):
        async def touch(self) -> None: ...

    async with running(Cell), running(Other):
        with pytest.raises(TransactionError, match="two Apps"):
            async with transaction():
                await Cell.at("a").add(1)
                await Other.at("a").touch()
        assert await values("a") == [0]


@async_test
async def test_plain_calls_of_others_do_not_inherit_it() -> None:
    """A turn that begins because a lock goes, begins in the task that let it go."""
    async with running(Cell):
        waiting: list[asyncio.Task[Any]] = []

        async def pass_through() -> None:
            await _event("held").wait()
            await Cell.at("a").through(["b"])

        waiting.append(asyncio.create_task(pass_through()))
        async with transaction():
            await Cell.at("a").add(1)
            _event("held").set()
            await spin()
        await asyncio.gather(*waiting)
        assert await values("a", "b") == [2, 1]
