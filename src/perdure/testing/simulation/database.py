"""A simulated database: one memory store that many simulated processes reach over a bad network.

Each process has a handle (`SimulatedStore`) that keeps the promises of `Store` as an adapter for a
real server has to: a commit whose answer was lost is looked up by its record, and when the database
cannot be asked in time it is OutcomeUnknownError. Requests take time on their way there and back;
they get lost, are refused, and arrive after their sender has died.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Any

import msgspec

from perdure.base.errors import OutcomeUnknownError, PerdureError, StoreError
from perdure.base.ids import jittered
from perdure.base.shards import shard_of
from perdure.runtime.catalog import in_place
from perdure.store.api import ActorSchema, Batch, Committed
from perdure.store.memory import MemoryStore
from perdure.store.memory_registry import MemoryRegistry
from perdure.store.registry import NOBODY, fenced
from perdure.testing.ownership import OwnershipLog
from perdure.testing.simulation.loop import SeededLoop
from perdure.testing.simulation.process import SimulatedClock, SimulatedProcess
from perdure.testing.simulation.snapshot import Snapshot
from perdure.testing.simulation.trace import Trace


class Weather(msgspec.Struct):
    """How bad the way to the database is just now; probabilities are of one request."""

    delay_s: float = 0.0005  # on average, each way
    lost_requests: float = 0.0  # never arrive
    lost_replies: float = 0.0  # what was asked for is done
    failed_commits: float = 0.0  # an error, and nothing was done
    is_down: bool = False


class NoAnswerError(StoreError):
    """The database did not answer in time."""


class _Commit:
    """One commit on its way, and what became of it."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.outcome: Committed | PerdureError | None = None
        self.is_void = False  # it was looked for before it arrived: it must not come about
        self.number = 0  # among all that came about


