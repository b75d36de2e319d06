"""Interleaving methods: each stretch between two awaits runs as a turn of its own.

The stretch holds the actor from where the coroutine goes on to where it waits again. So it can
never see, or commit, the half-done work of another turn, and none can see its own.
"""

import asyncio
from collections import deque
from collections.abc import Coroutine, Generator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perdure.actor.activation import Activation
    from perdure.actor.turn import Turn


class Stretches:
    """Awaitable: drives `work` to its end, stretch by stretch, and gives its result."""

    def __init__(
        self, activation: "Activation", turn: "Turn", work: Coroutine[Any, Any, Any]
    ) -> None:
        self._activation = activation
        self._turn = turn
        self._work = work

    def __await__(self) -> Generator[Any, Any, Any]:
        activation, step, value = self._activation, self._work.send, None
        while True:
            yield from self._enter().__await__()
            try:
                awaited = step(value)
            except StopIteration as stop:
                return stop.value  # still holding the actor: the last stretch ends like any turn
            activation.end_stretch(self._turn)
            activation.release()
            try:
                value = yield awaited
                step = self._work.send
            except BaseException as error:
                step, value = self._work.throw, error

    async def _enter(self) -> None:
        """Wait until the actor is free, and take it."""
        activation = self._activation
        if activation.running is None:
            activation.running = self._turn
            return
        if activation.resuming is None:
            activation.resuming = deque()
        waiter = asyncio.get_running_loop().create_future()
        activation.resuming.append((self._turn, waiter))
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                activation.release()  # it was handed to us just as we gave up
            raise
