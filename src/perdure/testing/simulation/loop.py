"""An event loop with a seed instead of an outside world: no sockets, no threads, no waiting.

Time is virtual: when nothing is ready it jumps to the next timer. Each simulated process has a
`Lane` of its own. Within a lane callbacks run in the order in which they came, as asyncio promises;
between lanes the next one is drawn at random, as it is between machines. A lane can be held (the
process is frozen: time goes on, its callbacks do not) and closed (it is dead: nothing of it ever
runs again, not even a `finally`).

Which lane a callback belongs to stands in its context, so tasks and what they begin stay in theirs.
"""

import asyncio
import heapq
import random
import warnings
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import Context, ContextVar, copy_context
from typing import Any, NoReturn, TypeVarTuple

Arguments = TypeVarTuple("Arguments")

_LATE_S = 1e-6  # timers come a little late, as all do: who waits for a rest gets some time to pass
_COMPACT_ABOVE = 1_000  # cancelled timers are thrown out of the heap when it has so many entries


class SimulationError(Exception):
    """The simulated world stands still, or never comes to rest."""


class Lane:
    """The callbacks of one process that are ready, in order, and the rate of its clock."""

    __slots__ = ("handles", "is_closed", "is_held", "is_listed", "offset_s", "rate")

    def __init__(self, rate: float = 1.0, offset_s: float = 0.0) -> None:
        self.handles: deque[_Handle] = deque()
        self.rate = rate  # of its monotonic clock
        self.offset_s = offset_s
        self.is_held = False
        self.is_closed = False
        self.is_listed = False  # among those that have something ready


LANE: ContextVar[Lane] = ContextVar("perdure_simulated_lane")


class _Handle(asyncio.TimerHandle):
    """A callback that is ready or waits for its time.

    asyncio's own handles ask the loop on each step if it is to be debugged; a run has so many steps
    that this alone would be a tenth of it.
    """

    __slots__ = ("lane",)

    def __init__(
        self,
        callback: Callable[..., object],
        args: Any,
        loop: "SeededLoop",
        context: Context,
        lane: Lane,
    ) -> None:
        self._callback = callback
        self._args = args
        self._loop = loop
        self._context = context
        self._cancelled = False
        self._scheduled = False  # it is in the heap
        self.lane = lane

    def cancel(self) -> None:
        if not self._cancelled:
            self._cancelled = True
            self._callback = self._args = None  # type: ignore[assignment]
            if self._scheduled:
                self._loop._timer_handle_cancelled(self)

    def cancelled(self) -> bool:
        return self._cancelled


