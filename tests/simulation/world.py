"""A world with clients: how calls come into simulated processes, and what their callers heard."""

import asyncio
import json
import math
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

from perdure import DeadlineError, PerdureError, watch
from perdure.base import ids
from perdure.base.errors import (
    InterruptedCallError,
    OutcomeUnknownError,
    TransactionConflictError,
    UnansweredError,
)
from perdure.testing.linearizability import Operation
from perdure.testing.simulation.database import SimulatedDatabase
from perdure.testing.simulation.loop import SeededLoop
from perdure.testing.simulation.network import SimulatedNetwork
from perdure.testing.simulation.process import SimulatedProcess
from perdure.testing.simulation.trace import Trace

UNKNOWN = (
    DeadlineError,
    InterruptedCallError,
    OutcomeUnknownError,
    UnansweredError,
    ConnectionResetError,
    TimeoutError,
)
"""After these nobody knows whether the call has had its effect; after others it has not."""


_STREAM_S = 0.0005  # from a process to whoever follows: always the same, so nothing is overtaken

Doors = Callable[[], list["Door"]]

Probe = Callable[[Doors, Doors, float], Coroutine[Any, Any, None]]
"""Asks for the same, inside of what is cut off and outside, for that many seconds."""


class World:
    """Everything that one run has in common."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.loop = SeededLoop(seed)
        self.random = self.loop.random
        self.trace = Trace(self.loop)
        self.network = SimulatedNetwork(self.loop, self.trace)
        self.database = SimulatedDatabase(self.loop, self.trace)
        self.clients = SimulatedProcess(self.loop, "clients")
        self.find_doors: Callable[[], list[Door]] = list  # where clients may knock just now
        self.probes: list[Probe] = []  # what workloads do while a part of the world is cut off
        self.operations = 0  # that were answered
        self.is_ending = False  # clients begin nothing any more
        self.set_back_s = -math.inf  # when the database forgot something last
        self.unsure_s = 0.0  # for how long after that what is heard may not last
        self._ticks = 0
        self._offsets_ms: list[int] = []  # of all wall clocks that there were
        ids.draw_from(self.random.randbytes)

    @property
    def clocks_differ_s(self) -> float:
        """By how much wall clocks of processes have differed, at most, and a bit for the way."""
        return (max(self._offsets_ms) - min(self._offsets_ms)) / 1000 + 0.1

    def set_clock(self, process: SimulatedProcess, offset_ms: int) -> None:
        """Let the wall clock of a process be that wrong from now on."""
        process.wall_offset_ms = offset_ms
        self._offsets_ms.append(offset_ms)

    @property
    def is_unsure(self) -> bool:
        """True shortly after the database has forgotten something."""
        return self.loop.now_s < self.set_back_s + self.unsure_s

    def stored(self, name: str, key: str) -> dict[str, Any]:
        """The fields of an actor as the database holds them."""
        row = self.database.store._table(name).get(key)
        return {} if row is None or row.state is None else json.loads(row.state)

    def tick(self) -> int:
        """A number that never comes twice, rising with time."""
        self._ticks += 1
        return self._ticks

    def delay_s(self) -> float:
        """How long something takes on its way between a client and a process."""
        return self.random.expovariate(1.0) * 0.0005


class Door:
    """Where calls from outside come into a process, as HTTP requests would."""

    def __init__(self, world: World, process: SimulatedProcess, classes: SimpleNamespace) -> None:
        self.process = process
        self._world = world
        self._classes = classes
        self._open: dict[asyncio.Future[Any], None] = {}
        process.at_death(self._break)

    def call(
        self, name: str, key: str, method: str, arguments: tuple[Any, ...], request_id: str | None
    ) -> "asyncio.Future[Any]":
        """Send one call; for a client."""
        answer: asyncio.Future[Any] = self._world.loop.create_future()
        if not self.process.is_alive:
            self._answer(answer, None, ConnectionRefusedError())
        else:
            self._open[answer] = None
            begin = (name, key, method, arguments, request_id, answer)
            self.process.call_after(self._world.delay_s(), self._begin, *begin)
        return answer

    def watch(
        self, name: str, key: str, method: str, saw: Callable[[Any], None]
    ) -> "asyncio.Future[None]":
        """Follow a live view, for a client; done when it has ended."""
        over: asyncio.Future[None] = self._world.loop.create_future()
        if not self.process.is_alive:
            self._answer(over, None, ConnectionRefusedError())
        else:
            self._open[over] = None
            following = (name, key, method, saw, over)
            self.process.call_after(
                self._world.delay_s(), lambda: self.process.spawn(self._follow(*following))
            )
        return over

    async def _follow(
        self,
        name: str,
        key: str,
        method: str,
        saw: Callable[[Any], None],
        over: "asyncio.Future[None]",
    ) -> None:
        def tell(value: Any) -> None:
            if not over.done():  # else its client has let go of it
                saw(value)

        error = None
        try:
            async for value in watch(getattr(getattr(self._classes, name).at(key), method)):
                self._world.clients.call_after(_STREAM_S, tell, value)
        except PerdureError as raised:
            error = raised
        self._answer(over, None, error)

    def _begin(self, *call: Any) -> None:
        self.process.spawn(self._serve(*call))

    async def _serve(
        self,
        name: str,
        key: str,
        method: str,
        arguments: tuple[Any, ...],
        request_id: str | None,
        answer: "asyncio.Future[Any]",
    ) -> None:
        result, error = None, None
        try:
            actor = getattr(self._classes, name).at(key, request_id=request_id)
            result = await getattr(actor, method)(*arguments)
        except PerdureError as raised:
            error = raised
        self._answer(answer, result, error)

    def _answer(self, answer: "asyncio.Future[Any]", result: Any, error: Exception | None) -> None:
        self._open.pop(answer, None)
        self._world.clients.call_after(self._world.delay_s(), _settle, answer, result, error)

    def _break(self) -> None:
        for answer in list(self._open):
            self._answer(answer, None, ConnectionResetError())


def _settle(answer: "asyncio.Future[Any]", result: Any, error: Exception | None) -> None:
    if answer.done():
        return
    if error is None:
        answer.set_result(result)
    else:
        answer.set_exception(error)


class Client:
    """One caller, who makes one call at a time and writes down what came of it."""

    def __init__(
        self, world: World, name: str, *, patience_s: float = 8.0, doors: Doors | None = None
    ) -> None:
        self.world = world
        self._doors = doors or (lambda: world.find_doors())
        self.name = name
        self.patience_s = patience_s
        self.last: list[bool] = []  # of each call: whether it was answered, newest last
        self._calls = 0

    def next_id(self) -> str:
        """An idempotency key."""
        self._calls += 1
        return f"{self.name}-{self._calls}"

    async def call(
        self,
        name: str,
        key: str,
        method: str,
        *arguments: Any,
        keyed: bool = False,
        history: list[Operation] | None = None,
        kind: str | None = None,
    ) -> Any:
        """One call; with an idempotency key it is sent until it is answered, or patience ends.

        Returns the result. Raises one of `UNKNOWN`, or what says that it had no effect.
        """
        world = self.world
        argument = arguments if len(arguments) > 1 else (arguments[0] if arguments else None)
        if name == "Relay":
            argument = arguments[1]  # the history is that of the actor behind it
        operation = Operation(self.name, kind or method, argument, world.tick())
        request_id = self.next_id() if keyed else None
        told = f"{self.name}: {name}/{key}.{method}{arguments}{' ' + request_id if keyed else ''}"
        try:
            result = await self._send(name, key, method, arguments, request_id)
        except (PerdureError, OSError, TimeoutError) as error:
            world.trace.note(f"{told} → {type(error).__name__}")
            answered = isinstance(error, PerdureError) and error.status < 500
            answered |= isinstance(error, TransactionConflictError)  # the right one, for a block
            self.last.append(answered)
            # what a call has called stays, even if its own turn is undone
            if history is not None and (isinstance(error, UNKNOWN) or name == "Relay"):
                history.append(operation)
            raise
        world.trace.note(f"{told} → {repr(result)[:60]}")
        world.operations += 1
        self.last.append(True)
        operation.result, operation.returned_at = result, world.tick()
        if history is not None:
            history.append(operation)
        return result

    async def _send(
        self,
        name: str,
        key: str,
        method: str,
        arguments: tuple[Any, ...],
        request_id: str | None,
    ) -> Any:
        world, unknown = self.world, None
        end_s = world.loop.time() + self.patience_s
        while True:
            left_s = end_s - world.loop.time()
            try:
                async with asyncio.timeout(max(left_s, 0)):
                    return await self._door().call(name, key, method, arguments, request_id)
            except (PerdureError, OSError, TimeoutError) as error:
                is_final = isinstance(error, PerdureError) and error.status < 500
                is_final &= getattr(error, "kind", "") != "request-running"
                if request_id is None or is_final or world.loop.time() >= end_s:
                    raise unknown or error from None
                if isinstance(error, UNKNOWN):
                    unknown = error
            await asyncio.sleep(world.random.uniform(0.01, 0.2))

    def _door(self) -> Door:
        doors = self._doors()
        return doors[int(self.world.random.random() * len(doors))]
