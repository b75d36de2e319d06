"""Scenario `cluster`: three nodes that own actors, two gateways, one database, and all that can go
wrong between them.

Every fault lasts for a while and is undone; many overlap. Then a core is healed, one gateway and at
least one node, and the rest stays broken for ever: dead, without power, frozen, or cut off from all
others. The core has to answer. At the end everything is healed.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from tests.simulation.actors import classes_of
from tests.simulation.islands import island
from tests.simulation.world import Door, World

from perdure.actor.methods import actor_type_of
from perdure.base.limits import Limits
from perdure.runtime.cluster_node import ClusterNode
from perdure.runtime.gateway import Gateway
from perdure.runtime.place import Place
from perdure.testing.simulation.database import SimulatedStore, Weather
from perdure.testing.simulation.process import SimulatedClock, SimulatedProcess

KEY = b"a key that all processes of the simulation share"
NODES = ("n1", "n2", "n3")
GATEWAYS = ("g1", "g2")


class Machine:
    """One host and what runs on it: a supervisor that starts the next life when one has ended."""

    def __init__(self, cluster: "Cluster", host: str) -> None:
        self.host = host
        self.is_node = host in NODES
        self.is_wanted = True  # a process shall run here
        self.process: SimulatedProcess | None = None
        self.store: SimulatedStore | None = None
        self.app: Any = None
        self.door: Door | None = None
        self._cluster = cluster
        self._life = 0
        self._due = asyncio.Event()  # the next life is, if one is wanted
        self._due.set()

    async def supervise(self) -> None:
        """Keep a process running."""
        while True:
            await self._due.wait()
            self._due.clear()
            if self.is_wanted and (self.process is None or not self.process.is_alive):
                await self._start()
            await asyncio.sleep(0.05)  # who does not start is not started all the time

    def want(self, is_wanted: bool) -> None:
        """Have a process run here, or none once this one has ended."""
        self.is_wanted = is_wanted
        self._due.set()

    async def _start(self) -> None:
        cluster, world = self._cluster, self._cluster.world
        self._life += 1
        draw = world.random
        process = self.process = SimulatedProcess(
            world.loop,
            f"{self.host}.{self._life}",
            rate=draw.uniform(*cluster.rates),
        )
        world.set_clock(process, int(draw.uniform(-500, 500)))
        process.at_death(self._due.set)
        classes = classes_of(self.host)
        clock = SimulatedClock(process)
        classes.tell_time(clock.wall_ms)
        types = [actor_type_of(one) for one in classes.all]
        for one in types:
            one.bind(None)  # the life before was killed and could not do it
        store = self.store = SimulatedStore(world.database, process, is_shared=True)
        network = world.network.of(process)
        if self.is_node:
            place = Place("state", process.name, KEY, listen=f"tcp:{self.host}:1")
            self.app = ClusterNode(
                types,
                store,
                place,
                limits=cluster.limits,
                clock=clock,
                network=network,  # type: ignore[arg-type]
                on_broken=lambda error: world.clients.call_soon(self._broken, process, error),
            )
        else:
            place = Place("web", process.name, KEY)
            self.app = Gateway(
                types,
                [store.registry],
                place,
                limits=cluster.limits,
                clock=clock,
                network=network,  # type: ignore[arg-type]
            )
        self.door = Door(world, process, classes)
        world.trace.note(f"{process} starts")
        starting = process.spawn(self.app.start())
        while process.is_alive and not starting.done():
            await asyncio.sleep(0.01)
        failed = starting.done() and starting.exception() is not None
        if process.is_alive and failed:
            world.trace.note(f"{process} does not start: {starting.exception()!r}")
            process.kill()
        elif process.is_alive:
            world.trace.note(f"{process} is up")

    def _broken(self, process: SimulatedProcess, error: Exception) -> None:
        self._cluster.world.trace.note(f"{process} gives up: {error}")
        process.kill()

    def kill(self) -> None:
        """End the process at once."""
        if self.process is not None:
            self.process.kill()

    async def stop(self) -> None:
        """Let it drain and leave, as a deploy does."""
        process, app = self.process, self.app
        if process is None or not process.is_alive or not app.is_running:
            return
        process.spawn(_stop(app, process))
        for _ in range(600):
            if not process.is_alive:
                return
            await asyncio.sleep(0.01)
        process.kill()


async def _stop(app: Any, process: SimulatedProcess) -> None:
    try:
        await app.stop(drain_s=3.0)
    finally:
        process.loop.call_soon(process.kill)


Fault = Callable[["Cluster"], Coroutine[Any, Any, None]]


class Cluster:
    """The machines, and what is done to them."""

    name = "cluster"
    faults: dict[str, Fault]

    def __init__(self, world: World) -> None:
        self.world = world
        self.random = world.random
        self.ttl_s = self.random.choice((1.0, 1.0, 2.0))
        self.rates = self.random.choice(((0.96, 1.04), (0.905, 0.97)))  # to the database's clock
        self.settle_s = 2 * self.ttl_s + 4.0
        self.limits = Limits(
            call_timeout_s=6.0,
            delivery_backoff_s=0.05,
            delivery_backoff_max_s=1.0,
            delivery_attempts_max=1_000_000,
            idle_sleep_s=3.0,
            lease_ttl_s=self.ttl_s,
        )
        self.machines = {host: Machine(self, host) for host in (*NODES, *GATEWAYS)}
        self.nodes = [self.machines[host] for host in NODES]
        self.gateways = [self.machines[host] for host in GATEWAYS]
        self._healing = asyncio.Event()
        self._faults: list[asyncio.Task[None]] = []
        kinds = list(FAULTS)
        self._kinds = [kind for kind in kinds if self.random.random() < 0.4] or kinds

    async def start(self) -> None:
        """Start all machines, and wait until calls are answered."""
        for machine in self.machines.values():
            self.world.clients.spawn(machine.supervise())
        await asyncio.sleep(0.5 if self.random.random() < 0.3 else 3.0)
        self.world.find_doors = self._doors

    def _doors(self) -> list[Door]:
        doors = [one.door for one in self.gateways if one.door and one.process.is_alive]  # type: ignore[union-attr]
        return doors or [one.door for one in self.gateways if one.door]

    async def harm(self) -> None:
        """Begin one fault; it may last while others come."""
        kind = self.random.choice(self._kinds)
        self._faults.append(self.world.clients.spawn(self.faults[kind](self)))

    async def pause(self, seconds: float) -> None:
        """Wait that long, or until everything is to be healed."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._healing.wait(), seconds)

    # -- faults ----------------------------------------------------------------------------------

    def node(self) -> Machine:
        return self.random.choice(self.nodes)

    def short_or_long_s(self) -> float:
        """Around the length of a lease, shorter or longer."""
        return (
            self.ttl_s
            * self.random.choice((0.2, 0.6, 1.0, 1.5, 3.0))
            * self.random.uniform(0.8, 1.2)
        )

    async def kill_node(self) -> None:
        machine = self.node()
        self.world.trace.fault("kill", machine.host)
        machine.want(self.random.random() < 0.7)
        machine.kill()
        await self.pause(self.short_or_long_s())
        machine.want(True)

    async def power_off(self) -> None:
        machine = self.node()
        self.world.trace.fault("power off", machine.host)
        self.world.network.take_down(machine.host)
        self.world.database.cut(machine.host)
        machine.want(False)
        machine.kill()
        await self.pause(self.short_or_long_s())
        self.world.network.put_up(machine.host)
        self.world.database.mend(machine.host)
        machine.want(True)

    async def freeze(self) -> None:
        machine = self.random.choice(list(self.machines.values()))
        process = machine.process
        if process is None or not process.is_alive or process.is_frozen:
            return
        self.world.trace.fault("freeze", machine.host)
        process.freeze()
        await self.pause(self.short_or_long_s())
        self.world.trace.note(f"{process} thaws")
        process.thaw()

    async def deploy(self) -> None:
        for machine in self.random.sample(self.nodes, 2):
            if self._healing.is_set():
                return
            self.world.trace.fault("graceful restart", machine.host)
            await machine.stop()
            await self.pause(0.5)

    async def kill_gateway(self) -> None:
        machine = self.random.choice(self.gateways)
        self.world.trace.fault("kill gateway", machine.host)
        machine.kill()

    async def cut_from_database(self) -> None:
        machine = self.node()
        self.world.trace.fault("cut from the database", machine.host)
        self.world.database.cut(machine.host)
        await self.pause(self.short_or_long_s())
        self.world.database.mend(machine.host)

    async def partition(self) -> None:
        network, hosts = self.world.network, list(self.machines)
        self.random.shuffle(hosts)
        kind = self.random.choice(("one way", "single", "halves", "bridge", "ring", "chaos"))
        self.world.trace.fault(f"partition: {kind}", " ".join(hosts))
        cut: list[tuple[str, str]] = []
        if kind == "one way":
            cut = [(hosts[0], hosts[1])]
        elif kind == "single":
            cut = [(hosts[0], one) for one in hosts[1:]] + [(one, hosts[0]) for one in hosts[1:]]
        elif kind in ("halves", "bridge"):
            left, right = hosts[:2], hosts[2:] if kind == "halves" else hosts[3:]
            cut = [pair for one in left for two in right for pair in ((one, two), (two, one))]
        elif kind == "ring":  # each sees its neighbours only
            count = len(hosts)
            cut = [
                (hosts[a], hosts[b])
                for a in range(count)
                for b in range(count)
                if (a - b) % count not in (0, 1, count - 1)
            ]
        else:
            cut = [(a, b) for a in hosts for b in hosts if a != b and self.random.random() < 0.3]
        for pair in cut:
            network.cut(*pair)
        await self.pause(self.short_or_long_s())
        for pair in cut:
            network.mend(*pair)

    async def slow_network(self) -> None:
        network = self.world.network
        self.world.trace.fault("slow network")
        network.delay_s = 0.0002 * 10 ** (self.random.random() * 2.5)
        await self.pause(self.short_or_long_s())
        network.delay_s = 0.0002

    async def mangle(self) -> None:
        self.world.network.mangled = self.random.choice((0.01, 0.05))
        self.world.trace.fault("frames mangled")
        await self.pause(self.short_or_long_s())
        self.world.network.mangled = 0.0

    async def storm(self) -> None:
        database, draw = self.world.database, self.random.random
        self.world.trace.fault("bad network to the database")
        database.weather = Weather(
            delay_s=0.0005 * 10 ** (draw() * 2),
            lost_requests=draw() * 0.2 if draw() < 0.5 else 0.0,
            lost_replies=draw() * 0.3 if draw() < 0.5 else 0.0,
            failed_commits=draw() * 0.3 if draw() < 0.5 else 0.0,
        )
        await self.pause(self.short_or_long_s())
        database.weather = Weather()

    async def outage(self) -> None:
        self.world.trace.fault("database down")
        self.world.database.weather.is_down = True
        await self.pause(self.short_or_long_s())
        self.world.database.weather.is_down = False

    async def stall(self) -> None:
        database = self.world.database
        self.world.trace.fault("database stalls")
        database.stall()
        await self.pause(self.short_or_long_s())
        database.go_on()

    async def jump(self) -> None:
        machine = self.node()
        if machine.process is not None:
            by_ms = int(self.random.uniform(-3_000, 3_000))
            self.world.trace.fault("clock jump", f"of {machine.host} by {by_ms} ms")
            self.world.set_clock(machine.process, machine.process.wall_offset_ms + by_ms)

    # -- healing ---------------------------------------------------------------------------------

    async def heal(self) -> None:
        """Heal a core, and break what is not in it for ever."""
        await self._undo()
        nodes, gateways = list(self.nodes), list(self.gateways)
        self.random.shuffle(nodes)
        self.random.shuffle(gateways)
        core = nodes[: self.random.choice((1, 2, 2, 3))] + gateways[: self.random.choice((1, 2))]
        rest = [one for one in self.machines.values() if one not in core]
        self.world.trace.note(f"--- healed: {' '.join(one.host for one in core)}")
        for machine in rest:
            self._break(machine)
        self._core = core
        self.world.find_doors = lambda: [
            one.door for one in core if one.door is not None and not one.is_node
        ]

    async def _undo(self) -> None:
        self._healing.set()
        await asyncio.gather(*self._faults)
        self._faults.clear()
        world = self.world
        world.network.mend_all()
        world.database.weather = Weather()
        world.database.go_on()
        world.database.late_s.clear()
        for machine in self.machines.values():
            machine.want(True)
            world.network.put_up(machine.host)
            world.database.mend(machine.host)
            if machine.process is not None:
                machine.process.thaw()

    def _break(self, machine: Machine) -> None:
        world, host = self.world, machine.host
        kind = self.random.choice(("dead", "without power", "frozen", "alone"))
        world.trace.fault(f"for ever {kind}", host)
        if kind == "frozen":
            if machine.process is not None:
                machine.process.freeze()
            return
        if kind in ("without power", "alone"):
            world.database.cut(host)
        if kind == "alone":
            world.network.part([host], [one for one in self.machines if one != host])
            return
        if kind == "without power":
            world.network.take_down(host)
        machine.want(False)
        machine.kill()

    async def heal_all(self) -> None:
        """Make everything whole, for the last look."""
        self.world.trace.note("--- all healed")
        await self._undo()
        self.world.find_doors = self._doors

    def check(self) -> list[str]:
        """What is wrong in what the database has seen."""
        return self.world.database.log.wrong


FAULTS: dict[str, Fault] = {
    "kill": Cluster.kill_node,
    "power": Cluster.power_off,
    "freeze": Cluster.freeze,
    "deploy": Cluster.deploy,
    "gateway": Cluster.kill_gateway,
    "cut": Cluster.cut_from_database,
    "partition": Cluster.partition,
    "island": island,
    "slow": Cluster.slow_network,
    "mangle": Cluster.mangle,
    "storm": Cluster.storm,
    "outage": Cluster.outage,
    "stall": Cluster.stall,
    "jump": Cluster.jump,
}

Cluster.faults = FAULTS
