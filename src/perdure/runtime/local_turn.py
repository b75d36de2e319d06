"""Turns whose caller is code in this process."""

import asyncio
from typing import Protocol

from perdure.actor.turn import Turn
from perdure.base.clock import Clock
from perdure.base.errors import DeadlineError


class Retries(Protocol):
    """The node, as who knows another way."""

    def takes_again(self, turn: Turn, error: BaseException) -> bool:
        """True if a turn that failed so has been sent elsewhere instead."""
        ...


class LocalTurn(Turn, kw_only=True):
    """A call from Python; its answer is a future."""

    answer: "asyncio.Future[bytes]"
    retries: "Retries | None" = None  # who may send it elsewhere, if no other turn waits for it

    def succeed(self, body: bytes) -> None:
        if not self.answer.done():
            self.answer.set_result(body)

    def fail(self, error: BaseException) -> None:
        if self.retries is not None and self.retries.takes_again(self, error):
            return
        if not self.answer.done():
            self.answer.set_exception(error)

    async def result(self, clock: Clock) -> bytes:
        """The answer, as JSON; raises DeadlineError, or what the method raised."""
        try:
            left_s = max(self.deadline_s - clock.monotonic_s(), 0)
            async with asyncio.timeout(left_s) as timeout:
                return await self.answer
        except TimeoutError:
            if not timeout.expired():
                raise  # the method's own
            raise DeadlineError(f"{self} did not answer before its deadline") from None
