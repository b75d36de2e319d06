"""`crash` and `check_crashes`: they find planted bugs, and stay quiet about what is right."""

import asyncio
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

from perdure import (
    Actor,
    App,
    Delivery,
    DomainError,
    PerdureError,
    StoreError,
    expose,
    interleave,
    read,
    relaxed,
)
from perdure.actor.methods import actor_type_of
from perdure.store.api import ActorWrite, Batch, Committed
from perdure.store.memory import MemoryStore
from perdure.testing import Trial, VirtualClock, async_test, check_crashes, crash, running, spin
from perdure.testing.crash import MortalStore
from perdure.testing.scripted_store import ScriptedStore

CHARGED: list[str] = []  # a card company: it knows nothing of our transactions


class SoldOut(DomainError):
    status = 409


class Shelf(Actor):
    left: int = 5

    @expose
    async def reserve(self, cart: str) -> None:
        if not self.left:
            raise SoldOut("none left")
        self.left -= 1
        Basket.at(cart).tell.got(self.key)

    async def hand_out(self) -> None:
        self.left -= 1

    @expose
    async def put_back(self) -> None:
        self.left += 1

    @expose
    @read
    async def count(self) -> int:
        return self.left


class Basket(Actor):
    held: list[str] = []
    asked: int = 0

    @expose
    async def want(self, tea: str) -> None:
        self.asked += 1
        Shelf.at(tea).tell.reserve(self.key)

    async def got(self, tea: str) -> None:
        self.held.append(tea)
        self.timers.set(
            f"give back {len(self.held)}", after=timedelta(minutes=10), call="lapse", tea=tea
        )

    async def lapse(self, tea: str) -> None:
        self.held.remove(tea)
        Shelf.at(tea).tell.put_back()

    @expose
    async def move(self, tea: str) -> None:
        """Wrong: two commits."""
        await Shelf.at(tea).hand_out()
        self.held.append(tea)

    @expose
    async def hold(self, tea: str) -> None:
        """Wrong: the reservation ends with the process."""
        Shelf.at(tea).tell.hand_out()
        self.held.append(tea)
        await self.save()
        LATER.append(asyncio.create_task(_lapse_later(self.key, tea)))

    async def drop(self, tea: str) -> None:
        if tea in self.held:
            self.held.remove(tea)
            Shelf.at(tea).tell.put_back()

    @expose
    async def pay(self, order: str) -> None:
        """Wrong: the charge is not part of the turn."""
        CHARGED.append(order)
        self.asked += 1

    @expose
    @read
    async def view(self) -> list[str]:
        return self.held

    @expose
    @read
    async def paid(self) -> int:
        return self.asked


LATER: list[asyncio.Task[None]] = []


async def _lapse_later(cart: str, tea: str) -> None:
    await asyncio.sleep(0)
    await Basket.at(cart).drop(tea)


async def nothing_is_lost(_trial: Trial) -> None:
    held = len(await Basket.at("ann").view())
    assert await Shelf.at("assam").count() + held == 5


@async_test
async def test_a_crash_takes_what_was_not_committed() -> None:
    store = ScriptedStore()
    async with running(Shelf, store=store) as app:
        await Shelf.at("assam").put_back()
        store.hold()
        waiting = asyncio.create_task(Shelf.at("assam").put_back())
        await store.next_commit()
        await crash(app)
        with pytest.raises(StoreError, match="killed"):
            await waiting
        store.open_up()
        assert await Shelf.at("assam").count() == 6


@async_test
async def test_messages_and_timers_go_on_after_a_crash() -> None:
    clock = VirtualClock()
    async with running(Shelf, Basket, clock=clock) as app:
        await Basket.at("ann").want("assam")
        await crash(app)
        await clock.advance(1)
        assert await Basket.at("ann").view() == ["assam"]
        await crash(app)
        await clock.advance(600)
        assert await Basket.at("ann").view() == []
        assert await Shelf.at("assam").count() == 5


@async_test
async def test_a_crash_on_sqlite_keeps_what_was_acknowledged(tmp_path: Path) -> None:
    async with running(Shelf, store=f"sqlite:{tmp_path}") as app:
        await Shelf.at("assam").put_back()
        await crash(app)
        assert await Shelf.at("assam").count() == 6


