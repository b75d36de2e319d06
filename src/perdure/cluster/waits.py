"""The two ways in which a member waits, both bounded: to be woken, and for the database."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from perdure.base.clock import Clock
from perdure.base.errors import StoreError

T = TypeVar("T")


class Wake:
    """Ends the wait of one task; a call that comes while nobody waits ends the next wait."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._woken = asyncio.Event()

    def set(self) -> None:
        """End the wait."""
        self._woken.set()

    async def wait(self, at_most_s: float | None = None) -> None:
        """Wait for `set`, or until that much time has passed."""
        alarm = at_most_s is not None and self._clock.call_later(at_most_s, self._woken.set)
        try:
            await self._woken.wait()
        finally:
            if alarm:
                alarm.cancel()
        self._woken.clear()


async def answered(call: Awaitable[T], at_most_s: float) -> T:
    """What the registry answers.

    Raises StoreError if it does not within that time: the call may have come about or not, or may
    yet.
    """
    try:
        async with asyncio.timeout(at_most_s):
            return await call
    except TimeoutError:
        raise StoreError(f"the database did not answer within {at_most_s:g} s") from None
