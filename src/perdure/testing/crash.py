"""`crash`: the process dies and starts again, without a process.

Death is the moment from which the store takes nothing more. What was not committed by then is gone:
every caller who waits gets an error, every activation is thrown away, every task is cancelled. Then
the same App starts on the same store, and messages and timers go on, as after a real restart.

What differs from a real death: variables of the Python process outlive it, and the `finally` blocks
of turns under way still run. Neither can reach the store.
"""

import asyncio
from typing import Any, cast

from perdure.base.errors import StoreError
from perdure.store.api import Batch, Committed, Store
from perdure.web.app import App


class MortalStore:
    """Another store, as one life of a process sees it: after `kill` nothing is written any more.

    All but `commit` is the other store's own; reading is left to the dead, since nobody hears of
    it.
    """

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self._is_dead = False
        self._writing: asyncio.Task[Committed] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def commit(self, batch: Batch) -> Committed:
        self.refuse_if_dead()
        self._writing = asyncio.get_running_loop().create_task(_commit(self.inner, batch))
        try:
            committed = await self._writing
        except asyncio.CancelledError:
            self.refuse_if_dead()
            raise
        self.refuse_if_dead()  # it is durable, but nobody was told
        return committed

    def kill(self) -> None:
        """Write nothing from now on. A commit that has begun may still become durable."""
        self._is_dead = True
        if self._writing is not None:
            self._writing.cancel()

    def refuse_if_dead(self) -> None:
        """Raise StoreError after `kill`."""
        if self._is_dead:
            raise StoreError("the process was killed by its test")

    def next_life(self) -> "MortalStore":
        """The same store, for the process that comes after this one."""
        return MortalStore(self.inner)


async def _commit(store: Store, batch: Batch) -> Committed:
    return await store.commit(batch)


def mortal(store: Store) -> Store:
    """The store, in a wrapper that `crash` can kill."""
    return cast("Store", MortalStore(store))


async def crash(app: App) -> None:
    """Kill the process that runs this App, as it were, and start it again on the same store.

    Whatever was not committed is gone, and callers who wait get a StoreError or a StoppingError.
    The clock goes on. Raises TypeError for an App that was not made by `running`.
    """
    store: object = app.store
    if not isinstance(store, MortalStore):
        raise TypeError("only an App that runs within `running(…)` can be crashed")
    store.kill()
    await restart(app, store.next_life())


async def restart(app: App, store: MortalStore) -> None:
    """Bury the life that was killed, and begin the next one on this store."""
    await app.stop(drain_s=0)
    await app.start(cast("Store", store))