class SimulatedDatabase:
    """The shared server."""

    def __init__(self, loop: SeededLoop, trace: Trace) -> None:
        self.process = SimulatedProcess(loop, "database")
        self.registry = MemoryRegistry(SimulatedClock(self.process), self._has_session)
        self.store = MemoryStore(lambda incarnation: not self.registry.is_fenced(incarnation))
        self.weather = Weather()
        self.log = OwnershipLog()
        self.commits = 0
        self.late_s: dict[str, float] = {}  # by host: how much later its answers come
        self.answer_within_s = 1.0  # then a request counts as lost
        self.resolve_within_s = 1.5  # then the outcome of a commit is unknown
        self._loop = loop
        self._trace = trace
        self._random = loop.random
        self._cut: dict[str, None] = {}  # hosts that do not reach it
        self._open: dict[asyncio.Future[Any], SimulatedProcess] = {}  # who waits for an answer
        self._sessions: list[SimulatedStore] = []
        self._lost: list[range] = []  # commits, by their numbers
        self._ages = 0  # how often it was set back
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

    def stall(self) -> None:
        """Do nothing for a while: who waits for an answer gives up in time, but what it asked for
        may still be done."""
        self.process.freeze()
        for answer, process in self._open.items():
            self._give_up_in_time(process, answer)

    def go_on(self) -> None:
        """Do what has been asked for meanwhile."""
        self.process.thaw()

    def remember(self) -> Callable[[], None]:
        """What sets it back to now: a replica takes over that has nothing of what comes later.

        All sessions end. A process that has lost a commit of its own is fenced at its next one, as
        the numbers of its commits tell a real database's store.
        """
        snapshot, commits = Snapshot(self.store, self.registry, self.log), self.commits

        def set_back() -> None:
            snapshot.restore()
            self._ages += 1
            self._lost.append(range(commits + 1, self.commits + 1))
            sessions, self._sessions = self._sessions, []
            for store in sessions:
                store.has_lost = store.has_lost or store.last_commit > commits
                store.process.call_after(self._delay_s(), self._connect_again, store)

        return set_back

    def _connect_again(self, store: "SimulatedStore") -> None:
        if store.registry is not None:
            store.registry.session_lost()
        if store.is_connected:
            self._sessions.append(store)

    def is_cut(self, process: SimulatedProcess) -> bool:
        """True if it cannot reach the database just now."""
        return self.weather.is_down or process.host in self._cut

    def hang_up(self, store: "SimulatedStore") -> None:
        """Its process has died: find out, a little later, if the network lets the news through."""
        if self.is_cut(store.process):
            self._orphans.append(store)
        else:
            self.process.call_after(self._random.uniform(0, 0.02), self.disconnect, store)

    def connect(self, store: "SimulatedStore") -> None:
        """A process has come."""
        self._sessions.append(store)
        store.process.at_death(lambda: self.hang_up(store))

    def disconnect(self, store: "SimulatedStore") -> None:
        """The database has noticed that a process is gone."""
        store.is_connected = False
        if store in self._sessions:
            self._sessions.remove(store)

    def _has_session(self, incarnation: int) -> bool:
        return any(store.incarnation == incarnation for store in self._sessions)

    # -- the way there and back ------------------------------------------------------------------

    def _delay_s(self) -> float:
        return self._random.expovariate(1.0) * self.weather.delay_s

    def exchange(self, store: "SimulatedStore", work: Callable[[], Any]) -> "asyncio.Future[Any]":
        """Do `work` at the database, once, and bring back what comes of it."""
        process = store.process
        answer = self._loop.create_future()
        self._open[answer] = process
        if self.process.is_frozen:
            self._give_up_in_time(process, answer)
        if self.is_cut(process):
            refused = self._random.random() < 0.5
            after_s = self._delay_s() if refused else self.answer_within_s
            error = NoAnswerError("the database is not reached")
            process.call_after(after_s, self._settle, answer, None, error)
        else:
            asked = (store, work, answer, self._ages)
            self.process.call_after(self._delay_s(), self._serve, *asked)
        return answer

    def _serve(
        self,
        store: "SimulatedStore",
        work: Callable[[], Any],
        answer: "asyncio.Future[Any]",
        age: int,
    ) -> None:
        if not store.is_connected:
            return  # its process has died, and the session with it
        process = store.process
        weather, draw = self.weather, self._random.random
        result, error = None, None
        lost = self.is_cut(process) or age != self._ages
        lost |= bool(weather.lost_requests and draw() < weather.lost_requests)
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
        late_s = self._delay_s() + self.late_s.get(process.host, 0.0)
        after_s = self.answer_within_s if lost else min(late_s, self.answer_within_s)
        process.call_after(after_s, self._arrive, process, answer, result, error)

    def _arrive(
        self,
        process: SimulatedProcess,
        answer: "asyncio.Future[Any]",
        result: Any,
        error: BaseException | None,
    ) -> None:
        if self.is_cut(process):
            self._give_up_in_time(process, answer)  # it was cut while the answer was on its way
        else:
            self._settle(answer, result, error)

    def _give_up_in_time(self, process: SimulatedProcess, answer: "asyncio.Future[Any]") -> None:
        error = NoAnswerError("the database did not answer in time")
        process.call_after(self.answer_within_s, self._settle, answer, None, error)

    def _settle(
        self, answer: "asyncio.Future[Any]", result: Any, error: BaseException | None
    ) -> None:
        self._open.pop(answer, None)
        if answer.done():
            return
        if error is None:
            answer.set_result(result)
        else:
            answer.set_exception(error)

    # -- commits ---------------------------------------------------------------------------------

    def apply(self, store: "SimulatedStore", incarnation: int, commit: _Commit) -> Committed:
        """Commit, if nobody has found out before that it did not happen."""
        process = store.process
        if commit.is_void:
            raise StoreError("the commit came too late")
        if self.weather.failed_commits and self._random.random() < self.weather.failed_commits:
            self._trace.fault("commit failed", f"of {process}")
            commit.outcome = StoreError("the database has rolled it back")
            raise commit.outcome
        try:
            has_lost = store.has_lost and store.incarnation == incarnation
            if has_lost or (incarnation != NOBODY and self.registry.is_fenced(incarnation)):
                raise fenced(incarnation)
            commit.outcome = in_place(self.store.commit(commit.batch))
        except PerdureError as error:
            commit.outcome = error
            self._trace.note(f"database: {process} refused: {error}")
            raise
        self.commits += 1
        commit.number = store.last_commit = self.commits
        self._note(incarnation, commit.batch, commit.outcome)
        writes = " ".join(f"{one.key}@{one.version}" for one in commit.batch.writes)
        self._trace.note(f"database: {process} committed {writes}")
        return commit.outcome

    def register(
        self, store: "SimulatedStore", name: str, args: tuple[Any, ...], named: dict[str, Any]
    ) -> Any:
        """Do one thing in the registry."""
        before = self.registry._version
        result = in_place(getattr(self.registry, name)(*args, **named))
        if self.registry._version != before:
            subject = args[0] if args else ""
            owners = dict(sorted(Counter(self.registry._owners).items()))
            self._trace.note(
                f"registry: {store.process} as {store.incarnation}: {name}({subject})"
                f" → version {self.registry._version}, shards of each {owners}"
            )
        return result

    def _note(self, incarnation: int, batch: Batch, committed: Committed) -> None:
        """Write down outside of what is tested who has committed what, and who had the right."""
        owners = self.registry._owners if incarnation != NOBODY else None
        refused = {(one.actor_type, one.key) for one in committed.refused}
        lent = {(one.incarnation, one.group) for one in batch.standing}
        for write in batch.writes:
            if (write.actor_type, write.key) in refused:
                continue
            entitled = incarnation if owners is None else owners[shard_of(write.key)]
            if (entitled, write.group) in lent:
                entitled = incarnation  # its owner stands by it
            version = None if write.state is None else write.version
            self.log.committed(
                self._loop.now_s, (write.actor_type, write.key), version, incarnation, entitled
            )
        for message in batch.taken:
            entitled = incarnation if owners is None else owners[message.stream.shard]
            place = (message.stream.receiver_type, message.stream.receiver_key)
            self.log.took(self._loop.now_s, place, message.id, incarnation, entitled)

    def find_out(self, commit: _Commit) -> Committed | PerdureError | None:
        """What became of a commit; one that has not arrived never will."""
        if any(commit.number in lost for lost in self._lost):
            commit.outcome = None
        if commit.outcome is None:
            commit.is_void = True
        return commit.outcome