@async_test
async def test_a_right_reservation_passes_at_every_point() -> None:
    async def scenario(trial: Trial) -> None:
        await Basket.at("ann").want("assam")
        await trial.clock.advance(1)
        await Basket.at("ann").want("assam")

    async def invariant(trial: Trial) -> None:
        await nothing_is_lost(trial)
        wanted = [call for call in trial.acknowledged if call.method == "want"]
        assert await Basket.at("ann").paid() >= len(wanted)
        assert await Shelf.at("assam").count() == 5  # all have lapsed

    assert await check_crashes(scenario, invariant, actors=[Shelf, Basket]) > 20


@async_test
async def test_points_are_named_after_what_was_killed() -> None:
    async def scenario(_trial: Trial) -> None:
        await Basket.at("ann").want("assam")
        await Basket.at("ann").move("assam")

    points: list[str | None] = []

    async def note(trial: Trial) -> None:
        points.append(trial.crashed_at)

    passed = await check_crashes(scenario, note, actors=[Shelf, Basket])
    assert points[0] is None
    assert len(points) == passed + 1
    assert {
        "at commit 1 (Basket('ann').want), before it was durable",
        "at commit 1 (Basket('ann').want), after it was durable and before anybody was told",
        "when the message to Shelf('assam').reserve arrived",
        "when a timer called Basket('ann').lapse",
        "at wait 1 of Basket('ann').move",
    } <= set(points)


class Parcel(Actor):
    steps: list[str] = []

    @expose
    @interleave
    async def send(self, to: str) -> None:
        self.steps.append("packed")
        await self.save()
        await Shelf.at(to).count()
        self.steps.append("sent")
        self.outbox.send("post", to=to)

    @expose
    @read
    async def view(self) -> list[str]:
        return self.steps


@async_test
async def test_interleaving_turns_saves_and_outlets_are_killed_as_well() -> None:
    posted: list[Delivery] = []
    points: list[str | None] = []

    async def post(delivery: Delivery) -> None:
        posted.append(delivery)

    async def scenario(_trial: Trial) -> None:
        posted.clear()
        await Parcel.at("17").send("bob")

    async def invariant(trial: Trial) -> None:
        points.append(trial.crashed_at)
        steps = await Parcel.at("17").view()
        assert steps in ([], ["packed"], ["packed", "sent"])
        # once or twice on its way out, but always under one name
        assert len({delivery.id for delivery in posted}) == ("sent" in steps)
        if trial.acknowledged:
            assert steps == ["packed", "sent"]

    await check_crashes(scenario, invariant, actors=[Shelf, Parcel], outlets={"post": post})
    assert "at wait 1 of Parcel('17').send" in points
    assert "at commit 3 (housekeeping), before it was durable" in points


@async_test
async def test_an_outlet_that_counts_deliveries_instead_of_names_is_found() -> None:
    posted: list[Delivery] = []

    async def post(delivery: Delivery) -> None:
        posted.append(delivery)

    async def scenario(_trial: Trial) -> None:
        posted.clear()
        await Parcel.at("17").send("bob")

    async def invariant(_trial: Trial) -> None:
        assert len(posted) <= 1

    with pytest.raises(AssertionError, match=r"^killed at commit 3 \(housekeeping\), before"):
        await check_crashes(scenario, invariant, actors=[Shelf, Parcel], outlets={"post": post})


class Ledger(Actor):
    total: int = 0

    @expose
    @relaxed(loss_max_s=1.0)
    async def add(self) -> int:
        self.total += 1
        return self.total

    @expose
    @read
    async def view(self) -> int:
        return self.total


@async_test
async def test_an_acknowledged_relaxed_write_that_is_lost_is_found() -> None:
    async def scenario(trial: Trial) -> None:
        await Ledger.at("x").add()
        await trial.clock.advance(2)

    async def invariant(trial: Trial) -> None:
        assert await Ledger.at("x").view() >= len(trial.acknowledged)

    with pytest.raises(AssertionError, match=r"^killed at commit 1 \(Ledger\('x'\)\.add\), before"):
        await check_crashes(scenario, invariant, actors=[Ledger])


@async_test
async def test_methods_are_themselves_again_after_a_check() -> None:
    async def scenario(_trial: Trial) -> None:
        await Basket.at("ann").want("assam")

    before = [method.function for method in actor_type_of(Basket).methods.values()]
    await check_crashes(scenario, nothing_is_lost, actors=[Shelf, Basket])
    assert [method.function for method in actor_type_of(Basket).methods.values()] == before
    assert not actor_type_of(Basket).is_bound


@async_test
async def test_an_app_that_was_made_by_hand_cannot_be_crashed() -> None:
    async with App(Shelf, store="memory:") as app:
        with pytest.raises(TypeError, match="running"):
            await crash(app)


