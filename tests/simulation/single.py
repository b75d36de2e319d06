"""Scenario `single`: one node, killed and frozen, on a database that fails in every way.

What it exercises: turns, output gate, group commit, idempotency, messages and timers, through
crashes at any moment.
"""

import asyncio

from tests.simulation.actors import classes_of
from tests.simulation.world import Door, World

from perdure import Limits
from perdure.actor.methods import actor_type_of
from perdure.runtime.node import Node
from perdure.testing.simulation.database import SimulatedStore, Weather
from perdure.testing.simulation.process import SimulatedClock, SimulatedProcess

LIMITS = Limits(
    call_timeout_s=5.0,
    delivery_backoff_s=0.05,
    delivery_backoff_max_s=1.0,
    delivery_attempts_max=1_000_000,
    idle_sleep_s=2.0,
    awake_max=12,
)


class Single:
    """Keeps one node running, and breaks things around it."""

    name = "single"
    settle_s = 3.0  # after healing all calls are answered again, within that time

    def __init__(self, world: World) -> None:
        self.world = world
        self.random = world.random
        self._life = 0
        self._embedded = self.random.random() < 0.3  # reads that never wait
        self._process: SimulatedProcess | None = None
        self._store: SimulatedStore | None = None

    async def start(self) -> None:
        """Bring the node up."""
        world = self.world
        self._life += 1
        process = SimulatedProcess(
            world.loop,
            f"node.{self._life}",
            rate=self.random.uniform(0.9, 1.1),
        )
        world.set_clock(process, int(self.random.uniform(-2_000, 2_000)))
        classes = classes_of("node")
        clock = SimulatedClock(process)
        classes.tell_time(clock.wall_ms)
        types = [actor_type_of(one) for one in classes.all]
        for one in types:
            one.bind(None)  # the life before was killed and could not do it
        store = SimulatedStore(world.database, process, reads_never_wait=self._embedded)
        self._process, self._store = process, store
        broken: list[Exception] = []
        node = Node(types, store, limits=LIMITS, clock=clock, on_broken=broken.append)  # type: ignore[arg-type]
        while process.is_alive:
            try:
                await asyncio.wait_for(process.spawn(node.start()), 10)
                break
            except Exception as error:
                world.trace.note(f"{process} does not start: {error}")
                await asyncio.sleep(0.1)
        world.trace.note(f"{process} is up")
        door = Door(world, process, classes)
        world.find_doors = lambda: [door]

    async def restart(self) -> None:
        """Kill the node and start the next life."""
        assert self._process is not None
        assert self._store is not None
        self.world.trace.fault("kill", self._process.name)
        self._process.kill()
        while self._store.is_connected:
            await asyncio.sleep(0.01)
        await asyncio.sleep(self.random.uniform(0, 0.3))
        await self.start()

    async def harm(self) -> None:
        """Inject one fault, for a while."""
        fault = self.random.choice(self.faults)
        await fault(self)

    async def freeze(self) -> None:
        process = self._process
        assert process is not None
        self.world.trace.fault("freeze", process.name)
        process.freeze()
        await asyncio.sleep(self.random.expovariate(2.0))
        process.thaw()

    async def jump(self) -> None:
        assert self._process is not None
        by_ms = int(self.random.uniform(-3_000, 3_000))
        self.world.trace.fault("clock jump", f"of {self._process} by {by_ms} ms")
        self.world.set_clock(self._process, self._process.wall_offset_ms + by_ms)

    async def outage(self) -> None:
        weather = self.world.database.weather
        self.world.trace.fault("database down")
        weather.is_down = True
        await asyncio.sleep(self.random.uniform(0.05, 2.5))
        weather.is_down = False

    async def storm(self) -> None:
        database, draw = self.world.database, self.random.random
        self.world.trace.fault("bad network to the database")
        database.weather = Weather(
            delay_s=0.0005 * 10 ** (draw() * 2),
            lost_requests=draw() * 0.2 if draw() < 0.5 else 0.0,
            lost_replies=draw() * 0.3 if draw() < 0.5 else 0.0,
            failed_commits=draw() * 0.3 if draw() < 0.5 else 0.0,
        )
        await asyncio.sleep(self.random.uniform(0.2, 2.0))
        database.weather = Weather()

    async def stall(self) -> None:
        database = self.world.database
        self.world.trace.fault("database stalls")
        database.stall()
        await asyncio.sleep(self.random.expovariate(2.0))
        database.go_on()

    faults = (restart, restart, freeze, jump, outage, storm, stall)

    async def heal(self) -> None:
        """Make everything whole."""
        self.world.trace.note("--- healed")
        self.world.database.weather = Weather()
        self.world.database.go_on()
        assert self._process is not None
        self._process.thaw()

    async def heal_all(self) -> None:
        """Nothing is left to heal."""

    def check(self) -> list[str]:
        """What is wrong in what the database has seen."""
        return self.world.database.log.wrong
