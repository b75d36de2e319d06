"""One thread that runs what it is given, in order.

Not an executor: that takes two futures, a lock and a wait for each piece of work, which sampling
showed as about 4 % of the interpreter's time in a server under load.
"""

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

Result = TypeVar("Result")

_Work = tuple[Callable[..., Any], tuple[Any, ...], "asyncio.Future[Any]"]


class WriterThread:
    """A thread beside the event loop. `run` and `stop` belong to the loop's thread."""

    def __init__(self, name: str) -> None:
        self._work: SimpleQueue[_Work | None] = SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    def run(self, function: Callable[..., Result], *values: Any) -> "asyncio.Future[Result]":
        """Run the function in the thread, behind all that was given before."""
        future: asyncio.Future[Result] = self._loop.create_future()
        self._work.put((function, values, future))
        return future

    def stop(self) -> None:
        """Let the thread do what it was given, and wait for it."""
        self._work.put(None)
        self._thread.join()

    def _serve(self) -> None:
        while (work := self._work.get()) is not None:
            function, values, future = work
            try:
                answer: Any = function(*values)
                settle: Callable[..., None] = _succeed
            except BaseException as error:
                answer, settle = error, _fail
            # a loop that was closed under us has nobody left to tell
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(settle, future, answer)


def _succeed(future: "asyncio.Future[Any]", answer: Any) -> None:
    if not future.done():
        future.set_result(answer)


def _fail(future: "asyncio.Future[Any]", error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
