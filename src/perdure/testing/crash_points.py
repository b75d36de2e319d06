"""The moments at which a scenario can be killed: they are counted once, then each is tried.

A point is passed before a commit is durable and after it, when a message or a timer begins its
turn, and whenever a turn waits for something. Between two of them nothing can be lost that is not
lost at one of them.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import msgspec

from perdure.actor.methods import ActorType, Method
from perdure.actor.model import Actor, current_turn
from perdure.actor.reference import Router
from perdure.actor.turn import Turn
from perdure.runtime.outbox import MessageTurn
from perdure.runtime.scheduler import TimerTurn
from perdure.store.api import Batch, Committed, Query, Store, StoredActor
from perdure.store.memory import MemoryStore
from perdure.testing.clock import VirtualClock
from perdure.testing.crash import MortalStore, restart
from perdure.web.app import App


class Acknowledged(msgspec.Struct, frozen=True):
    """A call from outside whose caller got the result: what it did must never be lost."""

    actor_class: type[Actor]
    key: str
    method: str
    arguments: dict[str, Any]
    result: Any


class Trial:
    """One run of a scenario, with at most one crash. Scenarios and invariants get it.

    Args:
        crash_at: the number of the point to be killed at, from 1; 0: none.
        points_max: how many points are remembered by name.
    """

    def __init__(self, actor_types: Sequence[ActorType], *, crash_at: int, points_max: int) -> None:
        self.clock = VirtualClock()
        self.app: App
        self.acknowledged: list[Acknowledged] = []  # in the order of the answers
        self.crashed_at: str | None = None  # the name of the point, once the crash has come
        self.points: list[str] = []
        self.passed = 0  # points, until the crash
        self.is_over = False  # the invariant is looking: nothing is counted or noted any more
        self._types = {actor_type.name: actor_type for actor_type in actor_types}
        self._crash_at = crash_at
        self._points_max = points_max
        self._last_turns: dict[tuple[str, str], str] = {}  # by actor: the method it ran last
        self._commits = 0
        self._life: MortalStore = _Life(MemoryStore(), self)
        self._restarting: asyncio.Task[None] | None = None
        self._is_up = asyncio.Event()

    # -- life ------------------------------------------------------------------------------------

    async def start(self, app: App) -> None:
        """Begin the first life."""
        self.app = app
        await app.start(cast("Store", self._life))
        self._up()

    def _up(self) -> None:
        for actor_type in self._types.values():
            actor_type.bind(_Outside(self, actor_type.router))
        self._is_up.set()

    async def up(self) -> None:
        """Wait until the restart, if one is under way, is done; raises what hindered it."""
        if self._restarting is not None:
            await self._restarting

    async def wait_up(self) -> None:
        """Wait until calls are taken."""
        await self._is_up.wait()

    async def _restart(self) -> None:
        self._life = self._life.next_life()
        try:
            await restart(self.app, self._life)
            self._up()
        finally:
            self._is_up.set()  # after a failed start, too: callers shall get an error, not wait

    # -- points ----------------------------------------------------------------------------------

    def reach(self, point: str) -> None:
        """Pass one point, or be killed there."""
        if self.is_over or self.crashed_at is not None:
            return
        self.passed += 1
        if len(self.points) < self._points_max:
            self.points.append(point)
        if self.passed == self._crash_at:
            self.crashed_at = point
            self._life.kill()
            self._is_up.clear()
            self._restarting = asyncio.get_running_loop().create_task(self._restart())

    def begins(self, turn: Turn) -> None:
        """A turn is about to run."""
        activation = turn.activation
        self._last_turns[activation.actor_type.name, activation.key] = turn.method.name
        if isinstance(turn, MessageTurn):
            self.reach(f"when the message to {_name(turn)} arrived")
        elif isinstance(turn, TimerTurn):
            self.reach(f"when a timer called {_name(turn)}")

    def waits(self, turn: Turn, number: int) -> None:
        """A turn has come to an await at which it waits."""
        self.reach(f"at wait {number} of {_name(turn)}")

    def next_commit(self, batch: Batch) -> str:
        """The name of a commit."""
        self._commits += 1
        places = [(write.actor_type, write.key) for write in batch.writes]
        turns = [
            f"{self._types[name].actor_class.__name__}({key!r}).{self._last_turns[name, key]}"
            for name, key in places
            if (name, key) in self._last_turns and name in self._types
        ]
        what = " and ".join(turns[:3]) + (" and others" if len(turns) > 3 else "")
        return f"at commit {self._commits} ({what or 'housekeeping'})"


def _name(turn: Turn) -> str:
    return f"{turn.activation}.{turn.method.name}"


class _Life(MortalStore):
    """A store with a point before and after each commit."""

    def __init__(self, inner: Store, trial: Trial) -> None:
        super().__init__(inner)
        self._trial = trial

    async def commit(self, batch: Batch) -> Committed:
        self.refuse_if_dead()
        name = self._trial.next_commit(batch)
        self._trial.reach(f"{name}, before it was durable")
        committed = await super().commit(batch)
        self._trial.reach(f"{name}, after it was durable and before anybody was told")
        self.refuse_if_dead()
        return committed

    def next_life(self) -> MortalStore:
        return _Life(self.inner, self._trial)


class _Outside:
    """A router before the node's: it notes what was acknowledged to callers outside of turns, and
    lets their calls wait while the process restarts."""

    def __init__(self, trial: Trial, router: Router) -> None:
        self._trial = trial
        self._router = router
        self.limits = router.limits

    async def call(
        self,
        method: Method,
        key: str,
        positional: tuple[Any, ...],
        named: dict[str, Any],
        request_id: str | None,
    ) -> Any:
        if current_turn.get() is not None:
            return await self._router.call(method, key, positional, named, request_id)
        await self._trial.wait_up()
        # by way of the class: after a restart another node runs it
        router = cast("_Outside", method.actor_type.router)._router
        result = await router.call(method, key, positional, named, request_id)
        if not self._trial.is_over:
            arguments = msgspec.structs.asdict(method.arguments_from_python(positional, named))
            self._trial.acknowledged.append(
                Acknowledged(method.actor_type.actor_class, key, method.name, arguments, result)
            )
        return result

    async def query(self, query: Query) -> list[StoredActor]:
        return await self._router.query(query)

    def watch(
        self, method: Method, key: str, positional: tuple[Any, ...], named: dict[str, Any]
    ) -> AsyncIterator[Any]:
        return self._router.watch(method, key, positional, named)


# -- turns -----------------------------------------------------------------------------------------


@contextmanager
def watched_turns(trial: Trial, actor_types: Sequence[ActorType]) -> Iterator[None]:
    """Within the block, every turn of these classes passes points of the trial."""
    methods = [
        method
        for actor_type in actor_types
        for method in (*actor_type.methods.values(), actor_type.on_expire)
    ]
    functions = [method.function for method in methods]
    for method in methods:
        method.function = _watched(trial, method.function)
    try:
        yield
    finally:
        for method, function in zip(methods, functions, strict=True):
            method.function = function


def _watched(trial: Trial, function: Callable[..., Any]) -> Callable[..., Any]:
    async def watched(actor: Actor, *arguments: Any) -> Any:
        turn = current_turn.get()
        assert turn is not None
        trial.begins(turn)
        return await _Waits(trial, turn, function(actor, *arguments))

    return watched


class _Waits:
    """Awaitable: drives a turn, and passes a point whenever it waits."""

    def __init__(self, trial: Trial, turn: Turn, work: Coroutine[Any, Any, Any]) -> None:
        self._trial = trial
        self._turn = turn
        self._work = work

    def __await__(self) -> Generator[Any, Any, Any]:
        step: Callable[[Any], Any] = self._work.send
        value: Any = None
        number = 0
        try:
            while True:
                try:
                    awaited = step(value)
                except StopIteration as stop:
                    return stop.value
                number += 1
                self._trial.waits(self._turn, number)
                try:
                    value = yield awaited
                    step = self._work.send
                except GeneratorExit:
                    raise
                except BaseException as error:
                    step, value = self._work.throw, error
        finally:
            self._work.close()