class SeededLoop(asyncio.BaseEventLoop):
    """Runs everything in an order that follows from the seed.

    Args:
        seed: of all that is random.
        steps_max: callbacks that a run may take; SimulationError beyond.
    """

    def __init__(self, seed: int, *, steps_max: int = 5_000_000) -> None:
        super().__init__()
        self.random = random.Random(seed)
        self.now_s = 0.0  # true time; each process has its own idea of it
        self.steps = 0
        self.failures: list[str] = []  # what no callback and no task may raise
        self.outside = Lane()  # for what belongs to no process
        self._steps_left = steps_max
        self._runnable: list[Lane] = []
        self._timers: list[tuple[float, int, _Handle]] = []
        self._number = 0
        self._cancelled = 0
        self._buried: list[Any] = []  # tasks of dead processes: as long as they are held, no
        self.is_over = False  # `finally` of theirs runs
        self.set_exception_handler(_note_failure)

    # -- what asyncio asks of a loop -------------------------------------------------------------

    def time(self) -> float:
        """Monotonic seconds, as the process that asks sees them."""
        lane = LANE.get(self.outside)
        return lane.offset_s + self.now_s * lane.rate

    def call_soon(
        self,
        callback: Callable[[*Arguments], object],
        *args: *Arguments,
        context: Context | None = None,
    ) -> asyncio.Handle:
        if context is None:
            context = copy_context()
        lane = context.get(LANE, self.outside)
        handle = _Handle(callback, args, self, context, lane)
        self._append(lane, handle)
        return handle

    call_soon_threadsafe = call_soon  # there is one thread

    def call_at(
        self,
        when: float,
        callback: Callable[[*Arguments], object],
        *args: *Arguments,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        if context is None:
            context = copy_context()
        lane = context.get(LANE, self.outside)
        return self._set((when - lane.offset_s) / lane.rate, callback, args, context, lane)

    def call_later(
        self,
        delay: float,
        callback: Callable[[*Arguments], object],
        *args: *Arguments,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        if context is None:
            context = copy_context()
        lane = context.get(LANE, self.outside)
        at_s = self.now_s + (delay / lane.rate if delay > 0 else 0.0)
        return self._set(at_s, callback, args, context, lane)

    def _set(
        self, at_s: float, callback: Callable[..., object], args: Any, context: Context, lane: Lane
    ) -> _Handle:
        handle = _Handle(callback, args, self, context, lane)
        handle._scheduled = True
        self._number += 1
        heapq.heappush(self._timers, (at_s + _LATE_S, self._number, handle))
        return handle

    def _timer_handle_cancelled(self, _handle: asyncio.TimerHandle) -> None:
        self._cancelled += 1
        if self._cancelled > len(self._timers) // 2 and len(self._timers) > _COMPACT_ABOVE:
            self._timers = [entry for entry in self._timers if not entry[2]._cancelled]
            heapq.heapify(self._timers)
            self._cancelled = 0

    def _run_once(self) -> None:
        while not self._stopping:  # type: ignore[attr-defined]
            if self._runnable:
                self._run_next()
            else:
                self._advance()

    def run_in_executor(self, *_args: Any) -> NoReturn:  # type: ignore[override]
        raise SimulationError("a simulated process has no threads")

    def _no_sockets(self, *_args: Any, **_named: Any) -> NoReturn:
        raise SimulationError("a simulated process has no sockets, files, signals or children")

    create_connection = create_server = create_datagram_endpoint = getaddrinfo = _no_sockets
    create_unix_connection = create_unix_server = subprocess_exec = _no_sockets
    add_reader = add_writer = add_signal_handler = _no_sockets  # type: ignore[assignment]
    sock_recv = sock_sendall = sock_connect = sock_accept = _no_sockets

    # -- running ---------------------------------------------------------------------------------

    def _append(self, lane: Lane, handle: _Handle) -> None:
        if lane.is_closed or self.is_over:
            return
        lane.handles.append(handle)
        if not lane.is_listed and not lane.is_held:
            lane.is_listed = True
            self._runnable.append(lane)

    def _run_next(self) -> None:
        """Run the first callback of a lane that is drawn."""
        runnable = self._runnable
        place = int(self.random.random() * len(runnable)) if len(runnable) > 1 else 0
        lane = runnable[place]
        handle = lane.handles.popleft()
        if not lane.handles:
            self._unlist(lane, place)
        if handle._cancelled:
            return
        self.steps += 1
        if self.steps > self._steps_left:
            raise SimulationError(f"no end after {self.steps:,} steps")
        try:
            handle._context.run(handle._callback, *handle._args)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.call_exception_handler(
                {"message": f"a callback has failed: {handle._callback}", "exception": error}
            )

    def _unlist(self, lane: Lane, place: int) -> None:
        last = self._runnable.pop()
        if last is not lane:
            self._runnable[place] = last
        lane.is_listed = False

    def _advance(self) -> None:
        """Let time pass up to the next timer that still counts."""
        timers, heappop = self._timers, heapq.heappop
        while timers:
            at_s, _, handle = heappop(timers)
            handle._scheduled = False
            if handle._cancelled:
                self._cancelled -= 1
            elif not handle.lane.is_closed:
                if at_s > self.now_s:
                    self.now_s = at_s
                self._append(handle.lane, handle)
                if not timers or timers[0][0] > self.now_s:
                    return
        if not self._runnable:
            raise SimulationError("deadlock: nothing is ready, and no timer is set")

    # -- life and death of lanes -----------------------------------------------------------------

    def hold(self, lane: Lane) -> None:
        """Keep its callbacks back from now on."""
        lane.is_held = True
        if lane.is_listed:
            self._unlist(lane, self._runnable.index(lane))

    def let_go(self, lane: Lane) -> None:
        """Run what was kept back."""
        lane.is_held = False
        if lane.handles and not lane.is_closed and not lane.is_listed:
            lane.is_listed = True
            self._runnable.append(lane)

    def close_lane(self, lane: Lane) -> None:
        """Run nothing of it, ever."""
        self._buried.append(asyncio.all_tasks(self))  # which are whose cannot be told; all may stay
        self._buried.append(list(lane.handles))
        self.hold(lane)
        lane.is_closed = True
        lane.handles.clear()

    def run(self, main: Coroutine[Any, Any, Any]) -> Any:
        """The result of `main`; after it nothing runs any more."""
        try:
            return self.run_until_complete(main)
        finally:
            self._end()

    def _end(self) -> None:
        """Throw away what still runs, without letting it do anything."""
        self.is_over = True
        tasks = [task for task in asyncio.all_tasks(self) if not task.done()]
        with warnings.catch_warnings():
            # a start that is cut off says goodbye to the registry: there is nobody left to await it
            warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
            for task in tasks:
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                with suppress(BaseException):
                    task.get_coro().close()
        self._buried.clear()
        self._timers.clear()
        for lane in self._runnable:
            lane.handles.clear()
        self._runnable.clear()
        self.close()


def _note_failure(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    assert isinstance(loop, SeededLoop)
    if loop.is_over:
        return  # what the dying say does not count
    error = context.get("exception")
    told = str(context["message"])
    if isinstance(context.get("future"), asyncio.Task):
        told += f" (of {context['future'].get_coro().__qualname__})"
    if error is not None:
        told += f": {type(error).__name__}: {error}"
    loop.failures.append(told)
