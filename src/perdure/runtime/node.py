"""A node: it starts, takes calls for its actors, and stops without losing any.

start:  open the store → bind the references → deliver, fire and sweep in the background
call:   find or wake the actor → mailbox → turn → group commit → answer
stop:   refuse new calls → let running turns end → write the last commit → close the store
"""

import asyncio
import logging
import math
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Mapping,
    Sequence,
)
from collections.abc import (
    Set as AbstractSet,
)
from typing import Any

from perdure.actor.activation import Activation
from perdure.actor.answers import Origin
from perdure.actor.gate import GroupCommit
from perdure.actor.measures import TurnMeasures
from perdure.actor.methods import ActorType, Method, refuse_bound
from perdure.actor.model import current_turn
from perdure.actor.trail import trail_here
from perdure.actor.transaction import Elsewhere, transaction_of
from perdure.actor.turn import Turn, refuse_cycle
from perdure.base.clock import Clock, SystemClock
from perdure.base.errors import (
    DeadlineError,
    NotFoundError,
    OverloadedError,
    StoppingError,
    StoreError,
)
from perdure.base.gcra import Counters
from perdure.base.limits import Limits
from perdure.base.metrics import Family, counter, gauge
from perdure.base.trail import tracing
from perdure.runtime.catalog import Catalog, in_place
from perdure.runtime.committer import Committer
from perdure.runtime.expiry import Expiry
from perdure.runtime.live import LiveHub
from perdure.runtime.live_pull import watch_results
from perdure.runtime.local_turn import LocalTurn
from perdure.runtime.outbox import Outbox
from perdure.runtime.outlets import Outlet
from perdure.runtime.scheduler import Scheduler
from perdure.runtime.tracing import TracedCommitter
from perdure.store.api import Message, Posts, Query, RequestRecord, Store, StoredActor

log = logging.getLogger("perdure.node")

_FORGET_EVERY_S = 60.0
_FORGET_ROWS = 10_000


