"""Helpers for tests, of applications as well as of Perdure itself."""

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any, ParamSpec

from perdure.actor.model import Actor
from perdure.base.clock import Clock
from perdure.base.limits import Limits
from perdure.runtime.outlets import Outlet
from perdure.store.api import Store
from perdure.store.memory import MemoryStore
from perdure.store.url import store_from_url
from perdure.testing.clock import VirtualClock
from perdure.testing.crash import crash, mortal
from perdure.testing.crash_check import check_crashes
from perdure.testing.crash_points import Acknowledged, Trial
from perdure.web.app import App

__all__ = [
    "Acknowledged",
    "Trial",
    "VirtualClock",
    "async_test",
    "check_crashes",
    "crash",
    "running",
    "spin",
]

Parameters = ParamSpec("Parameters")


def async_test(
    function: Callable[Parameters, Coroutine[Any, Any, None]], *, within_s: float = 20.0
) -> Callable[Parameters, None]:
    """Make an `async def` test a plain one, with an event loop of its own and a deadline."""

    @functools.wraps(function)
    def test(*positional: Parameters.args, **named: Parameters.kwargs) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(within_s):
                await function(*positional, **named)

        asyncio.run(bounded())

    return test


@asynccontextmanager
async def running(
    *actors: type[Actor],
    store: str | Store | None = None,
    limits: Limits | None = None,
    outlets: Mapping[str, Outlet] | None = None,
    clock: Clock | None = None,
) -> AsyncIterator[App]:
    """An App of these classes that runs within the block.

    On a memory store of its own, unless given a store or the URL of one. `await crash(app)` kills
    it and starts it again.
    """
    opened = store_from_url(store) if isinstance(store, str) else store or MemoryStore()
    app = App(*actors, store=mortal(opened), limits=limits, outlets=outlets, clock=clock)
    async with app:
        yield app


async def spin(rounds: int = 50) -> None:
    """Let everything run that can run without time passing."""
    for _ in range(rounds):
        await asyncio.sleep(0)
