"""Timers: set with the turn, never early, never lost, effect once."""

from datetime import UTC, datetime, timedelta

import pytest

from perdure import Actor, BadArgumentsError, DomainError, LimitError, Limits, read
from perdure.store.memory import MemoryStore
from perdure.testing import VirtualClock, async_test, running, spin


class Late(DomainError):
    """Raised after setting."""


class Bell(Actor):
    rung: list[str] = []
    broken: bool = False

    async def set(
        self, name: str, after_s: float, every_s: float | None = None, fail: bool = False
    ) -> None:
        every = None if every_s is None else timedelta(seconds=every_s)
        after = timedelta(seconds=after_s)
        self.timers.set(name, after=after, every=every, call="ring", name_rung=name)
        if fail:
            raise Late("no")

    async def cancel(self, name: str) -> bool:
        return self.timers.cancel(name)

    async def ring(self, name_rung: str) -> None:
        if self.broken:
            raise Late("broken")
        self.rung.append(name_rung)

    async def storm(self) -> None:
        self.rung.append("storm")
        self.timers.set("storm", after=timedelta(0), call="storm")

    async def smash(self, broken: bool) -> None:
        self.broken = broken

    async def leave(self) -> None:
        self.forget()

    @read
    async def all(self) -> list[str]:
        return self.rung

    @read
    async def waiting(self) -> list[str]:
        return [timer.name for timer in self.timers]


@async_test
async def test_a_timer_fires_when_it_is_due_and_not_before() -> None:
    clock = VirtualClock()
    async with running(Bell, clock=clock):
        await Bell.at("b").set("tea", 10)
        await clock.advance(9.999)
        assert await Bell.at("b").all() == []
        await clock.advance(0.001)
        assert await Bell.at("b").all() == ["tea"]
        await clock.advance(100)
        assert await Bell.at("b").all() == ["tea"]
        assert await Bell.at("b").waiting() == []


@async_test
async def test_timers_fire_in_the_order_in_which_they_are_due() -> None:
    clock = VirtualClock()
    async with running(Bell, clock=clock):
        for name, after_s in (("c", 3), ("a", 1), ("b", 2), ("z", 4_000_000)):
            await Bell.at("b").set(name, after_s)
        assert await Bell.at("b").waiting() == ["a", "b", "c", "z"]
        await clock.advance(5)
        assert await Bell.at("b").all() == ["a", "b", "c"]
        await clock.advance(4_000_000)
        assert await Bell.at("b").all() == ["a", "b", "c", "z"]


@async_test
async def test_set_again_moves_and_cancel_cancels() -> None:
    clock = VirtualClock()
    async with running(Bell, clock=clock):
        await Bell.at("b").set("one", 1)
        await Bell.at("b").set("one", 5)
        await Bell.at("b").set("two", 2)
        assert await Bell.at("b").cancel("two") is True
        assert await Bell.at("b").cancel("two") is False
        await clock.advance(4)
        assert await Bell.at("b").all() == []
        await clock.advance(2)
        assert await Bell.at("b").all() == ["one"]


@async_test
async def test_a_turn_that_fails_sets_and_cancels_nothing() -> None:
    clock = VirtualClock()
    async with running(Bell, clock=clock):
        with pytest.raises(Late):
            await Bell.at("b").set("one", 1, fail=True)
        await clock.advance(2)
        assert await Bell.at("b").all() == []


@async_test
async def test_every_comes_again_until_it_is_cancelled_and_missed_ones_come_as_one() -> None:
    clock, store = VirtualClock(), MemoryStore()
    async with running(Bell, clock=clock, store=store):
        await Bell.at("b").set("tick", 2, every_s=2)
        await clock.advance(7)
        assert await Bell.at("b").all() == ["tick"] * 3
    clock._now_ms += 100_000
    async with running(Bell, clock=clock, store=store):
        await clock.advance(0)
        assert await Bell.at("b").all() == ["tick"] * 4
        await clock.advance(2)
        assert await Bell.at("b").all() == ["tick"] * 5
        assert await Bell.at("b").cancel("tick")
        await clock.advance(20)
        assert await Bell.at("b").all() == ["tick"] * 5


