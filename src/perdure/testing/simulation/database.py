"""A simulated database: one memory store that many simulated processes reach over a bad network.

Each process has a handle (`SimulatedStore`) that keeps the promises of `Store` as an adapter for a
real server has to: a commit whose answer was lost is looked up by its record, and when the database
cannot be asked in time it is OutcomeUnknownError. Requests take time on their way there and back;
they get lost, are refused, and arrive after their sender has died.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Any

import msgspec

from perdure.base.errors import OutcomeUnknownError, PerdureError, StoreError
from perdure.base.ids import jittered
from perdure.runtime.catalog import in_place
from perdure.store.api import ActorSchema, Batch, Committed
from perdure.store.memory import MemoryStore
from perdure.testing.simulation.loop import SeededLoop
from perdure.testing.simulation.process import SimulatedProcess
from perdure.testing.simulation.trace import Trace


class Weather(msgspec.Struct):
    """How bad the way to the database is just now; probabilities are of one request."""

    delay_s: float = 0.0005  # on average, each way
    lost_requests: float = 0.0  # never arrive
    lost_replies: float = 0.0  # what was asked for is done
    failed_commits: float = 0.0  # an error, and nothing was done
    is_down: bool = False


class CommitRecord(msgspec.Struct):
    """One commit as the database saw it: written down outside of what is tested."""

    at_s: float
    process: str
    incarnation: int
    batch: Batch


class NoAnswerError(StoreError):
    """The database did not answer in time."""


class _Commit:
    """One commit on its way, and what became of it."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.outcome: Committed | PerdureError | None = None
        self.is_void = False  # it was looked for before it arrived: it must not come about


class SimulatedDatabase:
    """The shared server."""

    def __init__(self, loop: SeededLoop, trace: Trace, store: MemoryStore | None = None) -> None:
        self.process = SimulatedProcess(loop, "database")
        self.store = store or MemoryStore()
        self.weather = Weather()
        self.commits: list[CommitRecord] = []
        self.answer_within_s = 1.0  # then a request counts as lost
        self.resolve_within_s = 3.0  # then the outcome of a commit is unknown
        self._loop = loop
        self._trace = trace
        self._random = loop.random
        self._cut: dict[str, None] = {}  # hosts that do not reach it
        self._orphans: list[SimulatedStore] = []  # their processes died out of its sight

    # -- faults ----------------------------------------------------------------------------------

    def cut(self, host: str) -> None:
        """Let no request of this host arrive, and no reply reach it."""
        self._cut[host] = None

    def mend(self, host: str) -> None:
        """Let it through again."""
        self._cut.pop(host, None)
        orphans, self._orphans = self._orphans, []
        for store in orphans:
            self.hang_up(store)

    def is_cut(self, process: SimulatedProcess) -> bool:
        """True if it cannot reach the database just now."""
        return self.weather.is_down or process.host in self._cut

    def hang_up(self, store: "SimulatedStore") -> None:
        """Its process has died: find out, a little later, if the network lets the news through."""
        if self.is_cut(store.process):
            self._orphans.append(store)
        else:
            self.process.call_after(self._random.uniform(0, 0.02), store.disconnect)

    # -- the way there and back ------------------------------------------------------------------

    def _delay_s(self) -> float:
        return self._random.expovariate(1.0) * self.weather.delay_s

    def exchange(
        self, store: "SimulatedStore", work: Callable[[], Any]
    ) -> "asyncio.Future[Any]":
        """Do `work` at the database, once, and bring back what comes of it."""
        process = store.process
        answer = self._loop.create_future()
        if self.is_cut(process):
            refused = self._random.random() < 0.5
            after_s = self._delay_s() if refused else self.answer_within_s
            process.call_after(after_s, _settle, answer, None, NoAnswerError("not reached"))
        else:
            self.process.call_after(self._delay_s(), self._serve, store, work, answer)
        return answer

    def _serve(
        self,
        store: "SimulatedStore",
        work: Callable[[], Any],
        answer: "asyncio.Future[Any]",
    ) -> None:
        if not store.is_connected:
            return  # its process has died, and the session with it
        process = store.process
        weather, draw = self.weather, self._random.random
        result, error = None, None
        lost = self.is_cut(process) or (weather.lost_requests and draw() < weather.lost_requests)
        if lost:
            self._trace.fault("request lost", f"{process} → database")
        else:
            try:
                result = work()
            except PerdureError as raised:
                error = raised
            if weather.lost_replies and draw() < weather.lost_replies:
                self._trace.fault("reply lost", f"database → {process}")
                lost = True
        if lost:
            error = NoAnswerError("the database did not answer in time")
        after_s = self.answer_within_s if lost else self._delay_s()
        process.call_after(after_s, _settle, answer, result, error)

    # -- commits ---------------------------------------------------------------------------------

    def apply(self, process: SimulatedProcess, incarnation: int, commit: _Commit) -> Committed:
        """Commit, if nobody has found out before that it did not happen."""
        if commit.is_void:
            raise StoreError("the commit came too late")
        if self.weather.failed_commits and self._random.random() < self.weather.failed_commits:
            self._trace.fault("commit failed", f"of {process}")
            commit.outcome = StoreError("the database has rolled it back")
            raise commit.outcome
        try:
            commit.outcome = in_place(self.store.commit(commit.batch))
        except PerdureError as error:
            commit.outcome = error
            self._trace.note(f"database: {process} refused: {error}")
            raise
        record = CommitRecord(self._loop.now_s, process.name, incarnation, commit.batch)
        self.commits.append(record)
        writes = " ".join(f"{one.key}@{one.version}" for one in commit.batch.writes)
        self._trace.note(f"database: {process} committed {writes}")
        return commit.outcome

    def find_out(self, commit: _Commit) -> Committed | PerdureError | None:
        """What became of a commit; one that has not arrived never will."""
        if commit.outcome is None:
            commit.is_void = True
        return commit.outcome