class SimulatedStore:
    """The database as one process sees it. It has all methods of `Store`.

    Args:
        reads_never_wait: True to read at once, without the network, as an embedded store does.
    """

    commit_passes_max = 2

    def __init__(
        self,
        database: SimulatedDatabase,
        process: SimulatedProcess,
        *,
        reads_never_wait: bool = False,
        is_shared: bool = False,
    ) -> None:
        self.registry = SimulatedRegistry(self) if is_shared else None
        self.reads_never_wait = reads_never_wait
        self.database = database
        self.process = process
        self.is_connected = True
        database.connect(self)
        self.incarnation = 0
        self.last_commit = 0  # its number
        self.has_lost = False  # a commit of this incarnation
        self._unresolved: _Commit | None = None  # nobody knows yet what became of it

    async def open(self, schemas: Iterable[ActorSchema]) -> None:
        known = list(schemas)
        await self._ask(lambda: in_place(self.database.store.open(known)))

    async def close(self) -> None:
        """Let go of the connection."""

    def stand_on(self, incarnation: int) -> None:
        self.incarnation = incarnation
        self.has_lost = False

    async def commit(self, batch: Batch) -> Committed:
        incarnation = self.incarnation  # as which it was made, whatever this process becomes
        if self._unresolved is not None:
            await self._find_out_first()
        commit = _Commit(batch)
        work = partial(self.database.apply, self, incarnation, commit)
        try:
            committed: Committed = await self.database.exchange(self, work)
        except NoAnswerError:
            self._unresolved = commit
            return await self._resolve(commit)
        return committed

    async def _resolve(self, commit: _Commit) -> Committed:
        loop = asyncio.get_running_loop()
        end_s = loop.time() + self.database.resolve_within_s
        work = partial(self.database.find_out, commit)
        while True:
            try:
                outcome = await self.database.exchange(self, work)
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
            await self.database.exchange(self, partial(self.database.find_out, commit))
            if self._unresolved is commit:
                self._unresolved = None

    async def _ask(self, work: Callable[[], Any]) -> Any:
        if self._unresolved is not None:
            await self._find_out_first()
        return await self.database.exchange(self, work)

    def __getattr__(self, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        """Everything else is a question that the memory store answers at the other end."""
        question = getattr(self.database.store, name)

        async def ask(*args: Any, **named: Any) -> Any:
            if self.reads_never_wait and name in _READ_IN_PLACE:
                return await question(*args, **named)
            return await self._ask(lambda: in_place(question(*args, **named)))

        setattr(self, name, ask)
        return ask


class SimulatedRegistry:
    """The registry as one process sees it, through its store's connection."""

    def __init__(self, store: "SimulatedStore") -> None:
        self._store = store

    async def close(self) -> None:
        """Memberships stay."""

    def stand_on(self, incarnation: int) -> None:
        """Nothing: the session that others see is that of the store."""

    def session_lost(self) -> None:
        """The database has ended the session; a node puts its own here."""

    def __getattr__(self, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        """Every other method is one exchange."""

        async def ask(*args: Any, **named: Any) -> Any:
            store = self._store
            work = partial(store.database.register, store, name, args, named)
            return await store.database.exchange(store, work)

        setattr(self, name, ask)
        return ask


_READ_IN_PLACE = frozenset({"load", "find_request", "entry"})
