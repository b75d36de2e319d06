"""Which actors are awake here: waking them when called, putting them to sleep when idle.

They are found by type and key, as calls name them; and by shard, as they move to other processes: a
portion of shards is closed while callers wait, and must not cost a look at every actor.
"""

from collections.abc import Coroutine, Iterable, Iterator
from typing import Any, TypeVar

from perdure.actor.activation import Activation
from perdure.actor.host import Host, Watcher
from perdure.actor.methods import ActorType
from perdure.actor.tracing import TracedActivation
from perdure.base.errors import PerdureError, StoreError
from perdure.base.metrics import Family, counter
from perdure.base.trail import tracing
from perdure.store.api import Store

Result = TypeVar("Result")


class Catalog:
    """The awake actors of one node, by type and key."""

    def __init__(self, host: Host, store: Store) -> None:
        self._host = host
        self._store = store
        self._activation = Activation if tracing() is None else TracedActivation
        self._awake: dict[ActorType, dict[str, Activation]] = {}
        self._by_shard: dict[int, dict[Activation, None]] = {}  # in the order in which they woke
        self._watchers: dict[tuple[ActorType, str], _Watchers] = {}
        self._loads = 0
        self._loads_failed = 0

    def __len__(self) -> int:
        return sum(map(len, self._awake.values()))

    def __iter__(self) -> Iterator[Activation]:
        for awake in self._awake.values():
            yield from awake.values()

    def awake_by_type(self) -> dict[str, int]:
        """How many are awake of each type, by the type's name in the store."""
        return {
            actor_type.name: len(awake)
            for actor_type, awake in self._awake.items()
            if actor_type.is_stored
        }

    def families(self) -> list[Family]:
        """What it counted, as Prometheus is told."""
        return [
            Family(
                "perdure_awake_actors",
                "gauge",
                "Actors in memory.",
                [
                    ({"type": actor_type.actor_class.__name__}, len(awake))
                    for actor_type, awake in self._awake.items()
                    if actor_type.is_stored
                ],
            ),
            counter("perdure_loads", "Actors that were looked up to wake them.", self._loads),
            counter(
                "perdure_loads_failed",
                "Actors that could not be woken: the store failed, or their state does not fit.",
                self._loads_failed,
            ),
        ]

    def activation(self, actor_type: ActorType, key: str) -> Activation:
        """The awake actor; if it sleeps, one that is loading and queues its calls meanwhile."""
        awake = self._awake.get(actor_type)
        if awake is None:
            awake = self._awake[actor_type] = {}
        activation = awake.get(key)
        if activation is None or activation.dead is not None:
            if activation is not None:
                self._remove(activation)
            activation = awake[key] = self._activation(self._host, actor_type, key)
            self._by_shard.setdefault(activation.shard, {})[activation] = None
            activation.watcher = self._watchers.get((actor_type, key))
            if not actor_type.is_stored:
                activation.wake(None)
            elif self._store.reads_never_wait:
                in_place(self._load(activation))
            else:
                self._host.spawn(self._load(activation))
        return activation

    def watch(self, actor_type: ActorType, key: str, watcher: Watcher, *, on: bool) -> None:
        """Tell `watcher` of every commit of this actor, however often it sleeps; or stop."""
        place = (actor_type, key)
        watchers = self._watchers.get(place)
        if on:
            if watchers is None:
                watchers = self._watchers[place] = _Watchers()
            watchers.append(watcher)
        elif watchers is not None and watcher in watchers:
            watchers.remove(watcher)
            if not watchers:
                del self._watchers[place]
                watchers = None
        activation = self._awake.get(actor_type, {}).get(key)
        if activation is not None:
            activation.watcher = watchers

    def within(self, shards: Iterable[int]) -> list[Activation]:
        """The awake actors of these shards."""
        by_shard = self._by_shard
        return [one for shard in sorted(shards) if shard in by_shard for one in by_shard[shard]]

    def throw_away(self, activations: Iterable[Activation], error: Exception) -> None:
        """Let go of these actors as they are; whoever waits for them is told why."""
        for activation in activations:
            if activation.dead is None:
                activation.kill(error)
            self._remove(activation)

    async def _load(self, activation: Activation) -> None:
        self._loads += 1
        try:
            stored = await self._store.load(activation.actor_type.name, activation.key)
            activation.wake(stored)
        except PerdureError as error:
            self._bury(activation, error)
        except Exception as error:
            self._bury(activation, StoreError(f"{activation} could not be loaded: {error}"))
            raise

    def _bury(self, activation: Activation, error: PerdureError) -> None:
        self._loads_failed += 1
        activation.kill(error)
        self._remove(activation)

    def _remove(self, activation: Activation) -> None:
        awake = self._awake[activation.actor_type]
        if awake.get(activation.key) is activation:
            del awake[activation.key]
            neighbours = self._by_shard[activation.shard]
            del neighbours[activation]
            if not neighbours:
                del self._by_shard[activation.shard]

    def put_idle_to_sleep(self) -> int:
        """Let go of actors that nobody called since the last time; returns how many."""
        asleep = 0
        for activation in list(self):
            if activation.touched:
                activation.touched = False
            elif activation.is_idle or activation.dead is not None:
                self._remove(activation)
                asleep += 1
        return asleep

    def shrink_to(self, count: int) -> None:
        """Put idle actors to sleep until at most `count` are awake: first those not called since
        the last sweep, then, in the order in which they woke, any."""
        excess = len(self) - count
        idle = [activation for activation in self if activation.is_idle]
        idle.sort(key=lambda activation: activation.touched)
        for activation in idle[: max(excess, 0)]:
            self._remove(activation)


class _Watchers(list[Watcher]):
    """All who watch one actor, as one Watcher."""

    def changed(self) -> None:
        for watcher in self:
            watcher.changed()


def in_place(work: Coroutine[Any, Any, Result]) -> Result:
    """The result of a coroutine that never waits, without a task to run it."""
    try:
        work.send(None)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    work.close()
    raise RuntimeError("a store said that its reads never wait, but one did")
