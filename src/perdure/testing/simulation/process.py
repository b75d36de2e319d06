"""A simulated process: a lane of the loop, with a clock that may be wrong.

It can be killed (nothing of it runs again; peers and database see its connections break a little
later, as a kernel would tell them) and frozen (it stands still and does not know it).
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import Any, TypeVar

from perdure.base.clock import Handle
from perdure.testing.simulation.loop import LANE, Lane, SeededLoop

Result = TypeVar("Result")

START_MS = 1_700_000_000_000
"""The wall-clock time at which every simulation begins."""


class SimulatedProcess:
    """One life of one process.

    Args:
        rate: how fast its monotonic clock runs.
        wall_offset_ms: how wrong its wall clock is.
    """

    def __init__(
        self, loop: SeededLoop, name: str, *, rate: float = 1.0, wall_offset_ms: int = 0
    ) -> None:
        self.loop = loop
        self.name = name
        self.host = name.partition(".")[0]  # the machine, whose name all its processes share
        self.wall_offset_ms = wall_offset_ms
        self.lane = Lane(rate, loop.random.uniform(0, 1_000_000))
        self.context = copy_context()
        self.context.run(LANE.set, self.lane)
        self.is_alive = True
        self._on_death: list[Callable[[], None]] = []

    def __repr__(self) -> str:
        return self.name

    @property
    def is_frozen(self) -> bool:
        """True while it stands still."""
        return self.lane.is_held

    @property
    def is_idle(self) -> bool:
        """True while it neither stands still nor has anything to do."""
        return not (self.lane.handles or self.lane.is_held or self.lane.is_closed)

    def spawn(self, work: Coroutine[Any, Any, Result]) -> "asyncio.Task[Result]":
        """Run it as a task of this process."""
        return self.loop.create_task(work, context=self.context.copy())

    def call_soon(self, callback: Callable[..., object], *args: Any) -> None:
        """Run it in this process, soon."""
        self.loop.call_soon(callback, *args, context=self.context)

    def call_after(self, delay_s: float, callback: Callable[..., object], *args: Any) -> None:
        """Run it in this process after that much true time."""
        self.loop.call_later(delay_s * self.lane.rate, callback, *args, context=self.context)

    def at_death(self, callback: Callable[[], None]) -> None:
        """Call back at the moment it is killed, from without."""
        self._on_death.append(callback)

    def kill(self) -> None:
        """End it at once, as SIGKILL does."""
        if not self.is_alive:
            return
        self.is_alive = False
        self.loop.close_lane(self.lane)
        for callback in self._on_death:
            callback()
        self._on_death.clear()

    def freeze(self) -> None:
        """Let it stand still, as SIGSTOP does, or a virtual machine that is moved."""
        if self.is_alive:
            self.loop.hold(self.lane)

    def thaw(self) -> None:
        """Let it go on; it does not know that time has passed."""
        if self.is_alive:
            self.loop.let_go(self.lane)


class SimulatedClock:
    """The `Clock` of one simulated process."""

    def __init__(self, process: SimulatedProcess) -> None:
        self._process = process
        self._loop = process.loop
        self._lane = process.lane

    def monotonic_s(self) -> float:
        return self._lane.offset_s + self._loop.now_s * self._lane.rate

    def wall_ms(self) -> int:
        return START_MS + int(self._loop.now_s * 1000) + self._process.wall_offset_ms

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Handle:
        return self._loop.call_later(delay_s, callback)

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
