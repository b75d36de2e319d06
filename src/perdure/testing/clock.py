"""A clock that stands still until a test moves it."""

import asyncio
import heapq
from collections.abc import Callable

from perdure.base.clock import Handle

_QUIET_ROUNDS = 30  # more than any turn, commit and answer of a memory store take


class VirtualClock:
    """Time for an App under test: `App(..., clock=VirtualClock())`, then `await clock.advance(60)`.

    Deadlines of calls still run by the machine's own clock; timers, expiry, retries and the
    retention of idempotency keys run by this one.
    """

    def __init__(self, wall_ms: int = 1_700_000_000_000) -> None:
        self._start_ms = wall_ms
        self._now_ms = 0.0
        self._alarms: list[_Alarm] = []
        self._sleepers: list[tuple[float, asyncio.Event]] = []
        self._number = 0

    def monotonic_s(self) -> float:
        return self._now_ms / 1000

    def wall_ms(self) -> int:
        return self._start_ms + int(self._now_ms)

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Handle:
        self._number += 1
        alarm = _Alarm(self._now_ms + max(delay_s, 0) * 1000, self._number, callback)
        heapq.heappush(self._alarms, alarm)
        return alarm

    async def sleep(self, delay_s: float) -> None:
        woken = asyncio.Event()
        self._sleepers.append((self._now_ms + delay_s * 1000, woken))
        await woken.wait()

    async def advance(self, seconds: float) -> None:
        """Let that much time pass: everything that is due meanwhile happens, in order.

        Housekeeping (expiry, forgetting old idempotency keys) comes at the end, once, and not every
        few seconds of the way: a month passes quickly.
        """
        end_ms = self._now_ms + seconds * 1000
        await _settle()
        await self._ring_until(end_ms)
        self._now_ms = end_ms
        due = [sleeper for sleeper in self._sleepers if sleeper[0] <= end_ms]
        self._sleepers = [sleeper for sleeper in self._sleepers if sleeper[0] > end_ms]
        for _, woken in due:
            woken.set()
        await _settle()
        await self._ring_until(end_ms)

    async def _ring_until(self, end_ms: float) -> None:
        while self._alarms and self._alarms[0].at_ms <= end_ms:
            alarm = heapq.heappop(self._alarms)
            self._now_ms = max(self._now_ms, alarm.at_ms)
            alarm.ring()
            if not self._alarms or self._alarms[0].at_ms > self._now_ms:
                await _settle()


class _Alarm:
    def __init__(self, at_ms: float, number: int, callback: Callable[[], object]) -> None:
        self.at_ms = at_ms
        self._number = number
        self._callback: Callable[[], object] | None = callback

    def __lt__(self, other: "_Alarm") -> bool:
        return (self.at_ms, self._number) < (other.at_ms, other._number)

    def ring(self) -> None:
        if self._callback is not None:
            self._callback()

    def cancel(self) -> None:
        self._callback = None


async def _settle() -> None:
    """Let everything run that can run without time passing."""
    for _ in range(_QUIET_ROUNDS):
        await asyncio.sleep(0)