class Node:
    """Runs the actors of some classes on one store, all of them. It is the `Host` of its
    activations."""

    lease_until_s = math.inf
    passes_arguments_on = False
    counts_all = True  # of all rates
    owned: AbstractSet[int] | None = None  # the shards whose actors are its own; None: all

    def __init__(
        self,
        actor_types: Sequence[ActorType],
        store: Store,
        *,
        limits: Limits,
        outlets: Mapping[str, Outlet] | None = None,
        clock: Clock | None = None,
        on_broken: Callable[[Exception], None] | None = None,
    ) -> None:
        self.actor_types = actor_types
        self.limits = limits
        self.store = store
        self._clock = clock or SystemClock()
        self.now_s = self._clock.monotonic_s  # itself, not a method around it: each call asks
        self.wall_ms = self._clock.wall_ms
        self.outlets = outlets or {}
        self.counters = Counters(limits.rate_subjects_max)
        self.measures = TurnMeasures(actor_types)
        self._on_broken = on_broken or (lambda _error: None)
        self._catalog = Catalog(self, store)
        self.live = self._live_hub()
        self._tasks: set[asyncio.Task[None]] = set()
        self._running = False

    @property
    def is_running(self) -> bool:
        """True while calls are taken."""
        return self._running

    # -- life ------------------------------------------------------------------------------------

    def _live_hub(self) -> LiveHub:
        return LiveHub(self, self._catalog.watch, hears_at_once=True)

    async def start(self) -> None:
        """Open the store and take calls. Raises StoreError and its kinds."""
        refuse_bound(self.actor_types)
        await self.store.open([actor_type.schema for actor_type in self.actor_types])
        store, clock, types = self.store, self._clock, self.actor_types
        committer = Committer if tracing() is None else TracedCommitter
        self._committer = committer(store, clock, self._durable, self._broken)
        self._outbox = Outbox(self, store, clock, types, self.outlets)
        self._scheduler = Scheduler(self, store, clock, {one.name: one for one in types})
        self._expiry = Expiry(self, store, clock, types)
        for actor_type in types:
            actor_type.bind(self)
        self._running = True
        self._background = [
            asyncio.create_task(work, name=f"perdure-{name}")
            for name, work in {
                "sleep-idle": self._sleep_idle(),
                "forget-requests": self._forget_requests(),
                "outbox": self._outbox.run(),
                "timers": self._scheduler.run(),
                "expiry": self._expiry.run(),
            }.items()
        ]

    async def stop(self, drain_s: float | None = None) -> None:
        """Refuse new calls, give running turns `drain_s` seconds to end, commit, and close."""
        self._running = False
        self.live.stop()
        self._outbox.stop()
        self._scheduler.stop()
        await _cancel(self._background)
        await self._drain(self.limits.drain_s if drain_s is None else drain_s)
        await self._committer.stop()
        await self.store.close()
        for actor_type in self.actor_types:
            actor_type.bind(None)

    async def _drain(self, drain_s: float) -> None:
        """Let what runs and waits come to its end; cut off what takes too long."""
        end_s = self._clock.monotonic_s() + drain_s
        while self._tasks and (left_s := end_s - self._clock.monotonic_s()) > 0:
            await asyncio.wait(self._tasks, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        for activation in self._catalog:
            activation.flush()
            # what is on its way to the store still gets there, and its callers hear of it
            activation.kill(StoppingError(f"{activation} was cut off: the process is stopping"))
        await _cancel(self._tasks)

    def post(self, posts: Posts) -> None:
        """Tell others of messages for their actors; here all are ours."""

    def is_abroad(self, _key: str) -> bool:
        """False: all actors are in this store."""
        return False

    async def deliver_abroad(self, message: Message) -> None:
        """There is nobody to deliver it to."""
        raise NotFoundError(f"{message.stream.receiver_type} lives in a cell that is not there")

    def takes_again(self, _turn: Turn, _error: BaseException) -> bool:
        """True if a turn that failed so has been sent elsewhere instead."""
        return False

    def _durable(self, commit: GroupCommit) -> None:
        """A commit with messages or timers is in the store: see that they come about."""
        if commit.sent:
            self._outbox.committed(commit)
        if commit.timers:
            self._scheduler.committed(commit)

    def _broken(self, error: Exception) -> None:
        self._running = False  # the store is lost; what is still read could be wrong tomorrow
        self._on_broken(error)

    # -- calls -----------------------------------------------------------------------------------

    def submit(self, actor_type: ActorType, key: str, turn: Turn) -> None:
        """Take one call; its answer comes through `turn.succeed` or `turn.fail`, now or later."""
        if not self._running and turn.parent is None:
            turn.fail(StoppingError("this process is stopping"))
        elif not self._committer.has_room(self.limits.uncommitted_turns_max):
            turn.fail(OverloadedError("too many turns wait for their commit"))
        else:
            self._catalog.activation(actor_type, key).submit(turn)

    def activation(self, actor_type: ActorType, key: str) -> Activation:
        """The actor in memory, loaded or loading."""
        return self._catalog.activation(actor_type, key)

    def counts_here(self, _key: str) -> bool:
        """True: all rates are counted here."""
        return True

    def block_elsewhere(self, _deadline_s: float) -> Elsewhere | None:
        """None: transactions run here."""
        return None

    async def call(
        self,
        method: Method,
        key: str,
        positional: tuple[Any, ...],
        named: dict[str, Any],
        request_id: str | None,
    ) -> Any:
        """Run one call from Python; see `Router.call`."""
        parent = current_turn.get()
        transaction = transaction_of(parent)
        if transaction is not None:
            return await transaction.call(self, method, key, (positional, named), request_id)
        if parent is not None and parent.finished:
            parent = None  # a background task outlived the turn that began it
        deadline_s = self._clock.monotonic_s() + self.limits.call_timeout_s
        turn = LocalTurn(
            method,
            method.arguments_from_python(positional, named),
            deadline_s=deadline_s if parent is None else min(deadline_s, parent.deadline_s),
            caller=None if parent is None else parent.caller,
            parent=parent,
            request_id=request_id,
            trail=trail_here(parent),
            answer=asyncio.get_running_loop().create_future(),
            retries=self if parent is None else None,
        )
        if parent is None:
            self.submit(method.actor_type, key, turn)
            return method.result_from_json(await turn.result(self._clock))
        # what this turn's actor did before must be durable before another can hear of it
        await parent.activation.durable()
        turn.root, turn.chain, turn.standing = _root_of(parent), parent.chain, parent.standing
        return method.result_from_json(await self._call_within(parent, key, turn))

    async def _call_within(self, parent: Turn, key: str, turn: LocalTurn) -> bytes:
        """Run a call that a turn of this process makes; returns its answer."""
        target = self._catalog.activation(turn.method.actor_type, key)
        refuse_cycle(parent, target)
        if parent.waits_for is None:
            parent.waits_for = []
        parent.waits_for.append(target)
        try:
            self.submit(turn.method.actor_type, key, turn)
            return await turn.result(self._clock)
        finally:
            parent.waits_for.remove(target)

    def watch(
        self, method: Method, key: str, positional: tuple[Any, ...], named: dict[str, Any]
    ) -> AsyncIterator[Any]:
        """Follow a live method from Python; see `Router.watch`."""
        return watch_results(self.live, method, key, positional, named)

    async def query(self, query: Query) -> list[StoredActor]:
        """Look at what is committed; see `Router.query`."""
        if not self._running and current_turn.get() is None:
            raise StoppingError("this process is stopping")
        return await self.query_here(query)

    async def query_here(self, query: Query) -> list[StoredActor]:
        """Look at what is committed in this store. Raises DeadlineError, StoreError."""
        limit_s = self.limits.call_timeout_s
        try:
            async with asyncio.timeout(limit_s) as timeout:
                return await self.store.query(query)
        except TimeoutError:
            if not timeout.expired():
                raise  # the store's own
            raise DeadlineError(f"the query took longer than {limit_s:g} s") from None

    # -- what activations need -------------------------------------------------------------------

    def join_commit(self) -> GroupCommit:
        return self._committer.join()

    def find_request(
        self, activation: Activation, request_id: str
    ) -> RequestRecord | Awaitable[RequestRecord | None] | None:
        finding = self.store.find_request(activation.actor_type.name, activation.key, request_id)
        return in_place(finding) if self.store.reads_never_wait else finding

    def entry(self, activation: Activation, field: str, entry: str) -> Awaitable[bytes | None]:
        return self.store.entry(activation.actor_type.name, activation.key, field, entry)

    def entries(
        self,
        activation: Activation,
        field: str,
        *,
        start: str,
        end: str | None,
        limit: int,
        descending: bool,
    ) -> Awaitable[list[tuple[str, bytes]]]:
        return self.store.entries(
            activation.actor_type.name,
            activation.key,
            field,
            start=start,
            end=end,
            limit=limit,
            descending=descending,
        )

    def count_entries(self, activation: Activation, field: str) -> Awaitable[int]:
        return self.store.count_entries(activation.actor_type.name, activation.key, field)

    def flush_later(self, activation: Activation, loss_max_s: float) -> None:
        self._clock.call_later(loss_max_s, activation.flush)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- in the background -----------------------------------------------------------------------

    async def _sleep_idle(self) -> None:
        """An actor sleeps after one to two halves of `idle_sleep_s` without a call."""
        waited_s, every_s = 0.0, min(1.0, self.limits.idle_sleep_s / 2)
        while True:
            await self._clock.sleep(every_s)
            waited_s += every_s
            if len(self._catalog) > self.limits.awake_max:
                self._catalog.shrink_to(self.limits.awake_max * 9 // 10)
            if waited_s >= self.limits.idle_sleep_s / 2:
                waited_s = 0.0
                self._catalog.put_idle_to_sleep()

    async def _forget_requests(self) -> None:
        while True:
            await self._clock.sleep(_FORGET_EVERY_S)
            before_ms = self._clock.wall_ms() - int(self.limits.request_retention_s * 1000)
            try:
                while await self.store.forget_requests(before_ms, _FORGET_ROWS) == _FORGET_ROWS:
                    pass
                # a call is sent again until its deadline, and by clocks that may differ
                before_ms = self._clock.wall_ms() - int(self.limits.call_timeout_s * 10_000)
                while await self.store.forget_answers(before_ms, _FORGET_ROWS) == _FORGET_ROWS:
                    pass
            except StoreError as error:
                log.warning("idempotency keys not forgotten", extra={"error": str(error)})

    def awake(self) -> dict[str, int]:
        """How many actors of each class are in memory."""
        return self._catalog.awake_by_type()

    def statistics(self) -> dict[str, int]:
        """Counters of this process since it started."""
        return {
            "awake": len(self._catalog),
            "live_subscribers": self.live.subscribers,
            "commits": self._committer.commits,
            "turns_committed": self._committer.turns,
            "actors_expired": self._expiry.expired_total,
            **self._outbox.statistics(),
            **self._scheduler.statistics(),
        }

    def families(self) -> list[Family]:
        """What this process counted since it started, as Prometheus is told."""
        return [
            *self.measures.families(),
            *self._committer.families(),
            *self._catalog.families(),
            *self._outbox.families(),
            *self._scheduler.families(),
            counter(
                "perdure_actors_expired", "Actors whose ttl was over.", self._expiry.expired_total
            ),
            gauge("perdure_live_subscribers", "Clients of live views here.", self.live.subscribers),
        ]


def _root_of(turn: Turn) -> Origin | None:
    """What a call made in this turn is a part of, if that must not be repeated once it is done."""
    return None if turn.request_id is not None else turn.root or turn.origin


async def _cancel(tasks: Collection[asyncio.Task[None]]) -> None:
    ending = list(tasks)
    for task in ending:
        task.cancel()
    await asyncio.gather(*ending, return_exceptions=True)
