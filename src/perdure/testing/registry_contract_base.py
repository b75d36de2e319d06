"""What the parts of the registries' contract share: how a registry is opened, and small helpers."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from perdure.base.shards import SHARDS
from perdure.store.registry import NOBODY, Member, Registry, View

LONG_S = 60.0
SHORT_S = 0.05
KEY = "the fingerprint of a key"
FOREVER = 2**62  # a version that never will be
_PATIENCE_ROUNDS = 500

Place = Any
Body = Callable[[Registry, Place], Coroutine[Any, Any, None]]


class RegistryCase:
    """How a registry is opened, and how a test reaches behind it."""

    def place(self) -> AbstractAsyncContextManager[Place]:
        """A fresh place, which goes after the block."""
        raise NotImplementedError

    def make_registry(self, place: Place) -> Registry:
        """One process's registry at this place, not yet opened."""
        raise NotImplementedError

    async def let_pass(self, place: Place, seconds: float) -> None:
        """Let that much of the database's time pass."""
        raise NotImplementedError

    def connected(self, place: Place, incarnation: int) -> AbstractAsyncContextManager[None]:
        """Within the block the database has a connection of a store that stands on it."""
        raise NotImplementedError

    async def is_fenced(self, place: Place, incarnation: int) -> bool:
        """True if a commit in the name of this member would be refused."""
        raise NotImplementedError

    @asynccontextmanager
    async def opened(self, place: Place) -> AsyncIterator[Registry]:
        """The registry of one process, open within the block."""
        registry = self.make_registry(place)
        await registry.open()
        try:
            yield registry
        finally:
            await registry.close()

    def run(self, body: Body) -> None:
        """Run `body` on an open registry at a fresh place."""

        async def bounded() -> None:
            async with (
                asyncio.timeout(60),
                self.place() as place,
                self.opened(place) as registry,
            ):
                await body(registry, place)

        asyncio.run(bounded())

    async def dead(self, place: Place) -> int:
        """A member whose process has ended without a word. (A registry through which somebody has
        joined may keep a session of that member, until it is closed.)"""
        async with self.opened(place) as its:
            return await joined(its)

    async def run_out(self, place: Place, registry: Registry, incarnation: int) -> None:
        """Let time pass until the lease of this member is over."""
        for _ in range(_PATIENCE_ROUNDS):
            if member_of(await registry.view(0), incarnation).lease_left_ms < 0:
                return
            await self.let_pass(place, SHORT_S / 5)
        raise AssertionError(f"the lease of {incarnation} does not run out")

    async def same(self, registry: Registry, expected: View) -> View:
        """The view now, which must be as expected but for the time that is left of leases."""
        now = await registry.view(0)
        assert (now.version, owners_of(now)) == (expected.version, owners_of(expected))
        return now


async def joined(registry: Registry) -> int:
    """A new member with a long lease."""
    return await registry.join("name", "tcp:host:1", "1.0", LONG_S, KEY)


def member_of(view: View, incarnation: int) -> Member:
    """The member, which must be there."""
    (member,) = (one for one in view.members if one.incarnation == incarnation)
    return member


def owners_of(view: View) -> list[int]:
    """All owners, which the view must have."""
    assert view.owners is not None
    assert len(view.owners) == SHARDS
    return list(view.owners)


def owned(view: View) -> Mapping[int, int]:
    """The shards that somebody owns."""
    return {shard: one for shard, one in enumerate(owners_of(view)) if one != NOBODY}


async def eventually(attempt: Callable[[], Awaitable[object]]) -> None:
    """Try until it gives something; the database notices a closed connection a little later."""
    for _ in range(_PATIENCE_ROUNDS):
        if await attempt() is not None:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it does not come about")
