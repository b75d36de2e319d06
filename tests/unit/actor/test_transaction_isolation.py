"""Random transactions and plain calls at once, on a store that fails at times: whatever they see
is strictly serializable, and money is neither made nor lost."""

import asyncio
import contextlib
import itertools
import random
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.actor.serializability import UNKNOWN, Operation, violations

from perdure import (
    Actor,
    CycleError,
    DomainError,
    PerdureError,
    ReadOnlyError,
    StoreError,
    StoreFullError,
    TransactionConflictError,
    read,
    transaction,
)
from perdure.actor.locks import LockTurn
from perdure.actor.transaction import Transaction
from perdure.store.api import Batch, Committed
from perdure.store.memory import MemoryStore
from perdure.testing import async_test, running

KEYS = ["a", "b", "c", "d"]


class FlakyStore(MemoryStore):
    """Takes its time for a commit, and fails some."""

    def __init__(self, chance: random.Random, fails: float) -> None:
        super().__init__()
        self._chance, self._fails = chance, fails
        self.failures = 0

    async def commit(self, batch: Batch) -> Committed:
        for _ in range(self._chance.randrange(6)):
            await asyncio.sleep(0)
        if self._chance.random() < self._fails:
            self.failures += 1
            raise StoreFullError("no space, this time")
        return await super().commit(batch)


class Seen(DomainError):
    """Refuses, after it has seen something."""


class Register(Actor):
    value: int = 0

    @read
    async def get(self) -> int:
        return self.value

    async def swap(self, value: int) -> int:
        before, self.value = self.value, value
        return before

    async def swap_slowly(self, value: int) -> int:
        before, self.value = self.value, value
        await asyncio.sleep(0)
        return before

    async def swap_with(self, value: int, other: str, others: int) -> tuple[int, int]:
        """As a turn that opens a transaction, or, in one, as a part of it."""
        async with transaction():
            before, self.value = self.value, value
            return before, await Register.at(other).swap(others)

    @transaction
    async def swap_all_with(self, value: int, other: str, others: int) -> tuple[int, int]:
        before, self.value = self.value, value
        await asyncio.sleep(0)
        return before, await Register.at(other).swap(others)


