"""Time: the only module that reads a clock, so that tests can put another in its place."""

import time
from typing import Protocol


class Clock(Protocol):
    """What the rest of the code may ask of time."""

    def monotonic_s(self) -> float:
        """Seconds since an arbitrary start; never runs backwards. For deadlines and waits."""
        ...

    def wall_ms(self) -> int:
        """Milliseconds since 1970 (UTC). For records that people read; never for ownership."""
        ...


class SystemClock:
    """The machine's own clock."""

    monotonic_s = staticmethod(time.monotonic)

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000
