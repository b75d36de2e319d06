"""The gateway: what a web process has in place of a node. It owns no actor and opens no store.

Every call goes to the process that owns its actor, in whichever cell; sockets and subscriptions
stay here while owners die, move or are replaced.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any

from perdure.actor.activation import Activation
from perdure.actor.gate import GroupCommit
from perdure.actor.methods import ActorType, Method, refuse_bound
from perdure.actor.trail import trail_here
from perdure.actor.transaction import transaction_of
from perdure.actor.turn import Turn
from perdure.base.clock import Clock, SystemClock
from perdure.base.errors import StoppingError, TransactionError
from perdure.base.gcra import Counters
from perdure.base.limits import Limits
from perdure.base.metrics import Family, gauge
from perdure.cluster.network import Network
from perdure.runtime.cells import Cells, refuse_unique
from perdure.runtime.elsewhere import BlockElsewhere
from perdure.runtime.forwarder import Forwarder
from perdure.runtime.live import LiveHub
from perdure.runtime.live_pull import watch_results
from perdure.runtime.local_turn import LocalTurn
from perdure.runtime.place import Place
from perdure.store.api import Query, StoredActor
from perdure.store.memory_query import merged
from perdure.store.registry import Registry

_ALONE_S = 5.0


class Gateway:
    """Sends the calls of one web process to where their actors are."""

    passes_arguments_on = True  # as they came: their owner decodes, and checks, them anyway
    counts_all = False

    def __init__(
        self,
        actor_types: Sequence[ActorType],
        registries: Sequence[Registry | None],
        place: Place,
        *,
        limits: Limits,
        clock: Clock | None = None,
        network: Network | None = None,
    ) -> None:
        self.actor_types = actor_types
        self.limits = limits
        self._clock = clock or SystemClock()
        self.now_s = self._clock.monotonic_s
        self.counters = Counters(limits.rate_subjects_max)  # for when nobody else can count
        self._cells = Cells(
            dict(enumerate(registries)),
            len(registries),
            place,
            self._clock,
            limits,
            network=network,
        )
        self.live = LiveHub(self, self._cells.watch, hears_at_once=False)
        self._tasks: set[asyncio.Task[None]] = set()
        self._running = False

    @property
    def is_running(self) -> bool:
        """True while calls are taken and somebody is there to send them to; or was a moment ago:
        calls wait, and a balancer that sent them elsewhere would gain nothing."""
        return self._running and self._cells.alone_for_s() < _ALONE_S

    # -- life ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Find the owners and take calls. Raises StoreError when the registry cannot be read."""
        refuse_bound(self.actor_types)
        refuse_unique(self.actor_types, self._cells.count)
        try:
            troubles = await self._cells.start()
            if len(troubles) == self._cells.count:
                raise troubles[0]
        except BaseException:
            await self._cells.close()
            raise
        for actor_type in self.actor_types:
            actor_type.bind(self)
        self._running = True

    async def stop(self, drain_s: float | None = None) -> None:
        """Refuse new calls, give those under way `drain_s` seconds to be answered, and leave."""
        self._running = False
        self.live.stop()
        end_s = self.now_s() + (self.limits.drain_s if drain_s is None else drain_s)
        while self._tasks and (left_s := end_s - self.now_s()) > 0:
            await asyncio.wait(self._tasks, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        await self._cells.wait_idle(end_s)
        for task in self._tasks:
            task.cancel()
        await self._cells.close()
        for actor_type in self.actor_types:
            actor_type.bind(None)

    # -- calls -----------------------------------------------------------------------------------

    def submit(self, actor_type: ActorType, key: str, turn: Turn) -> None:
        """Take one call; its answer comes through `turn.succeed` or `turn.fail`, later."""
        if self._running:
            self._cells.to(key).submit(actor_type, key, turn)
        else:
            turn.fail(StoppingError("this process is stopping"))

    def counts_here(self, _key: str) -> bool:
        """False: owners of actors count."""
        return False

    def takes_again(self, _turn: Turn, _error: BaseException) -> bool:
        """True if a turn that failed so has been sent elsewhere instead: the forwarder has seen to
        that already."""
        return False

    def block_elsewhere(self, deadline_s: float) -> BlockElsewhere:
        """Who carries out a transaction."""
        return BlockElsewhere(self._cells.to, self._clock, deadline_s)

    def activation(self, actor_type: ActorType, key: str) -> Activation:
        """There is none here."""
        raise TransactionError(f"{actor_type.name}/{key} lives in another process")

    def join_commit(self) -> GroupCommit:
        """There is none here."""
        raise TransactionError("a web process commits nothing")

    async def call(
        self,
        method: Method,
        key: str,
        positional: tuple[Any, ...],
        named: dict[str, Any],
        request_id: str | None,
    ) -> Any:
        """Run one call from Python; see `Router.call`."""
        transaction = transaction_of(None)
        if transaction is not None:
            return await transaction.call(self, method, key, (positional, named), request_id)
        turn = LocalTurn(
            method,
            method.arguments_from_python(positional, named),
            deadline_s=self.now_s() + self.limits.call_timeout_s,
            request_id=request_id,
            trail=trail_here(),
            answer=asyncio.get_running_loop().create_future(),
        )
        self.submit(method.actor_type, key, turn)
        return method.result_from_json(await turn.result(self._clock))

    def watch(
        self, method: Method, key: str, positional: tuple[Any, ...], named: dict[str, Any]
    ) -> AsyncIterator[Any]:
        """Follow a live method from Python; see `Router.watch`."""
        return watch_results(self.live, method, key, positional, named)

    async def query(self, query: Query) -> list[StoredActor]:
        """Look at what is committed; see `Router.query`."""
        if not self._running:
            raise StoppingError("this process is stopping")
        deadline_s = self.now_s() + self.limits.call_timeout_s
        return merged(query, await self._cells.ask(query, deadline_s))

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` as a task that the process keeps a reference to."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def awake(self) -> dict[str, int]:
        """How many actors of each class are in memory: none."""
        return {}

    def statistics(self) -> dict[str, int]:
        """Counters of this process since it started."""
        return {
            "live_subscribers": self.live.subscribers,
            "calls_sent_again": sum(one.sent_again for one in self._cells.forwarders),
        }

    def families(self) -> list[Family]:
        """What this process counted since it started, as Prometheus is told."""
        return [
            *Forwarder.families(self._cells.forwarders),
            gauge("perdure_links", "Open links to and from other processes.", self._cells.links),
            gauge("perdure_live_subscribers", "Clients of live views here.", self.live.subscribers),
        ]