class SimulatedStore:
    """The database as one process sees it. It has all methods of `Store`.

    Args:
        reads_never_wait: True to read at once, without the network, as an embedded store does.
    """

    registry = None

    def __init__(
        self,
        database: SimulatedDatabase,
        process: SimulatedProcess,
        *,
        reads_never_wait: bool = False,
    ) -> None:
        self.reads_never_wait = reads_never_wait
        self._database = database
        self.process = process
        self.is_connected = True
        process.at_death(lambda: database.hang_up(self))
        self._incarnation = 0
        self._unresolved: _Commit | None = None  # nobody knows yet what became of it

    async def open(self, schemas: Iterable[ActorSchema]) -> None:
        known = list(schemas)
        await self._ask(lambda: in_place(self._database.store.open(known)))

    async def close(self) -> None:
        """Let go of the connection."""

    def disconnect(self) -> None:
        """The database has noticed that the process is gone."""
        self.is_connected = False

    def stand_on(self, incarnation: int) -> None:
        self._incarnation = incarnation

    async def commit(self, batch: Batch) -> Committed:
        if self._unresolved is not None:
            await self._find_out_first()
        commit = _Commit(batch)
        work = partial(self._database.apply, self.process, self._incarnation, commit)
        try:
            committed: Committed = await self._database.exchange(self, work)
        except NoAnswerError:
            self._unresolved = commit
            return await self._resolve(commit)
        return committed

    async def _resolve(self, commit: _Commit) -> Committed:
        loop = asyncio.get_running_loop()
        end_s = loop.time() + self._database.resolve_within_s
        work = partial(self._database.find_out, commit)
        while True:
            try:
                outcome = await self._database.exchange(self, work)
            except NoAnswerError:
                if loop.time() >= end_s:
                    raise OutcomeUnknownError("nobody knows what became of the commit") from None
                await asyncio.sleep(jittered(0.05))
                continue
            if self._unresolved is commit:
                self._unresolved = None
            if isinstance(outcome, Committed):
                return outcome
            raise outcome or StoreError("the commit was lost on its way; nothing of it is there")

    async def _find_out_first(self) -> None:
        """Before anything else is asked: what became of the last commit?"""
        commit = self._unresolved
        if commit is not None:
            await self._database.exchange(self, partial(self._database.find_out, commit))
            if self._unresolved is commit:
                self._unresolved = None

    async def _ask(self, work: Callable[[], Any]) -> Any:
        if self._unresolved is not None:
            await self._find_out_first()
        return await self._database.exchange(self, work)

    def __getattr__(self, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        """Everything else is a question that the memory store answers at the other end."""
        question = getattr(self._database.store, name)

        async def ask(*args: Any, **named: Any) -> Any:
            if self.reads_never_wait and name in _READ_IN_PLACE:
                return await question(*args, **named)
            return await self._ask(lambda: in_place(question(*args, **named)))

        setattr(self, name, ask)
        return ask


_READ_IN_PLACE = frozenset({"load", "find_request", "entry"})


def _settle(
    answer: "asyncio.Future[Any]", result: Any, error: BaseException | None
) -> None:
    if answer.done():
        return
    if error is None:
        answer.set_result(result)
    else:
        answer.set_exception(error)
