"""The seeded loop and its processes: order, time, death, standing still."""

import asyncio
import os
from collections.abc import Coroutine
from typing import Any

import pytest

from perdure.base import ids
from perdure.testing.simulation.loop import SeededLoop, SimulationError
from perdure.testing.simulation.process import SimulatedClock, SimulatedProcess


def _run(seed: int, main: Any) -> Any:
    loop = SeededLoop(seed)
    result = loop.run(main(loop))
    assert not loop.failures
    return result


def test_time_jumps_to_the_next_timer_and_nothing_waits() -> None:
    async def main(loop: SeededLoop) -> float:
        await asyncio.sleep(86_400)
        return loop.now_s

    assert _run(0, main) == pytest.approx(86_400)


def test_callbacks_of_one_process_keep_their_order_and_those_of_two_are_mixed() -> None:
    async def main(loop: SeededLoop) -> str:
        said: list[str] = []
        for process in (SimulatedProcess(loop, "a"), SimulatedProcess(loop, "b")):
            for number in range(8):
                process.call_soon(said.append, f"{process}{number}")
        await asyncio.sleep(1)
        return "".join(said)

    orders = {_run(seed, main) for seed in range(20)}
    assert len(orders) > 10
    for order in orders:
        for name in "ab":
            mine = [order[at + 1] for at in range(0, len(order), 2) if order[at] == name]
            assert mine == sorted(mine)


def test_the_same_seed_gives_the_same_run() -> None:
    async def main(loop: SeededLoop) -> list[int]:
        said: list[int] = []
        for number in range(50):
            process = SimulatedProcess(loop, f"p{number}")
            process.call_after(loop.random.random(), said.append, number)
        await asyncio.sleep(2)
        return said

    assert _run(5, main) == _run(5, main)
    assert _run(5, main) != _run(6, main)


async def _forever(said: list[str]) -> None:
    try:
        while True:
            said.append("alive")
            await asyncio.sleep(1)
    finally:
        said.append("cleaned up")


def test_who_is_killed_does_nothing_any_more_not_even_clean_up() -> None:
    said: list[str] = []

    async def main(loop: SeededLoop) -> list[str]:
        process = SimulatedProcess(loop, "victim")
        process.spawn(_forever(said))
        await asyncio.sleep(2.5)
        process.kill()
        await asyncio.sleep(10)
        return list(said)

    assert _run(0, main) == ["alive"] * 3


def test_who_is_frozen_goes_on_later_and_timers_wait_for_it() -> None:
    async def main(loop: SeededLoop) -> list[float]:
        process, at_s = SimulatedProcess(loop, "frozen"), []
        process.call_after(1, lambda: at_s.append(loop.now_s))
        process.freeze()
        await asyncio.sleep(5)
        assert not at_s
        process.thaw()
        await asyncio.sleep(1)
        return at_s

    assert _run(0, main) == [pytest.approx(5)]


def test_clocks_of_processes_differ_and_waits_go_by_them() -> None:
    async def main(loop: SeededLoop) -> float:
        fast = SimulatedProcess(loop, "fast", rate=1.1, wall_offset_ms=5_000)
        clock = SimulatedClock(fast)
        before_s = clock.monotonic_s()

        async def sleep() -> float:
            await asyncio.sleep(11)
            return loop.now_s

        slept_s = await fast.spawn(sleep())
        assert clock.monotonic_s() - before_s == pytest.approx(11)
        assert clock.wall_ms() == 1_700_000_000_000 + 10_000 + 5_000
        return slept_s

    assert _run(0, main) == pytest.approx(10)


def test_a_deadlock_is_told() -> None:
    async def main(loop: SeededLoop) -> None:
        await loop.create_future()

    with pytest.raises(SimulationError, match="deadlock"):
        _run(0, main)


def test_a_run_without_an_end_is_told() -> None:
    async def main(_loop: SeededLoop) -> None:
        while True:
            await asyncio.sleep(0)

    loop = SeededLoop(0, steps_max=1_000)
    with pytest.raises(SimulationError, match="no end"):
        loop.run(main(loop))


@pytest.mark.parametrize("way", ["thread", "socket"])
def test_there_is_no_way_out(way: str) -> None:
    async def main(loop: SeededLoop) -> None:
        leave: Coroutine[Any, Any, Any] = (
            asyncio.to_thread(os.getpid)
            if way == "thread"
            else asyncio.open_connection("127.0.0.1", 1)
        )
        with pytest.raises(SimulationError):
            await leave

    _run(0, main)


def test_an_error_that_nobody_catches_is_kept() -> None:
    async def main(loop: SeededLoop) -> None:
        loop.call_soon(lambda: 1 / 0)
        await asyncio.sleep(1)

    loop = SeededLoop(0)
    loop.run(main(loop))
    assert "ZeroDivisionError" in loop.failures[0]


def test_random_names_can_be_drawn_from_a_seed() -> None:
    loops = [SeededLoop(3), SeededLoop(3)]
    drawn = []
    for loop in loops:
        ids.draw_from(loop.random.randbytes)
        drawn.append([ids.new_id(), ids.jittered(1.0), ids.random_below(9.0)])
        ids.draw_from(None)
        loop.close()
    assert drawn[0] == drawn[1]
    assert ids.new_id() != ids.new_id()
