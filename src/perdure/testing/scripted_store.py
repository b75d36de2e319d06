"""A store that does nothing by itself: the test decides when a commit succeeds, or how it fails."""

import asyncio
from collections import deque

from perdure.store.api import Batch, Committed, StoredActor
from perdure.store.memory import MemoryStore


class ScriptedStore(MemoryStore):
    """A memory store whose commits wait, once `hold` was called, for `release` or `fail`."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[Batch] = []  # all that arrived, in order
        self.loads = 0
        self.load_error: Exception | None = None  # the next load raises it, once
        self._holding = False
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._arrived = asyncio.Event()

    def hold(self) -> None:
        """From now on every commit waits."""
        self._holding = True

    def open_up(self) -> None:
        """Let every waiting commit go on, and all later ones at once."""
        self._holding = False
        while self._waiting:
            self.release()

    def release(self) -> None:
        """Let the oldest waiting commit succeed."""
        self._waiting.popleft().set_result(None)

    def fail(self, error: Exception) -> None:
        """Make the oldest waiting commit raise `error`."""
        self._waiting.popleft().set_exception(error)

    @property
    def waiting(self) -> int:
        """How many commits wait."""
        return len(self._waiting)

    async def next_commit(self) -> Batch:
        """Wait until a commit waits, and return what it wants to write."""
        while not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()
        return self.batches[-len(self._waiting)]

    async def load(self, actor_type: str, key: str) -> StoredActor | None:
        self.loads += 1
        error, self.load_error = self.load_error, None
        if error is not None:
            raise error
        return await super().load(actor_type, key)

    async def commit(self, batch: Batch) -> Committed:
        self.batches.append(batch)
        if self._holding:
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            self._arrived.set()
            try:
                await waiter
            except asyncio.CancelledError:  # the process was crashed meanwhile
                if waiter in self._waiting:
                    self._waiting.remove(waiter)
                raise
        return await super().commit(batch)