class Workload:
    """Random operations, and the history of what they have seen."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._moments = itertools.count(1)
        self._values = itertools.count(1)
        self.history: list[Operation] = []

    async def work(self, operations: int) -> None:
        for _ in range(operations):
            run = self._chance.choice(
                [self._bare, self._bare, self._decorated, self._in_a_turn, self._plain, self._audit]
            )
            operation = Operation(f"T{len(self.history)}", next(self._moments))
            self.history.append(operation)
            try:
                await self._perhaps_cancelled(run(operation))
                operation.committed = True
            except asyncio.CancelledError:
                operation.committed = None
            except Seen:
                operation.reads = list(operation.seen())
                operation.writes.clear()  # undone; but what it saw must have been true
                operation.committed = True
            except (StoreError, TransactionConflictError, CycleError):
                pass
            operation.ended = next(self._moments)
            await self._pause()

    async def _perhaps_cancelled(self, work: Coroutine[Any, Any, None]) -> None:
        if self._chance.random() < 0.9:
            await work
            return
        task = asyncio.create_task(work)
        for _ in range(self._chance.randrange(30)):
            await asyncio.sleep(0)
        task.cancel()
        await task

    async def _pause(self) -> None:
        for _ in range(self._chance.randrange(4)):
            await asyncio.sleep(0)

    async def _steps(self, operation: Operation) -> None:
        for key in self._chance.choices(KEYS, k=self._chance.randint(1, 4)):
            await self._step(operation, key)
            await self._pause()
        if self._chance.random() < 0.15:
            raise Seen("enough")

    async def _step(self, operation: Operation, key: str) -> None:
        if self._chance.random() < 0.4:
            operation.reads.append((key, await Register.at(key).get()))
            return
        value = next(self._values)
        method = self._chance.choice(["swap", "swap_slowly"])
        operation.writes.append((key, UNKNOWN, value))
        before = await getattr(Register.at(key), method)(value)
        operation.writes[operation.writes.index((key, UNKNOWN, value))] = (key, before, value)

    async def _bare(self, operation: Operation) -> None:
        async with transaction():
            await self._steps(operation)

    async def _decorated(self, operation: Operation) -> None:
        @transaction(timeout_s=5)
        async def run() -> None:
            operation.reads.clear()
            operation.writes.clear()
            await self._steps(operation)

        await run()

    async def _in_a_turn(self, operation: Operation) -> None:
        one, other = self._chance.sample(KEYS, 2)
        value, others = next(self._values), next(self._values)
        request_id = operation.name if self._chance.random() < 0.5 else None
        method = self._chance.choice(["swap_with", "swap_all_with"])
        operation.writes += [(one, UNKNOWN, value), (other, UNKNOWN, others)]
        reference = Register.at(one, request_id=request_id)
        befores = await getattr(reference, method)(value, other, others)
        operation.writes[:] = [(one, befores[0], value), (other, befores[1], others)]

    async def _plain(self, operation: Operation) -> None:
        await self._step(operation, self._chance.choice(KEYS))

    async def _audit(self, operation: Operation) -> None:
        async with transaction():
            values = await asyncio.gather(*[Register.at(key).get() for key in KEYS])
            operation.reads += zip(KEYS, values, strict=True)
            if self._chance.random() < 0.3:
                raise Seen("what I saw")


async def history_of(seed: int, fails: float = 0.15) -> list[Operation]:
    chance = random.Random(seed)
    workload = Workload(chance)
    async with running(Register, store=FlakyStore(chance, fails)):
        await asyncio.gather(*[workload.work(12) for _ in range(8)])
    return workload.history


@given(seed=st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_transactions_and_calls_are_strictly_serializable(seed: int) -> None:
    @async_test
    async def body() -> None:
        assert violations(await history_of(seed)) == []

    body()


@async_test
async def test_the_histories_are_worth_checking() -> None:
    history = [operation for seed in range(4) for operation in await history_of(seed)]
    committed = [one for one in history if one.committed]
    assert len(committed) > 150
    assert len(history) - len(committed) > 10
    assert sum(len(one.installed()) > 1 for one in committed) > 15


def _no_roll_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LockTurn, "roll_back", lambda self: None)


def _roll_back_of_all_but_one(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = LockTurn.roll_back
    spared: Iterator[int] = itertools.count()
    monkeypatch.setattr(LockTurn, "roll_back", lambda self: next(spared) % 3 and whole(self))


def _locks_go_before_the_states_join(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Transaction._join

    def join(self: Transaction, commit: object) -> None:
        for lock in self._held.values():
            lock.release()
        whole(self, commit)  # type: ignore[arg-type]

    monkeypatch.setattr(Transaction, "_join", join)


def _nothing_waits_for_what_it_saw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Transaction, "_seen", lambda self: [])


def _locks_are_let_go_after_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Transaction._run

    async def run(self: Transaction, lock: LockTurn, turn: object) -> bytes:
        try:
            return await whole(self, lock, turn)  # type: ignore[arg-type]
        finally:
            lock.release()

    monkeypatch.setattr(Transaction, "_run", run)


@pytest.mark.parametrize(
    "plant",
    [
        _no_roll_back,
        _roll_back_of_all_but_one,
        _locks_go_before_the_states_join,
        _nothing_waits_for_what_it_saw,
        _locks_are_let_go_after_each_call,
    ],
)
def test_a_bug_in_the_locking_is_seen(
    plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    for seed in range(40):
        found: list[str] = []

        @async_test
        async def body(seed: int = seed, found: list[str] = found) -> None:
            found += violations(await history_of(seed))

        try:
            body()
        except ReadOnlyError:  # a read saw its actor change under it
            return
        if found:
            return
    pytest.fail("not seen in 40 histories")


# -- money -------------------------------------------------------------------------------------


class Short(DomainError):
    """Not enough money."""


class Account(Actor):
    money: int = 100

    async def change(self, amount: int) -> int:
        self.money += amount
        if self.money < 0:
            raise Short(f"{self.money - amount} is not enough")
        return self.money

    @read
    async def view(self) -> int:
        return self.money


@transaction
async def transfer(source: str, target: str, amount: int) -> None:
    await Account.at(target).change(amount)
    await Account.at(source).change(-amount)


@transaction
async def total(keys: list[str]) -> int:
    return sum([await Account.at(key).view() for key in keys])


@pytest.mark.parametrize("seed", range(3))
def test_the_sum_of_all_accounts_stays_at_every_moment(seed: int) -> None:
    @async_test
    async def body() -> None:
        chance = random.Random(seed)
        keys = [f"k{number}" for number in range(6)]
        sums: list[int] = []
        moved: list[bool] = []

        async def move() -> None:
            for _ in range(20):
                source, target = chance.sample(keys, 2)
                try:
                    await transfer(source, target, chance.randrange(60))
                    moved.append(True)
                except (Short, PerdureError):
                    moved.append(False)

        async def audit() -> None:
            for _ in range(10):
                with contextlib.suppress(StoreError):
                    sums.append(await total(keys))

        async with running(Account, store=FlakyStore(chance, 0.1)):
            await asyncio.gather(*[move() for _ in range(8)], audit(), audit())
            assert sum([await Account.at(key).view() for key in keys]) == 600
        assert set(sums) == {600}
        assert moved.count(True) > 30
        assert moved.count(False) > 10

    body()
