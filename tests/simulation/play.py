"""One run: faults, then healing, then the last calls must succeed and all must be as it was told.

First everything may break (safety). Then what the scenario calls its core is healed, the rest stays
broken, and the clients of the core must be answered again (liveness). At the end all is healed and
looked at.
"""

import asyncio
import gc
import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
from tests.simulation.cluster import Cluster
from tests.simulation.failover import Failover
from tests.simulation.single import Single
from tests.simulation.workloads import BY_DEFAULT, WORKLOADS, Workload
from tests.simulation.world import Client, World

from perdure.base import ids
from perdure.testing.simulation.loop import SimulationError

SCENARIOS: dict[str, Callable[[World], Any]] = {
    "single": Single,
    "cluster": Cluster,
    "failover": Failover,
}

SAFETY_S = 12.0
LIVENESS_S = 3.0
DRAIN_S = 12.0  # for messages and timers that are still on their way
_WORKLOADS_MAX = 3  # in one run: more seeds show more than more clients do
OPERATIONS_MIN = 100  # or the run has shown nothing


class Outcome(msgspec.Struct):
    """What came of one run."""

    seed: int
    scenario: str
    wrong: list[str]
    checksum: str
    history: str  # the last events
    virtual_s: float
    cpu_s: float
    operations: int
    steps: int
    faults: Counter[str]


def play(seed: int, scenario: str = "single", letters: str = BY_DEFAULT) -> Outcome:
    """Run one seed; never raises for what the code under test did.

    Args:
        letters: of the workloads to choose from; the choice depends on the seed.
    """
    logging.disable(logging.CRITICAL)
    gc.disable()  # what it would finalize, and when, must not depend on what ran before
    begun_s = time.process_time()
    world = World(seed)
    wrong: list[str] = []
    try:
        wrong += world.loop.run(_main(world, SCENARIOS[scenario](world), letters))
    except SimulationError as error:
        wrong.append(f"{error}")
    finally:
        ids.draw_from(None)
        logging.disable(logging.NOTSET)
        gc.enable()
        gc.collect()
    wrong += world.loop.failures
    return Outcome(
        seed,
        scenario,
        wrong,
        world.trace.checksum(),
        world.trace.tail(),
        world.loop.now_s,
        time.process_time() - begun_s,
        world.operations,
        world.loop.steps,
        world.trace.faults,
    )


async def _main(world: World, scenario: Any, letters: str) -> list[str]:
    await scenario.start()
    kinds = [kind for kind in WORKLOADS if kind.letter in getattr(scenario, "letters", letters)]
    chosen = [kind for kind in kinds if world.random.random() < kind.share] or kinds
    if len(chosen) > _WORKLOADS_MAX:
        chosen = world.random.sample(chosen, _WORKLOADS_MAX)
    workloads = [kind(world) for kind in chosen]
    tasks = [
        world.clients.spawn(workload.run(caller))
        for workload in workloads
        for caller in workload.callers
    ]
    end_s = world.loop.now_s + SAFETY_S
    while world.loop.now_s < end_s:
        await asyncio.sleep(world.random.expovariate(1.0) * 0.7)
        await scenario.harm()
    await scenario.heal()
    await asyncio.sleep(scenario.settle_s)
    wrong = await _tail(world, workloads)
    world.is_ending = True
    await asyncio.gather(*tasks)
    await scenario.heal_all()
    wrong += await _final(world, workloads)
    if world.operations < OPERATIONS_MIN:
        wrong.append(f"only {world.operations} operations were answered")
    return wrong + scenario.check()


async def _tail(world: World, workloads: list[Workload]) -> list[str]:
    """What clients ask for from now on must be answered."""
    callers = [caller for workload in workloads for caller in workload.callers]
    begun = {caller.name: len(caller.last) for caller in callers}
    await asyncio.sleep(LIVENESS_S)
    wrong = []
    for caller in callers:
        tail = caller.last[begun[caller.name] + 1 :]  # the first had begun before
        if not tail or not all(tail):
            wrong.append(f"{caller.name} is not answered after healing: {tail}")
    return wrong


async def _final(world: World, workloads: list[Workload]) -> list[str]:
    await asyncio.sleep(DRAIN_S)
    reader = Client(world, "reader")
    wrong = []
    for workload in workloads:
        reading = world.clients.spawn(workload.read_all(reader))
        try:
            await reading
        except Exception as error:
            wrong.append(f"{workload.letter}: cannot be read at the end: {error!r}")
        else:
            wrong += workload.check()
    return wrong
