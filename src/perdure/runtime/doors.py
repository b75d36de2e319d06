"""Doors: a process that takes HTTP requests tells the registry where, for balancers to read there.

It announces its door three times in the life of an announcement, and at once when its readiness
changes; a process that dies without a word is forgotten when its announcement is over. Each cell's
registry is told for itself, so that one that is away holds up no other.

A session of its own is used, and not the one that renews a lease: that must wait for nothing.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress

import msgspec

from perdure.base.clock import Clock
from perdure.base.errors import StoreError
from perdure.store.registry import Door, Registry

log = logging.getLogger("perdure.doors")

_LOOK_S = 0.05  # how late a change of readiness may be noticed
_WITHDRAW_S = 1.0  # the longest it may take to leave


class Doors:
    """Keeps one door announced."""

    def __init__(
        self,
        registries: Sequence[Registry],
        door: Door,
        clock: Clock,
        *,
        ttl_s: float,
        is_ready: Callable[[], bool],
    ) -> None:
        """A door that nobody sees yet.

        Args:
            registries: of every cell, not opened; they are closed at the end.
            ttl_s: how long an announcement counts.
            is_ready: whether new requests shall come; while it says no the door is draining.
        """
        self._registries = registries
        self._door = door
        self._clock = clock
        self._ttl_s = ttl_s
        self._is_ready = is_ready
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to announce."""
        for registry in self._registries:
            self._tasks.append(asyncio.create_task(self._keep(registry), name="perdure-door"))

    async def close(self) -> None:
        """Announce no more, and withdraw what can be withdrawn within a moment."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _keep(self, registry: Registry) -> None:
        is_open = False
        try:
            while True:
                door = self._as_it_is()
                try:
                    if not is_open:
                        await registry.open(make_tables=False)
                        is_open = True
                    await registry.announce(door, self._ttl_s)
                except StoreError as error:  # it comes back, and then so do we
                    log.debug("door not announced", extra={"error": str(error)})
                    if not is_open:
                        await registry.close()
                await self._rest(door)
        finally:
            if is_open:
                with suppress(StoreError, TimeoutError):  # then its time runs out
                    async with asyncio.timeout(_WITHDRAW_S):
                        await registry.withdraw(self._door)
                await registry.close()

    def _as_it_is(self) -> Door:
        state = "active" if self._is_ready() else "draining"
        return msgspec.structs.replace(self._door, state=state)

    async def _rest(self, announced: Door) -> None:
        end_s = self._clock.monotonic_s() + self._ttl_s / 3
        while self._clock.monotonic_s() < end_s and self._as_it_is() == announced:
            await self._clock.sleep(_LOOK_S)
