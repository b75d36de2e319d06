"""Who may get requests: changes, draining, health, ejection, slow start."""

import asyncio
import random
from collections import Counter

import pytest

from perdure.balance.backends import Backend, Backends, Rules, Target
from perdure.testing.clock import VirtualClock


def targets(*names: str, weight: int = 1) -> list[Target]:
    return [Target(name=name, host="127.0.0.1", port=1, weight=weight) for name in names]


def group(*names: str, policy: str = "round-robin", **rules: float) -> Backends:
    backends = Backends(
        policy,  # type: ignore[arg-type]
        Rules(**({"slow_start_s": 0} | rules)),  # type: ignore[arg-type]
        clock=VirtualClock(),
        draw=random.Random(1).random,
    )
    backends.update(targets(*names))
    return backends


def named(backends: Backends, name: str) -> Backend:
    return next(backend for backend in backends.all() if backend.target.name == name)


def chosen(backends: Backends, count: int = 300) -> Counter[str]:
    return Counter(
        backend.target.name for _ in range(count) if (backend := backends.choose()) is not None
    )


def fail(backend: Backend, times: int) -> None:
    for _ in range(times):
        backend.begin()
        backend.end(0.001, failed=True)


def states(backends: Backends) -> dict[str, str]:
    return {backend.target.name: backend.state for backend in backends.all()}


def test_without_backends_there_is_nothing_to_choose() -> None:
    assert group().choose() is None


@pytest.mark.parametrize("policy", ["peak-ewma", "least-connections", "round-robin", "hash"])
def test_every_policy_gives_idle_backends_equal_parts(policy: str) -> None:
    counts = chosen(group("a", "b", "c", policy=policy), 3000)
    assert all(850 < counts[name] < 1150 for name in "abc")


def test_what_was_tried_is_not_chosen_again() -> None:
    backends = group("a", "b")
    assert backends.choose(excluding=[named(backends, "a")]) is named(backends, "b")
    assert backends.choose(excluding=backends.all()) is None


def test_the_same_key_goes_to_the_same_backend_while_it_is_there() -> None:
    backends = group("a", "b", "c", policy="hash")
    first = backends.choose(4711)
    assert {backends.choose(4711) for _ in range(20)} == {first}
    assert first is not None
    backends.drain(first.target.name)
    second = backends.choose(4711)
    assert second is not first
    backends.undrain(first.target.name)
    assert backends.choose(4711) is first


def test_a_backend_that_is_not_named_any_more_ends_its_work_and_goes() -> None:
    backends = group("a", "b")
    gone = named(backends, "a")
    gone.begin()
    backends.update(targets("b", "c"))
    assert states(backends) == {"b": "up", "c": "up", "a": "draining"}
    assert set(chosen(backends)) == {"b", "c"}
    gone.end(0.01, failed=False)
    assert gone.state == "gone"
    assert states(backends) == {"b": "up", "c": "up"}


def test_an_update_that_changes_nothing_keeps_the_backends() -> None:
    backends = group("a", "b")
    before = backends.all()
    backends.update(targets("b", "a"))
    assert set(before) == set(backends.all())


def test_a_name_that_moves_to_another_port_is_another_backend() -> None:
    backends = group("a")
    old = named(backends, "a")
    backends.update([Target(name="a", host="127.0.0.1", port=2)])
    assert old.state == "gone"
    assert named(backends, "a").target.port == 2


def test_failures_in_a_row_eject_and_time_brings_back() -> None:
    backends = group("a", "b", "c", eject_s=5)
    clock = backends.clock
    assert isinstance(clock, VirtualClock)
    fail(named(backends, "a"), 4)
    assert states(backends)["a"] == "up"
    fail(named(backends, "a"), 1)
    assert states(backends)["a"] == "ejected"
    assert backends.ejections_total == 1


def test_a_backend_that_was_away_altogether_comes_back_without_its_past() -> None:
    async def body() -> None:
        backends = group("a", "b", "c", eject_s=5)
        clock = backends.clock
        assert isinstance(clock, VirtualClock)
        one = named(backends, "a")
        fail(one, 5)
        backends.set_health(one, is_healthy=False)
        assert one.state == "down"
        backends.set_health(one, is_healthy=True)
        assert one.state == "up"
        fail(one, 5)  # it is no better: twice as long, and what was set for the first time is void
        await clock.advance(5.1)
        assert one.state == "ejected"
        await clock.advance(5.0)
        assert one.state == "up"

    asyncio.run(body())


