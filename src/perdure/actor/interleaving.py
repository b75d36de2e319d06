"""Interleaving methods: each stretch between two awaits runs as a turn of its own.

The stretch holds the actor from where the coroutine goes on to where it waits again. So it can
never see, or commit, the half-done work of another turn, and none can see its own.
"""

import asyncio
import inspect
from collections import deque
from collections.abc import Callable, Generator
from types import CoroutineType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perdure.actor.activation import Activation
    from perdure.actor.turn import Turn


class Stretches:
    """Awaitable: drives `work` to its end, stretch by stretch, and gives its result."""

    def __init__(
        self, activation: "Activation", turn: "Turn", work: "CoroutineType[Any, Any, Any]"
    ) -> None:
        self._activation = activation
        self._turn = turn
        self._work = work

    def __await__(self) -> Generator[Any, Any, Any]:
        try:
            return (yield from self._drive())
        finally:
            self._work.close()  # its `finally` blocks run now, not when the actor is another's

    def _drive(self) -> Generator[Any, Any, Any]:
        activation = self._activation
        step: Callable[[Any], Any] = self._work.send
        value: Any = None
        while True:
            try:
                yield from enter(activation, self._turn).__await__()
            except asyncio.CancelledError as error:
                if inspect.getcoroutinestate(self._work) == inspect.CORO_CREATED:
                    raise  # it was not begun
                # it may have cleaning up to do, and for that it needs the actor to itself
                step, value = self._work.throw, error
                continue
            try:
                awaited = step(value)
            except StopIteration as stop:
                return stop.value  # still holding the actor: the last stretch ends like any turn
            activation.end_stretch(self._turn)
            activation.release()
            try:
                value = yield awaited
                step = self._work.send
            except GeneratorExit:  # the loop is gone; there is nobody left to wait for
                raise
            except BaseException as error:
                step, value = self._work.throw, error


async def enter(activation: "Activation", turn: "Turn") -> None:
    """Wait until the actor is free, and take it."""
    if activation.running is None:
        activation.running = turn
        return
    if activation.resuming is None:
        activation.resuming = deque()
    waiter = asyncio.get_running_loop().create_future()
    activation.resuming.append((turn, waiter))
    try:
        await waiter
    except asyncio.CancelledError:
        if waiter.done() and not waiter.cancelled():
            activation.release()  # it was handed to us just as we gave up
        raise
