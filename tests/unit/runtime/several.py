"""Several nodes, as processes of one cluster, in one test process: on one memory store, with real
links. A class is bound to one node of a process, so each node has classes of its own."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import timedelta
from types import SimpleNamespace
from typing import Annotated, Any

from perdure import Actor, DomainError, Map, read, request_id, transaction, unique
from perdure.actor.methods import actor_type_of
from perdure.base.clock import SystemClock
from perdure.base.errors import FencedError
from perdure.base.limits import Limits
from perdure.base.shards import shard_of
from perdure.cluster.link import Link
from perdure.cluster.network import Network, ProtocolFactory
from perdure.runtime.cluster_node import ClusterNode
from perdure.runtime.gateway import Gateway
from perdure.runtime.place import Place
from perdure.runtime.station import Station
from perdure.store.api import Batch, Committed
from perdure.store.memory import MemoryStore
from perdure.store.memory_registry import MemoryRegistry
from perdure.store.registry import fenced

LIMITS = Limits(lease_ttl_s=1.0, call_timeout_s=10.0, link_ping_s=0.3, link_silent_s=1.0)
KEY = b"a key for tests, 32 bytes long.."


class Short(DomainError):
    """Not enough money."""


def classes() -> SimpleNamespace:  # noqa: C901  # methods count as branches
    """Classes for one node."""

    class Ledger(Actor):
        lines: list[int] = []

        async def note(self, amount: int) -> None:
            self.lines.append(amount)

        @read
        async def all(self) -> list[int]:
            return self.lines

    class Account(Actor):
        money: int = 100
        name: Annotated[str | None, unique] = None
        notes: Map[str, int] = Map()

        async def put(self, amount: int) -> int:
            self.money += amount
            if self.money < 0:
                raise Short("not enough")
            return self.money

        async def note(self, name: str, amount: int) -> None:
            self.money += amount
            self.notes[name] = amount
            Ledger.at("all").tell.note(amount)
            self.timers.set("later", after=timedelta(seconds=0.05), call="put", amount=1000)

        async def receive(self, name: str) -> None:
            self.money += 1
            self.notes[name] = (await self.notes.get(name) or 0) + 1

        @transaction
        async def move(self, to: str, name: str) -> None:
            self.money -= 1
            await Account.at(to).receive(name)

        async def noted(self, name: str) -> int | None:
            return await self.notes.get(name)

        async def follow(self, keys: list[str]) -> list[str | None]:
            told = await Account.at(keys[0]).follow(keys[1:]) if keys else []
            return [request_id(), *told]

        async def call_me(self, name: str) -> None:
            self.name = name

        @transaction
        async def pay(self, to: str, amount: int) -> int:
            self.money -= amount
            await Account.at(to).put(amount)
            if self.money < 0:
                raise Short("not enough")
            return self.money

        @read
        async def view(self) -> int:
            return self.money

    return SimpleNamespace(Ledger=Ledger, Account=Account, all=[Ledger, Account])


class Handle:
    """The memory store as one process has it: only who is a member commits."""

    def __init__(self, store: MemoryStore, registry: MemoryRegistry) -> None:
        self.registry = registry
        self.reads_never_wait = False
        self.incarnation = 0
        self.is_dead = False
        self.before_commit: Callable[[Batch], Coroutine[Any, Any, None]] | None = None
        self.after_commit: Callable[[Batch], Coroutine[Any, Any, None]] | None = None
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def stand_on(self, incarnation: int) -> None:
        self.incarnation = incarnation

    async def close(self) -> None:
        """The others go on with it."""

    async def commit(self, batch: Batch) -> Committed:
        await asyncio.sleep(0.001)
        if self.before_commit is not None:
            await self.before_commit(batch)
        if self.is_dead:
            await asyncio.get_running_loop().create_future()
        if self.registry.is_fenced(self.incarnation):
            raise fenced(self.incarnation)
        committed = await self._store.commit(batch)
        if self.after_commit is not None:
            await self.after_commit(batch)
        if self.is_dead:
            await asyncio.get_running_loop().create_future()
        return committed


class Several:
    """A cluster."""

    def __init__(self) -> None:
        self.clock = SystemClock()
        self.registry = MemoryRegistry(self.clock)
        self.store = MemoryStore(lambda one: not self.registry.is_fenced(one))
        self.nodes: list[ClusterNode] = []
        self.classes: list[SimpleNamespace] = []
        self.handles: list[Handle] = []
        self.dead: set[int] = set()
        self.gateways: list[Gateway] = []

    async def start(self, count: int) -> None:
        for number in range(count):
            made, handle = classes(), Handle(self.store, self.registry)
            node = ClusterNode(
                [actor_type_of(one) for one in made.all],
                handle,  # type: ignore[arg-type]
                Place("all", name=f"n{number}", key=KEY, listen="tcp:127.0.0.1:0"),
                limits=LIMITS,
                clock=self.clock,
            )
            await node.start()
            self.nodes.append(node)
            self.classes.append(made)
            self.handles.append(handle)
        await until(
            lambda: (
                all(len(one.owned) > 3600 // count for one in self.nodes)
                and len({one.map_version for one in self.nodes}) == 1
                and sum(len(one.owned) for one in self.nodes) == 4096
            )
        )

    async def open_gateway(self) -> SimpleNamespace:
        """Start a web process; returns its classes."""
        made = classes()
        gateway = Gateway(
            [actor_type_of(one) for one in made.all],
            [self.registry],
            Place("web", name="web", key=KEY),
            limits=LIMITS,
            clock=self.clock,
        )
        await gateway.start()
        self.gateways.append(gateway)
        return made

    def cut_gateway(self) -> None:
        """Break all links of the web process; they will be made again."""
        for link in list(self.gateways[0]._cells.forwarders[0]._links.open_links()):
            link._transport.abort()  # type: ignore[union-attr]

    def keys(self, number: int, count: int = 1, start: int = 0) -> list[str]:
        """Keys of accounts that this node owns."""
        found: list[str] = []
        at = start
        while len(found) < count:
            at += 1
            if shard_of(f"k{at}") in self.nodes[number].owned:
                found.append(f"k{at}")
        return found

    def cut(self, one: int, other: int) -> None:
        """Break the links between two nodes; they will connect again."""
        names = {f"n{one}", f"n{other}"}
        for number in (one, other):
            for link in self.links(number):
                if link.peer is not None and link.peer.name in names:
                    link._transport.abort()  # type: ignore[union-attr]

    def part(self, *who: ClusterNode | Gateway) -> None:
        """Cut these, or all nodes, from all others, until `heal`: nothing arrives any more."""
        for one in who or self.nodes:
            links = _station(one).links
            links._network = cut = _Cut(links._network)
            for dialled in links._dialled.values():
                dialled._network = cut
            for link in list(links.open_links()):
                link._transport.abort()  # type: ignore[union-attr]

    def heal(self, *who: ClusterNode | Gateway) -> None:
        """Let what these, or all nodes, try to connect to be there again."""
        for one in who or self.nodes:
            cut = _station(one).links._network
            assert isinstance(cut, _Cut)
            cut.is_healed.set()

    def links(self, number: int) -> list[Link]:
        return list(self.nodes[number]._station.links.open_links())

    def kill(self, number: int) -> None:
        """End it, as far as others see."""
        node = self.nodes[number]
        self.dead.add(number)
        self.handles[number].is_dead = True
        for listener in node._station.links._listeners:
            listener.close()
        node._station.links._is_closing = True
        node._station.links.want(())
        for task in [*node._background, *node._membership._tasks, node._station._sweeper]:  # type: ignore[union-attr]
            task.cancel()
        for link in self.links(number):
            link._transport.abort()  # type: ignore[union-attr]

    async def stop(self) -> None:
        for gateway in self.gateways:
            await gateway.stop(0.5)
        for number, node in enumerate(self.nodes):
            if number in self.dead:
                node._committer._task.cancel()
                for task in list(node._tasks):
                    task.cancel()
                for actor_type in node.actor_types:
                    actor_type.bind(None)
            else:
                await node.stop(0.5)


class _Cut:
    """A network that takes nobody anywhere for a while."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self.is_healed = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)

    async def connect(self, address: str, make: ProtocolFactory) -> None:
        await self.is_healed.wait()
        await self._network.connect(address, make)


def _station(one: ClusterNode | Gateway) -> Station:
    return one._station if isinstance(one, ClusterNode) else one._cells._lookouts[0].station


async def until(condition: Callable[[], bool], limit_s: float = 15.0) -> None:
    end_s = asyncio.get_running_loop().time() + limit_s
    while not condition():
        assert asyncio.get_running_loop().time() < end_s, "it did not come about in time"
        await asyncio.sleep(0.005)


@asynccontextmanager
async def several(count: int) -> AsyncIterator[Several]:
    cluster = Several()
    try:
        await cluster.start(count)
        yield cluster
    finally:
        await cluster.stop()


__all__ = ["FencedError", "Several", "Short", "several", "until"]
