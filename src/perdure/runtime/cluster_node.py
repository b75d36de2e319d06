"""A node among others: it owns the actors of some shards, and sends calls for the rest elsewhere.

start:  open the store → listen for others → become a member → own shards, as the map says
call:   of an own shard: as in a node alone; of another's: to its owner; of one that moves: it waits
stop:   hand the shards over, while still answering → leave → stop as a node alone

It is the Owner of its membership, which says which shards are its own and how they come and go, and
the Host of its reception. Where the store has no registry it owns everything: then the others are
web processes, which own nothing.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from perdure.actor.activation import Activation
from perdure.actor.answers import Origin
from perdure.actor.host import Watcher
from perdure.actor.locks import LockTurn
from perdure.actor.methods import ActorType
from perdure.actor.model import Caller
from perdure.actor.turn import Turn
from perdure.base.clock import Clock, SystemClock
from perdure.base.codec import decoder
from perdure.base.errors import FencedError, InterruptedCallError, StoreError, TransactionError
from perdure.base.limits import Limits
from perdure.base.metrics import Family, counter, gauge
from perdure.base.shards import SHARDS, Cell
from perdure.base.trail import Trail
from perdure.cluster.handshake import fingerprint_of
from perdure.cluster.membership import Membership
from perdure.cluster.network import Network
from perdure.cluster.shard_map import ShardMap
from perdure.runtime.cells import Cells, refuse_unique
from perdure.runtime.forwarder import Forwarder
from perdure.runtime.guests import BorrowTurn, Guests
from perdure.runtime.live import LiveHub
from perdure.runtime.loans import Loans, LoanTurn
from perdure.runtime.local_turn import LocalTurn
from perdure.runtime.node import Node
from perdure.runtime.outlets import Outlet
from perdure.runtime.place import Place
from perdure.runtime.reception import Reception, RemoteTurn
from perdure.runtime.station import RELEASE, SOLE_INCARNATION, Station
from perdure.runtime.territory import Territory
from perdure.store.api import ABROAD, Message, Posts, Query, Store, StoredActor, Stream
from perdure.store.memory_query import merged
from perdure.store.registry import Registry

log = logging.getLogger("perdure.node")

_CLOSE_S = 2.0  # that turns of a shard have to end before it is handed over another time
_LOOK_S = 0.002

_LEASE_LEFT = (
    "perdure_lease_left_seconds",
    "Until when nobody else can own the actors of this process; 0: it answers for none.",
)

_decode_caller = decoder(Caller).decode


class ClusterNode(Node):
    """Runs the actors of the shards that are its own."""

    counts_all = False

    def __init__(
        self,
        actor_types: Sequence[ActorType],
        store: Store,
        place: Place,
        *,
        limits: Limits,
        outlets: Mapping[str, Outlet] | None = None,
        clock: Clock | None = None,
        on_broken: Callable[[Exception], None] | None = None,
        network: Network | None = None,
        abroad: Mapping[int, Registry] | None = None,
    ) -> None:
        """A node of one cell.

        Args:
            abroad: the registries of all other cells, by number.
        """
        abroad = abroad or {}
        self._cell = Cell(place.cell, len(abroad) + 1)
        self._abroad = Cells(
            abroad, self._cell.count, place, clock or SystemClock(), limits, network=network
        )
        self._place = place
        self._network = network
        self._membership: Membership | None = None
        super().__init__(
            actor_types, store, limits=limits, outlets=outlets, clock=clock, on_broken=on_broken
        )
        self._falls = 0
        self._territory = Territory(self.submit, waiting_max=limits.moving_calls_max)

    def _live_hub(self) -> LiveHub:
        self._station = Station(
            self._place,
            self._clock,
            self.limits,
            behind=self.behind,
            died=self._died,
            watch_here=self._catalog.watch,
            network=self._network,
        )
        self._station.forwarder.here = self
        self._loans = Loans(self, self._clock)
        self._station.reception = self._reception = Reception(self, self.actor_types, self._loans)
        self._station.guests = self._guests = Guests(self, self._clock, self._station.forwarder)
        return LiveHub(self, self._watch, hears_at_once=False)

    def _watch(self, actor_type: ActorType, key: str, watcher: Watcher, *, on: bool) -> None:
        ways = self._abroad if self.is_abroad(key) else self._station.watches
        ways.watch(actor_type, key, watcher, on=on)

    # -- life ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the store, join the others and take calls. Raises StoreError and its kinds."""
        refuse_unique(self.actor_types, self._cell.count)
        await super().start()
        self._station.start()
        try:
            await self._join()
        except BaseException:
            await self.stop(0)
            raise

    async def _join(self) -> None:
        registry = self.store.registry
        if registry is None:
            self._station.be(SOLE_INCARNATION)
            self.gained(range(SHARDS))
            await self._listen()
            return
        await registry.open()
        await registry.claim(self._cell)
        for trouble in await self._abroad.start():
            log.warning("a cell cannot be seen yet", extra={"error": str(trouble)})
        self._membership = Membership(
            registry,
            self,
            self._clock,
            name=self._station.name,
            address=await self._listen(),
            release=RELEASE,
            lease_ttl_s=self.limits.lease_ttl_s,
            key_fingerprint=fingerprint_of(self._place.key),
        )
        registry.session_lost = self._membership.connection_lost
        await self._membership.start()

    async def _listen(self) -> str:
        try:
            return await self._station.listen()
        except OSError as error:
            raise StoreError(f"{self._place.listen}: cannot listen there: {error}") from error

    async def stop(self, drain_s: float | None = None) -> None:
        """Hand over what others can take, let running turns end, commit, and leave."""
        end_s = self.now_s() + (self.limits.drain_s if drain_s is None else drain_s)
        if self._membership is not None:
            await self._membership.drain(end_s)
            while not self._station.forwarder.is_idle and self.now_s() < end_s:
                await self._clock.sleep(_LOOK_S)
        await super().stop(max(end_s - self.now_s(), 0.0))
        await asyncio.gather(self._station.close(), self._abroad.close())
        if self.store.registry is not None:
            await self.store.registry.close()

    def _broken(self, error: Exception) -> None:
        if isinstance(error, FencedError) and self._membership is not None:
            self._membership.fenced(error)
        else:
            super()._broken(error)

    # -- calls -----------------------------------------------------------------------------------

    def submit(self, actor_type: ActorType, key: str, turn: Turn) -> None:
        """Take one call: it runs here, waits for its shard to move, or goes to its owner."""
        territory = self._territory
        if territory.admits(key, turn):
            super().submit(actor_type, key, turn)
        elif territory.has(key):
            territory.wait(actor_type, key, turn)
        elif self.is_abroad(key):
            self._submit_abroad(actor_type, key, turn)
            return
        elif isinstance(turn, LockTurn):
            if isinstance(turn, LoanTurn):
                turn.turn_away(self.map_version)
            else:
                self._guests.borrow(turn)
            return
        elif turn.is_delivery:
            turn.fail(FencedError(f"{actor_type.name}/{key} lives in another process"))
        elif isinstance(turn, RemoteTurn):
            turn.turn_away(self.map_version)
        else:
            self._station.forwarder.submit(actor_type, key, turn)
        if turn.is_lock:
            self._guests.watch_over(turn)  # type: ignore[arg-type]

    def _submit_abroad(self, actor_type: ActorType, key: str, turn: Turn) -> None:
        if isinstance(turn, LockTurn):
            turn.fail(
                TransactionError(
                    f"{actor_type.name}/{key} lives in another database than {self._cell}: "
                    "a transaction is one commit, and so of one database"
                )
            )
        elif isinstance(turn, RemoteTurn):
            turn.turn_away(self.map_version)
        else:
            self._abroad.to(key).submit(actor_type, key, turn)

    async def _call_within(self, parent: Turn, key: str, turn: LocalTurn) -> bytes:
        if self._territory.has(key):
            return await super()._call_within(parent, key, turn)
        if self.now_s() >= self.lease_until_s:
            # whoever owns the caller next may run it again, from its begin
            raise FencedError(f"{parent}: the lease of this process is over")
        is_abroad = self.is_abroad(key)
        if not turn.method.read and turn.request_id is None:
            parent.has_begun()
            if is_abroad:
                await self._note_begun(parent)
        held = [one.activation for one in parent.holders()]
        turn.chain = [*parent.chain, *((one.actor_type.name, one.key) for one in reversed(held))]
        if is_abroad:
            turn.root, turn.standing = None, ()  # what they name is not in that database
            self._abroad.to(key).submit(turn.method.actor_type, key, turn)
            return await turn.result(self._clock)
        if self._membership is not None:
            turn.standing = [*parent.standing, self._membership.incarnation]
        self._station.forwarder.submit(turn.method.actor_type, key, turn)
        return await turn.result(self._clock)

    async def _note_begun(self, turn: Turn) -> None:
        """Commit that what this turn is a part of has begun, before it does something in another
        database: that cannot tell, if this process dies, who might run it once more."""
        if turn.origin is not None or turn.root is not None:
            waiter = asyncio.get_running_loop().create_future()
            self.join_commit().hold_outside(turn, waiter)
            await waiter

    def activation(self, actor_type: ActorType, key: str) -> Activation:
        """The actor in memory, loaded or loading; one that lives elsewhere is never loaded."""
        if not self._territory.has(key):
            return Activation(self, actor_type, key)  # for who looks where locks wait
        return super().activation(actor_type, key)

    def take_back(self, actor_type: ActorType, key: str, turn: Turn, origin: Origin | None) -> None:
        """Run a call here that was to run elsewhere; see `forwarder.Here`."""
        if isinstance(turn, BorrowTurn):
            self.submit(actor_type, key, turn.lock)
            return
        turn.begin_anew()
        if origin is None or turn.method.read or turn.request_id is not None:
            self.submit(actor_type, key, turn)
        else:
            self.spawn(self._reception.run_once(actor_type, key, turn, origin))

    def takes_again(self, turn: Turn, error: BaseException) -> bool:
        """Send a turn that was fenced off to the new owner, if it has had no effect."""
        if not isinstance(error, FencedError) or not self._running or turn.activation is None:
            return False
        if turn.is_begun and turn.request_id is None:
            turn.fail(InterruptedCallError(f"{turn} had begun when its actor moved"))
            return True
        activation = turn.activation
        turn.begin_anew()
        self._station.forwarder.submit(
            activation.actor_type, activation.key, turn, after_pause=True
        )
        return True

    def counts_here(self, key: str) -> bool:
        """True if the rates of this bucket are counted here, and by nobody else."""
        return self._territory.is_open(key) and self.now_s() < self.lease_until_s

    # -- other cells -----------------------------------------------------------------------------

    def is_abroad(self, key: str) -> bool:
        """True if actors with this key are in another cell."""
        return not self._cell.has(key)

    async def deliver_abroad(self, message: Message) -> None:
        """Call the receiver in its cell, which remembers the message as an idempotency key."""
        stream = message.stream
        method = self._reception.method(stream.receiver_type.removeprefix(ABROAD), message.method)
        turn = LocalTurn(
            method,
            method.arguments_from_json(message.arguments),
            deadline_s=self.now_s() + self.limits.call_timeout_s,
            caller=None if message.caller is None else _decode_caller(message.caller),
            request_id=message.uid,
            trail=message.trail,
            answer=asyncio.get_running_loop().create_future(),
        )
        self._abroad.to(stream.receiver_key).submit(method.actor_type, stream.receiver_key, turn)
        await turn.result(self._clock)

    async def query(self, query: Query) -> list[StoredActor]:
        """Look at what is committed, in every cell; see `Router.query`."""
        here = super().query(query)
        if self._cell.count == 1:
            return await here
        deadline_s = self.now_s() + self.limits.call_timeout_s
        own, others = await asyncio.gather(here, self._abroad.ask(query, deadline_s))
        return merged(query, [own, *others])

    # -- as the owner of shards ------------------------------------------------------------------

    @property
    def owned(self) -> AbstractSet[int]:  # type: ignore[override]
        """The shards whose actors are its own."""
        return self._territory.owned

    @property
    def lease_until_s(self) -> float:  # type: ignore[override]
        """Until when nobody else can own these shards."""
        return math.inf if self._membership is None else self._membership.lease_until_s

    def has(self, key: str) -> bool:
        """True if actors with this key live here."""
        return self._territory.has(key)

    async def close_shards(self, shards: AbstractSet[int]) -> AbstractSet[int]:
        """Let the turns of these shards end, and take no more; see `membership.Owner`."""
        closing = self._territory.opened(shards)
        self._territory.close(closing)
        end_s = self.now_s() + _CLOSE_S
        activations = self._catalog.within(closing)
        while True:
            activations = [one for one in activations if not _is_done(one)]
            if not activations or self.now_s() >= end_s:
                break
            await self._clock.sleep(_LOOK_S)
            again = self._catalog.within({one.shard for one in activations})
            activations = list(dict.fromkeys([*activations, *again]))  # each once, however long
        # some may be lost by now, or lost and gained anew: what they are is not ours to say
        closing = self._territory.closing(closing)
        # of all: those that were done may have been called once more by turns of the others
        busy = {one.shard for one in self._catalog.within(closing) if not _is_done(one)}
        self._territory.open(busy)
        self._territory.seal(closing - busy)
        return closing - busy

    def reopen(self, shards: AbstractSet[int]) -> None:
        """Take calls for these shards again."""
        self._territory.open(shards)

    def gained(self, shards: AbstractSet[int] | range) -> None:
        """These shards are its own from now on."""
        self._territory.open(shard for shard in shards if shard in self._cell.shards)
        self._outbox.gained()
        self._scheduler.moved()

    def lost(self, shards: AbstractSet[int]) -> None:
        """These shards are another's from now on."""
        self._throw_away(shards, FencedError("the actor has moved to another process"))

    def lose_all(self, error: Exception) -> None:
        """All shards are others' from now on."""
        self._falls += 1
        self._station.be(0)
        for forwarder in (self._station.forwarder, *self._abroad.forwarders):
            forwarder.fall(error)
        self._throw_away(self._territory.owned, error)
        self._committer.fall(error)

    def _throw_away(self, shards: AbstractSet[int], error: Exception) -> None:
        self._territory.lose(shards)
        self._outbox.lost(shards)
        self._catalog.throw_away(self._catalog.within(shards), error)

    def stand_on(self, incarnation: int) -> None:
        """Commit, and answer others, in the name of this incarnation."""
        self.store.stand_on(incarnation)
        if self.store.registry is not None:
            self.store.registry.stand_on(incarnation)
        self._station.be(incarnation)

    def map_changed(self, shard_map: ShardMap) -> None:
        """There is a newer map."""
        self._station.take_map(shard_map, tell=True)

    def saw_leases(self, ends_s: Mapping[int, float]) -> None:
        """When the leases of members end, by the clock of this process."""
        self._station.links.saw_leases(ends_s)

    def _died(self, incarnation: int) -> None:
        if self._membership is not None:
            self._membership.peer_died(incarnation)

    @property
    def incarnation(self) -> int:
        """In whose name it commits."""
        return self._station.identity.incarnation

    def timers_changed(self) -> None:
        """Another process has committed timers of an actor of ours."""
        self._scheduler.moved()

    # -- as the host of the reception ------------------------------------------------------------

    @property
    def map_version(self) -> int:
        """Of the shard map that it goes by."""
        return self._station.map.version

    def behind(self, version: int) -> None:
        """Another process knows this version of the map."""
        if self._membership is not None:
            self._membership.behind(version)

    async def find_answers(self, origin: Origin) -> list[bytes]:
        """What commits hold for a call."""
        return await self.store.find_answers(*origin)

    def watch_here(self, actor_type: ActorType, key: str, watcher: Watcher, *, on: bool) -> None:
        """Tell `watcher` of every commit of this actor from now on; or stop."""
        self._catalog.watch(actor_type, key, watcher, on=on)

    def look_at(self, stream: Stream, trails: Sequence[tuple[int, Trail]] = ()) -> None:
        """There may be new messages in this stream."""
        self._outbox.look_at(stream, trails)

    def post(self, posts: Posts) -> None:
        """Tell others of messages for their actors."""
        self._station.forwarder.post(posts)

    def statistics(self) -> dict[str, Any]:
        """Counters of this process since it started."""
        return {
            **super().statistics(),
            "shards": len(self.owned),
            "calls_sent_again": self._station.forwarder.sent_again,
            "calls_answered_again": self._reception.answered_again,
        }

    def families(self) -> list[Family]:
        """What this process counted since it started, as Prometheus is told."""
        ours = self._station.forwarder
        left_s = self.lease_until_s - self.now_s()
        lease = [] if self._membership is None else [gauge(*_LEASE_LEFT, max(left_s, 0.0))]
        return [
            *super().families(),
            *Forwarder.families([ours, *self._abroad.forwarders]),
            *lease,
            gauge("perdure_shards_owned", "Shards whose actors live here.", len(self.owned)),
            gauge(
                "perdure_map_version",
                "Of who owns what, as this process knows it.",
                self.map_version,
            ),
            counter(
                "perdure_ownership_lost",
                "How often all shards were lost at once: fenced, or the lease ran out.",
                self._falls,
            ),
            counter(
                "perdure_calls_answered_again",
                "Calls that came once more and got the answer of the first time.",
                self._reception.answered_again,
            ),
            gauge(
                "perdure_links",
                "Open links to and from other processes.",
                sum(1 for _ in self._station.links.open_links()) + self._abroad.links,
            ),
        ]


def _is_done(activation: Activation) -> bool:
    """True when nothing of it is under way; what relaxed turns changed is sent on its way."""
    if activation.dead is not None:
        return True
    activation.flush()
    return activation.is_idle