@async_test
async def test_a_timer_survives_a_restart_and_being_late() -> None:
    clock, store = VirtualClock(), MemoryStore()
    async with running(Bell, clock=clock, store=store):
        await Bell.at("b").set("late", 10)
    clock._now_ms += 3_600_000
    async with running(Bell, clock=clock, store=store):
        await clock.advance(0)
        assert await Bell.at("b").all() == ["late"]


@async_test
async def test_a_failing_timer_is_tried_again_and_in_the_end_given_up() -> None:
    clock = VirtualClock()
    limits = Limits(delivery_attempts_max=3, delivery_backoff_s=1.0)
    async with running(Bell, clock=clock, limits=limits) as app:
        await Bell.at("b").smash(True)
        await Bell.at("b").set("x", 1)
        await clock.advance(1.5)
        await Bell.at("b").smash(False)
        await clock.advance(1)
        assert await Bell.at("b").all() == ["x"]
        await Bell.at("b").smash(True)
        await Bell.at("b").set("y", 1)
        await Bell.at("b").set("tick", 1, every_s=50)
        await clock.advance(20)
        letters = await app.store.dead_letters(0, 10)
        assert sorted(letter.arguments for letter in letters) == [
            b'{"name_rung":"tick"}',
            b'{"name_rung":"y"}',
        ]
        assert await Bell.at("b").waiting() == ["tick"]


@async_test
async def test_a_timer_that_sets_itself_off_is_held_back() -> None:
    clock = VirtualClock()
    async with running(Bell, clock=clock, limits=Limits(timer_every_min_s=0.5)):
        await Bell.at("b").storm()
        await clock.advance(10)
        assert 15 <= len(await Bell.at("b").all()) <= 22


@async_test
async def test_timers_go_with_their_actor() -> None:
    clock = VirtualClock()
    async with running(Bell, clock=clock) as app:
        await Bell.at("b").set("one", 1)
        await Bell.at("b").leave()
        assert await app.store.load("bell", "b") is None
        await Bell.at("b").set("two", 2)
        await clock.advance(3)
        assert await Bell.at("b").all() == ["two"]


@async_test
async def test_mistakes_are_told() -> None:
    async with running(Bell, Careless, limits=Limits(timers_max=2)):
        await Bell.at("b").set("1", 1)
        await Bell.at("b").set("2", 1)
        await Bell.at("b").set("2", 2)
        with pytest.raises(LimitError):
            await Bell.at("b").set("3", 1)
        with pytest.raises(LimitError):
            await Bell.at("c").set("1", 1, every_s=0.001)
        for which, told in enumerate(("no method", "takes one of", "takes one of", "time zone")):
            with pytest.raises(BadArgumentsError, match=told):
                await Careless.at("c").set(which)
        with pytest.raises(BadArgumentsError, match="argument"):
            await Careless.at("c").set(4)


class Careless(Actor):
    async def set(self, which: int) -> None:
        second, now = timedelta(seconds=1), datetime.now(UTC)
        if which == 0:
            self.timers.set("a", after=second, call="nothing")
        elif which == 1:
            self.timers.set("a", call="set")
        elif which == 2:
            self.timers.set("a", after=second, at=now, call="set")
        elif which == 3:
            self.timers.set("a", at=now.replace(tzinfo=None), call="set")
        else:
            self.timers.set("a", after=second, call="set", wich=1)


@async_test
async def test_a_hundred_thousand_due_timers_do_not_stall_the_others() -> None:
    clock, store = VirtualClock(), MemoryStore()
    limits = Limits(deliveries_max=100)
    async with running(Bell, clock=clock, store=store, limits=limits) as app:
        for number in range(3_000):
            await Bell.at(f"b{number}").set("x", 5)
        await clock.advance(4)
        clock._now_ms += 1_000
        await spin(5)
        assert await Bell.at("other").all() == []  # answered while they fire
        await clock.advance(1)
        await spin(2_000)
        assert app.statistics()["timers_fired"] == 3_000