def test_a_backend_that_is_away_is_not_left_out_for_longer_each_time() -> None:
    async def body() -> None:
        backends = group("a", "b", "c", eject_s=5)
        clock = backends.clock
        assert isinstance(clock, VirtualClock)
        one = named(backends, "a")
        for _ in range(4):
            for _ in range(5):
                one.begin()
                one.end(None, failed=True, is_away=True)
            assert one.state == "ejected"
            await clock.advance(5.1)
            assert one.state == "up"

    asyncio.run(body())


def test_each_ejection_lasts_twice_as_long_and_is_forgotten_at_last() -> None:
    async def body() -> None:
        backends = group("a", "b", "c", eject_s=5)
        clock = backends.clock
        assert isinstance(clock, VirtualClock)
        fail(named(backends, "a"), 5)
        await clock.advance(5.1)
        assert states(backends)["a"] == "up"
        fail(named(backends, "a"), 1)  # one more is enough
        await clock.advance(9.8)
        assert states(backends)["a"] == "ejected"
        await clock.advance(0.3)
        assert states(backends)["a"] == "up"
        await clock.advance(30)
        fail(named(backends, "a"), 1)
        await clock.advance(5.1)
        assert states(backends)["a"] == "up"

    asyncio.run(body())


def test_at_most_half_are_ejected() -> None:
    backends = group("a", "b", "c", "d")
    for backend in backends.all():
        fail(backend, 5)
    assert Counter(states(backends).values()) == {"ejected": 2, "up": 2}


def test_a_single_backend_is_never_ejected() -> None:
    backends = group("a")
    fail(named(backends, "a"), 50)
    assert states(backends) == {"a": "up"}


def test_an_answer_in_between_forgives_failures() -> None:
    backends = group("a", "b")
    backend = named(backends, "a")
    fail(backend, 4)
    backend.begin()
    backend.end(0.01, failed=False)
    fail(backend, 4)
    assert backend.state == "up"


def test_a_client_that_went_away_says_nothing_about_the_backend() -> None:
    backends = group("a", "b")
    backend = named(backends, "a")
    fail(backend, 4)
    backend.begin()
    backend.end(None, failed=False)
    fail(backend, 1)
    assert backend.state == "ejected"


def test_unhealthy_and_drained_backends_get_nothing() -> None:
    backends = group("a", "b", "c")
    backends.set_health(named(backends, "a"), is_healthy=False)
    backends.drain("b")
    assert states(backends) == {"a": "down", "b": "draining", "c": "up"}
    assert set(chosen(backends)) == {"c"}
    backends.set_health(named(backends, "a"), is_healthy=True)
    backends.undrain("b")
    assert set(chosen(backends)) == {"a", "b", "c"}


def test_a_new_backend_comes_to_its_weight_slowly() -> None:
    async def body() -> None:
        backends = group("a", slow_start_s=10)
        clock = backends.clock
        assert isinstance(clock, VirtualClock)
        assert named(backends, "a").weight == 1
        backends.update(targets("a", "b"))
        early = chosen(backends, 1100)["b"]
        assert 60 < early < 140
        await clock.advance(5)
        assert 330 < chosen(backends, 1100)["b"] < 450
        await clock.advance(6)
        assert 500 < chosen(backends, 1100)["b"] < 600

    asyncio.run(body())


def test_a_slow_backend_gets_less_and_an_untried_one_is_not_flooded() -> None:
    backends = group("a", "b", policy="peak-ewma")
    slow, fresh = backends.all()
    slow.begin()
    slow.end(0.2, failed=False)
    first = backends.choose()
    assert first is fresh
    fresh.begin()
    assert backends.choose() is slow


def test_watchers_hear_of_new_backends_and_of_changes() -> None:
    heard: list[tuple[str, str]] = []
    backends = group()
    backends.watch(lambda backend: heard.append((backend.target.name, backend.state)))
    backends.update(targets("a"))
    backends.drain("a")
    backends.update([])
    assert heard == [("a", "up"), ("a", "draining"), ("a", "gone")]
