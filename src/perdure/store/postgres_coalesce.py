"""Asks for many things at once what was asked for one by one.

After a failover thousands of actors wake up within a moment, and each wants its row. All that are
asked for in one pass of the event loop become one statement for each table; and while all
connections are busy, those that come meanwhile wait together for the next.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from perdure.base.errors import OverloadedError

GROUP_MAX = 500  # names in one statement
WAITING_MAX = 100_000  # OverloadedError

_Name = TypeVar("_Name")
_Found = TypeVar("_Found")


class Coalescer(Generic[_Name, _Found]):
    """Gathers names, and asks for up to `GROUP_MAX` of one table at a time."""

    def __init__(
        self,
        ask: Callable[[str, Sequence[_Name]], Awaitable[dict[_Name, _Found]]],
        asking_max: int,
    ) -> None:
        self._ask = ask
        self._asking_max = asking_max
        self._waiting: dict[str, dict[_Name, list[asyncio.Future[_Found | None]]]] = {}
        self._count = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_scheduled = False

    async def find(self, table: str, name: _Name) -> _Found | None:
        """What has this name in the table. Raises what asking raises, and OverloadedError."""
        if self._count >= WAITING_MAX:
            raise OverloadedError(f"{WAITING_MAX} reads wait for the store already")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_Found | None] = loop.create_future()
        self._waiting.setdefault(table, {}).setdefault(name, []).append(future)
        self._count += 1
        if not self._is_scheduled:
            self._is_scheduled = True
            loop.call_soon(self._start)
        try:
            return await future
        finally:
            self._count -= 1

    def close(self) -> None:
        """Stop asking; whoever waits gets CancelledError from its own task or none at all."""
        for task in self._tasks:
            task.cancel()

    def _start(self) -> None:
        self._is_scheduled = False
        while self._waiting and len(self._tasks) < self._asking_max:
            task = asyncio.get_running_loop().create_task(self._ask_once())
            self._tasks.add(task)
            task.add_done_callback(self._ended)
            # the task takes its names when it runs: let it, before another is made for nothing
            if sum(map(len, self._waiting.values())) <= GROUP_MAX:
                break

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if self._waiting and not task.cancelled():
            self._start()

    async def _ask_once(self) -> None:
        if not self._waiting:
            return
        table = next(iter(self._waiting))
        names = self._waiting.pop(table)
        if len(names) > GROUP_MAX:  # the rest goes to the end of the line
            kept = list(names.items())
            names = dict(kept[:GROUP_MAX])
            self._waiting[table] = dict(kept[GROUP_MAX:])
        try:
            found = await self._ask(table, list(names))
        except BaseException as error:
            for futures in names.values():
                for future in futures:
                    if not future.done():
                        future.set_exception(error)
            if not isinstance(error, Exception):
                raise
            return
        for name, futures in names.items():
            for future in futures:
                if not future.done():
                    future.set_result(found.get(name))