@async_test
async def test_a_move_in_two_commits_is_found() -> None:
    async def scenario(_trial: Trial) -> None:
        await Basket.at("ann").move("assam")

    with pytest.raises(AssertionError, match=r"^killed .*Shelf\('assam'\)\.hand_out"):
        await check_crashes(scenario, nothing_is_lost, actors=[Shelf, Basket])


@async_test
async def test_an_effect_outside_of_the_state_is_found() -> None:
    async def scenario(_trial: Trial) -> None:
        CHARGED.clear()
        await Basket.at("ann").pay("17")

    async def invariant(_trial: Trial) -> None:
        assert len(CHARGED) == await Basket.at("ann").paid()

    with pytest.raises(
        AssertionError,
        match=r"^killed at commit 1 \(Basket\('ann'\)\.pay\), before it was durable: ",
    ):
        await check_crashes(scenario, invariant, actors=[Shelf, Basket])


@async_test
async def test_a_reservation_that_ends_with_the_process_is_found() -> None:
    async def scenario(_trial: Trial) -> None:
        await Basket.at("ann").hold("assam")

    async def invariant(trial: Trial) -> None:
        assert await Basket.at("ann").view() == []

    with pytest.raises(AssertionError, match=r"^killed .*Basket"):
        await check_crashes(scenario, invariant, actors=[Shelf, Basket])
    await asyncio.gather(*LATER, return_exceptions=True)


@async_test
async def test_a_scenario_may_try_again_after_the_crash() -> None:
    async def scenario(_trial: Trial) -> None:
        cart = Basket.at("ann", request_id="once")
        try:
            await cart.want("assam")
        except PerdureError:
            await cart.want("assam")

    async def invariant(trial: Trial) -> None:
        assert await Basket.at("ann").paid() == 1
        assert len(trial.acknowledged) == 1

    assert await check_crashes(scenario, invariant, actors=[Shelf, Basket]) > 5


@async_test
async def test_what_fails_without_a_crash_says_so() -> None:
    async def scenario(_trial: Trial) -> None:
        await Basket.at("ann").want("assam")

    async def invariant(_trial: Trial) -> None:
        assert await Basket.at("ann").paid() == 7

    with pytest.raises(AssertionError, match=r"^without any crash: "):
        await check_crashes(scenario, invariant, actors=[Shelf, Basket])


@async_test
async def test_too_many_points_are_refused_by_name() -> None:
    async def scenario(_trial: Trial) -> None:
        for _ in range(10):
            await Basket.at("ann").want("assam")

    with pytest.raises(ValueError, match="points_max is 10"):
        await check_crashes(scenario, nothing_is_lost, actors=[Shelf, Basket], points_max=10)


@async_test
async def test_a_scenario_that_is_not_the_same_twice_is_refused() -> None:
    runs = 0

    async def scenario(_trial: Trial) -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            await Basket.at("ann").pay("17")

    with pytest.raises(ValueError, match="not the same in each run"):
        await check_crashes(scenario, nothing_is_lost, actors=[Shelf, Basket])
    await spin()


class StubbornStore(MemoryStore):
    """Its commits cannot be called off, as those in a thread."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = asyncio.Event()

    async def commit(self, batch: Batch) -> Committed:
        self.begun.set()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return await super().commit(batch)


@async_test
async def test_nobody_is_told_of_a_commit_that_became_durable_after_the_death() -> None:
    inner = StubbornStore()
    await inner.open([actor_type_of(Shelf).schema])
    store = MortalStore(inner)
    write = ActorWrite("shelf", "assam", b"{}", 1)
    committing = asyncio.create_task(store.commit(Batch([write], [], 0)))
    await inner.begun.wait()
    store.kill()
    with pytest.raises(StoreError, match="killed"):
        await committing
    assert await inner.load("shelf", "assam") is not None
    with pytest.raises(StoreError, match="killed"):
        await store.commit(Batch([], [], 0))


@async_test
async def test_what_a_crash_among_the_timers_leaves_behind_settles_too() -> None:
    async def scenario(_trial: Trial) -> None:
        await Basket.at("ann").want("assam")

    async def invariant(trial: Trial) -> None:
        if "timer" in str(trial.crashed_at):  # it was killed while time passed: all of it again
            assert trial.clock.monotonic_s() == 2 * 601
        if trial.acknowledged:
            assert await Basket.at("ann").view() == []
            assert await Shelf.at("assam").count() == 5

    assert await check_crashes(scenario, invariant, actors=[Shelf, Basket], settle_s=601) > 8
