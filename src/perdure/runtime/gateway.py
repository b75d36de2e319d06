"""The gateway: what a web process has in place of a node. It owns no actor and opens no store.

Every call goes to the process that owns its actor; sockets and subscriptions stay here while owners
die, move or are replaced. The shard map comes from the registry, and sooner from the members
themselves; where the store has none, there is one owner, at a known address.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import suppress
from typing import Any

from perdure.actor.activation import Activation
from perdure.actor.gate import GroupCommit
from perdure.actor.methods import ActorType, Method, refuse_bound
from perdure.actor.transaction import transaction_of
from perdure.actor.turn import Turn
from perdure.base.clock import Clock, SystemClock
from perdure.base.errors import StoppingError, StoreError, TransactionError
from perdure.base.limits import Limits
from perdure.cluster import shard_map
from perdure.cluster.network import Network
from perdure.runtime.elsewhere import BlockElsewhere
from perdure.runtime.live import LiveHub
from perdure.runtime.live_pull import watch_results
from perdure.runtime.local_turn import LocalTurn
from perdure.runtime.place import Place
from perdure.runtime.station import RELEASE, SOLE_INCARNATION, Station
from perdure.store.api import Query, StoredActor
from perdure.store.registry import Member, Registry

_LOOK_EVERY_S = 1.0
_ALONE_S = 5.0


class Gateway:
    """Sends the calls of one web process to where their actors are."""

    passes_arguments_on = True  # as they came: their owner decodes, and checks, them anyway

    def __init__(
        self,
        actor_types: Sequence[ActorType],
        registry: Registry | None,
        place: Place,
        *,
        limits: Limits,
        clock: Clock | None = None,
        network: Network | None = None,
    ) -> None:
        self.actor_types = actor_types
        self.limits = limits
        self._registry = registry
        self._clock = clock or SystemClock()
        self.now_s = self._clock.monotonic_s
        self._station = Station(
            place,
            self._clock,
            limits,
            behind=self._behind,
            died=lambda _incarnation: None,
            network=network,
        )
        self.live = LiveHub(self, self._station.watches.watch, hears_at_once=False)
        self._is_looking = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._watcher: asyncio.Task[None] | None = None
        self._running = False

    @property
    def is_running(self) -> bool:
        """True while calls are taken and somebody is there to send them to; or was a moment ago:
        calls wait, and a balancer that sent them elsewhere would gain nothing."""
        return self._running and self._station.alone_for_s() < _ALONE_S

    # -- life ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Find the owners and take calls. Raises StoreError when the registry cannot be read."""
        refuse_bound(self.actor_types)
        self._station.start()
        if self._registry is not None:
            try:
                await self._registry.open()
                await self._look()
            except BaseException:
                await self._leave()
                raise
            self._watcher = asyncio.create_task(self._keep_looking(), name="perdure-map")
        else:
            place = self._station.place
            assert place.state_at is not None
            owner = Member(SOLE_INCARNATION, "state", place.state_at, RELEASE)
            self._station.take_map(shard_map.only(owner), tell=False)
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
        while not self._station.forwarder.is_idle and self.now_s() < end_s:
            await self._clock.sleep(0.01)
        for task in [*self._tasks, *([self._watcher] if self._watcher else [])]:
            task.cancel()
        await self._leave()
        for actor_type in self.actor_types:
            actor_type.bind(None)

    async def _leave(self) -> None:
        await self._station.close()
        if self._registry is not None:
            await self._registry.close()

    # -- the map ---------------------------------------------------------------------------------

    def _behind(self, version: int) -> None:
        if version > self._station.map.version and not self._is_looking:
            self._is_looking = True
            self.spawn(self._look_again())

    async def _keep_looking(self) -> None:
        while True:
            await self._clock.sleep(_LOOK_EVERY_S)
            await self._look_again()

    async def _look_again(self) -> None:
        with suppress(StoreError):  # the next look comes soon, and members tell of changes
            await self._look()
        self._is_looking = False

    async def _look(self) -> None:
        if self._registry is None:
            return
        known = self._station.map
        view = await self._registry.view(known.version)
        # older than what was known when it was asked: the database was set back, and it decides
        is_set_back = view.version < known.version
        newer = (shard_map.EMPTY if is_set_back else known).followed_by(view)
        if is_set_back or newer.version > self._station.map.version:
            self._station.take_map(newer, tell=False)

    # -- calls -----------------------------------------------------------------------------------

    def submit(self, actor_type: ActorType, key: str, turn: Turn) -> None:
        """Take one call; its answer comes through `turn.succeed` or `turn.fail`, later."""
        if self._running:
            self._station.forwarder.submit(actor_type, key, turn)
        else:
            turn.fail(StoppingError("this process is stopping"))

    def takes_again(self, _turn: Turn, _error: BaseException) -> bool:
        """True if a turn that failed so has been sent elsewhere instead: the forwarder has seen to
        that already."""
        return False

    def block_elsewhere(self, deadline_s: float) -> BlockElsewhere:
        """Who carries out a transaction."""
        return BlockElsewhere(self._station.forwarder, self._clock, deadline_s)

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
        return await self._station.forwarder.ask(query, deadline_s)

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
            "calls_sent_again": self._station.forwarder.sent_again,
        }
