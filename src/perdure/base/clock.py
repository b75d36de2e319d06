"""Time: the only module that reads a clock, so that tests can put another in its place."""

import asyncio
import time
from collections.abc import Callable
from typing import Protocol


class Handle(Protocol):
    """Something that will be called, unless it is cancelled."""

    def cancel(self) -> None:
        """Do not call it."""
        ...


class Clock(Protocol):
    """What the rest of the code may ask of time."""

    def monotonic_s(self) -> float:
        """Seconds since an arbitrary start; never runs backwards. For deadlines and waits."""
        ...

    def wall_ms(self) -> int:
        """Milliseconds since 1970 (UTC). For timers and what people read; never for ownership."""
        ...

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Handle:
        """Call back on the running event loop when that much time has passed."""
        ...

    async def sleep(self, delay_s: float) -> None:
        """Wait at least that long. For housekeeping, which may as well come later."""
        ...


class SystemClock:
    """The machine's own clock."""

    monotonic_s = staticmethod(time.monotonic)

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Handle:
        return asyncio.get_running_loop().call_later(delay_s, callback)

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
