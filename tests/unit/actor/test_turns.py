"""Turns run one at a time, and each happens wholly or not at all."""

import asyncio

import pytest

from perdure import Actor, Caller, Limits, NotRunningError, OverloadedError, ReadOnlyError, read
from perdure.testing import async_test, running, spin


class Counter(Actor):
    total: int = 0
    history: list[int] = []

    async def add(self, amount: int) -> int:
        self.total += amount
        self.history.append(amount)
        return self.total

    async def add_slowly(self, amount: int) -> int:
        before = self.total
        for _ in range(3):
            await asyncio.sleep(0)
        self.total = before + amount
        return self.total

    async def add_then_fail(self, amount: int) -> None:
        self.history.append(amount)
        self.total += amount
        raise LookupError("no such thing")

    async def add_slowly_then_fail(self, amount: int) -> None:
        self.history.append(amount)
        await asyncio.sleep(0)
        self.total += amount
        raise LookupError("no such thing")

    @read
    async def view(self) -> tuple[int, list[int]]:
        return self.total, self.history

    @read
    async def write_in_a_read(self) -> int:
        self.total += 1
        return self.total

    @read
    async def write_in_a_waiting_read(self) -> int:
        self.history.append(1)
        await asyncio.sleep(0)
        return 0

    async def who(self) -> tuple[str, Caller | None]:
        return self.key, self.caller


@async_test
async def test_turns_of_one_actor_run_one_at_a_time() -> None:
    async with running(Counter):
        counter = Counter.at("a")
        await asyncio.gather(*[counter.add_slowly(1) for _ in range(50)])
        assert (await counter.view())[0] == 50


@async_test
async def test_turns_run_in_the_order_in_which_they_were_called() -> None:
    async with running(Counter):
        counter = Counter.at("a")
        await asyncio.gather(*[counter.add(n) for n in range(100)])
        assert (await counter.view())[1] == list(range(100))


@async_test
async def test_actors_with_different_keys_do_not_share_state() -> None:
    async with running(Counter):
        await Counter.at("a").add(1)
        await Counter.at("b").add(2)
        assert await Counter.at("a").view() == (1, [1])
        assert await Counter.at("b").view() == (2, [2])
        assert await Counter.at("c").view() == (0, [])


@pytest.mark.parametrize("method", ["add_then_fail", "add_slowly_then_fail"])
def test_an_exception_leaves_no_trace(method: str) -> None:
    @async_test
    async def body() -> None:
        async with running(Counter):
            counter = Counter.at("a")
            await counter.add(5)
            with pytest.raises(LookupError, match="no such thing"):
                await getattr(counter, method)(7)
            assert await counter.view() == (5, [5])
            assert await counter.add(1) == 6

    body()


@pytest.mark.parametrize("method", ["write_in_a_read", "write_in_a_waiting_read"])
def test_a_read_that_changes_the_state_is_refused_and_undone(method: str) -> None:
    @async_test
    async def body() -> None:
        async with running(Counter):
            counter = Counter.at("a")
            with pytest.raises(ReadOnlyError, match=f"Counter.{method}"):
                await getattr(counter, method)()
            assert await counter.view() == (0, [])

    body()


@async_test
async def test_results_and_arguments_pass_by_value() -> None:
    async with running(Counter):
        counter = Counter.at("a")
        await counter.add(1)
        _, history = await counter.view()
        history.append(99)
        assert (await counter.view())[1] == [1]


@async_test
async def test_state_survives_a_stop_and_start_of_the_app() -> None:
    async with running(Counter) as app:
        await Counter.at("a").add(3)
        store = app._store
    async with running(Counter, store=store):
        assert await Counter.at("a").add(1) == 4


@async_test
async def test_an_actor_knows_its_key_and_caller_only_within_a_turn() -> None:
    async with running(Counter):
        assert await Counter.at("ä/b").who() == ("ä/b", None)
    with pytest.raises(NotRunningError):
        _ = Counter().key
    with pytest.raises(NotRunningError):
        _ = Counter().caller


@async_test
async def test_a_call_without_a_running_app_says_what_to_do() -> None:
    with pytest.raises(NotRunningError, match="async with app"):
        await Counter.at("a").add(1)


def test_a_field_cannot_be_read_through_a_reference() -> None:
    with pytest.raises(AttributeError, match="@read method"):
        _ = Counter.at("a").total
    with pytest.raises(AttributeError, match="no method 'nothing'"):
        Counter.at("a").nothing  # type: ignore[attr-defined]  # noqa: B018


class Gate(Actor):
    runs: int = 0

    async def wait(self) -> int:
        await _released.wait()
        self.runs += 1
        return self.runs

    async def count(self) -> int:
        return self.runs


_released = asyncio.Event()


@async_test
async def test_a_full_mailbox_refuses_at_once_and_loses_nothing() -> None:
    global _released
    _released = asyncio.Event()
    async with running(Gate, limits=Limits(mailbox_depth_max=3)):
        gate = Gate.at("a")
        first = asyncio.create_task(gate.wait())
        await spin()
        queued = [asyncio.create_task(gate.wait()) for _ in range(3)]
        await spin()
        with pytest.raises(OverloadedError, match=r"3 calls already wait for Gate\('a'\)"):
            await gate.wait()
        _released.set()
        assert await first == 1
        assert await asyncio.gather(*queued) == [2, 3, 4]


class Outliver(Actor):
    number: int = 0
    problem: str = ""

    async def begin(self) -> None:
        _left.append(asyncio.create_task(self._later()))

    async def half(self) -> None:
        self.number = 1
        await _released.wait()
        self.number = 2

    async def _later(self) -> None:
        await _released.wait()
        await self.save()


_left: list[asyncio.Task[None]] = []


@async_test
async def test_a_task_that_outlives_its_turn_cannot_save_the_state_of_another() -> None:
    global _released
    _released = asyncio.Event()
    _left.clear()
    async with running(Outliver):
        await Outliver.at("a").begin()
        half = asyncio.create_task(Outliver.at("a").half())
        await spin()
        _released.set()
        with pytest.raises(NotRunningError, match="only while an actor runs a method"):
            await _left[0]
        await half


class Quitter(Actor):
    n: int = 0

    async def raise_timeout(self) -> None:
        self.n += 1
        await asyncio.sleep(0)
        raise TimeoutError("of my own")

    async def view(self) -> int:
        return self.n


@async_test
async def test_a_timeout_of_the_method_itself_is_not_called_a_deadline() -> None:
    async with running(Quitter):
        with pytest.raises(TimeoutError, match="of my own"):
            await Quitter.at("a").raise_timeout()
        assert await Quitter.at("a").view() == 0
