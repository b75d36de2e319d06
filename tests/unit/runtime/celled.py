"""Several cells, each with nodes on a memory store of its own, and a web process before them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Annotated

from tests.unit.runtime.several import KEY, LIMITS, Handle, until

from perdure import Actor, DomainError, indexed, read, transaction
from perdure.actor.methods import actor_type_of
from perdure.base.clock import SystemClock
from perdure.base.shards import cell_of
from perdure.runtime.cluster_node import ClusterNode
from perdure.runtime.gateway import Gateway
from perdure.runtime.place import Place
from perdure.store.memory import MemoryStore
from perdure.store.memory_registry import MemoryRegistry


def classes() -> SimpleNamespace:
    """Classes for one process."""

    class Account(Actor):
        money: Annotated[int, indexed] = 0
        seen: list[int] = []

        async def put(self, amount: int) -> int:
            self.money += amount
            return self.money

        async def put_to(self, key: str, amount: int) -> int:
            self.money -= amount
            return await Account.at(key).put(amount)

        async def send_to(self, key: str, numbers: list[int]) -> None:
            for number in numbers:
                Account.at(key).tell.see(number)

        async def see(self, number: int) -> None:
            if number < 0:
                raise DomainError("not a number")
            self.seen.append(number)

        @transaction
        async def pay(self, key: str, amount: int) -> None:
            self.money -= amount
            await Account.at(key).put(amount)

        async def richest(self) -> list[str]:
            found = await Account.where(money__gt=0).order_by("money").limit(10)
            return [one.key for one in found]

        @read
        async def view(self) -> tuple[int, list[int]]:
            return self.money, self.seen

    return SimpleNamespace(Account=Account)


class Celled:
    """The cells."""

    def __init__(self, count: int) -> None:
        self.clock = SystemClock()
        self.registries = [MemoryRegistry(self.clock) for _ in range(count)]
        self.stores = [
            MemoryStore(lambda one, registry=registry: not registry.is_fenced(one))
            for registry in self.registries
        ]
        self.nodes: list[ClusterNode] = []
        self.handles: list[Handle] = []
        self.classes: list[SimpleNamespace] = []
        self.gateways: list[Gateway] = []

    async def start_node(self, cell: int) -> SimpleNamespace:
        made, handle = classes(), Handle(self.stores[cell], self.registries[cell])
        others = {n: one for n, one in enumerate(self.registries) if n != cell}
        node = ClusterNode(
            [actor_type_of(made.Account)],
            handle,  # type: ignore[arg-type]
            Place("state", name=f"c{cell}", key=KEY, listen="tcp:127.0.0.1:0", cell=cell),
            limits=LIMITS,
            clock=self.clock,
            abroad=others,
        )
        await node.start()
        self.nodes.append(node)
        self.handles.append(handle)
        self.classes.append(made)
        return made

    async def open_gateway(self) -> SimpleNamespace:
        made = classes()
        gateway = Gateway(
            [actor_type_of(made.Account)],
            self.registries,
            Place("web", name="web", key=KEY),
            limits=LIMITS,
            clock=self.clock,
        )
        await gateway.start()
        self.gateways.append(gateway)
        return made

    def key(self, cell: int, number: int = 0) -> str:
        """The key of an account in this cell."""
        count = len(self.registries)
        found = (f"k{n}" for n in range(1_000) if cell_of(f"k{n}", count) == cell)
        return [next(found) for _ in range(number + 1)][-1]

    async def stop(self) -> None:
        for gateway in self.gateways:
            await gateway.stop(0.5)
        await asyncio.gather(*(node.stop(0.5) for node in self.nodes))


@asynccontextmanager
async def celled(count: int = 2) -> AsyncIterator[Celled]:
    """One node for each cell."""
    cells = Celled(count)
    try:
        await asyncio.gather(*(cells.start_node(cell) for cell in range(count)))
        cells.nodes.sort(key=lambda one: one._cell.number)
        cells.handles.sort(key=lambda one: cells.registries.index(one.registry))
        await until(lambda: all(one.owned for one in cells.nodes))
        yield cells
    finally:
        await cells.stop()
