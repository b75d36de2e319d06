"""A live view for those who await its news instead of being called."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from perdure.actor.methods import Method
from perdure.runtime.live import Frame, LiveHub, Subscription


class Pull:
    """Takes one subscription's frames whenever its owner has room for more."""

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription
        self.frames: Sequence[Frame] = ()  # that were taken last
        self._error: BaseException | None = None
        self._wanted = asyncio.Event()
        subscription.listener = self
        subscription.tell()

    def news(self) -> None:
        self._wanted.set()

    def ended(self, error: BaseException) -> None:
        self._error = error
        self._wanted.set()

    async def next(self, within_s: float | None = None) -> None:
        """Wait for `frames` and take them; empty when none came in that time.

        Raises what the method raised, and StoppingError.
        """
        self.frames = ()
        try:
            async with asyncio.timeout(within_s):
                while True:
                    await self._wanted.wait()
                    self._wanted.clear()
                    if self._error is not None:
                        raise self._error
                    self.frames = self._subscription.take()
                    if self.frames:
                        return
        except TimeoutError:
            if self._error is not None:  # the method's own
                raise


async def watch_results(
    hub: LiveHub, method: Method, key: str, positional: tuple[Any, ...], named: dict[str, Any]
) -> AsyncIterator[Any]:
    """The results of a live method, each as a value of its own; see `perdure.watch`."""
    subscription = hub.subscribe(method, key, method.arguments_from_python(positional, named))
    try:
        pull = Pull(subscription)
        while True:
            await pull.next()
            yield method.result_from_json(subscription.body)
    finally:
        subscription.close()
