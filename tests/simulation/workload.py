"""What a workload is: clients that make one call after another, and a check of what came of it."""

import asyncio
from contextlib import suppress

from tests.simulation.world import Client, World

from perdure import PerdureError

ERRORS = (PerdureError, OSError, TimeoutError)


class Workload:
    """One kind of clients. `letter` names it in `--workload`."""

    letter = ""
    clients = 2
    share = 0.3  # of the seeds that have it

    def __init__(self, world: World) -> None:
        self.world = world
        self.random = world.random
        self.callers = [Client(world, f"{self.letter}{n}") for n in range(self.clients)]

    async def run(self, caller: Client) -> None:
        """Make calls until the world is told to come to its end."""
        while not self.world.is_ending:
            with suppress(*ERRORS):  # the history knows of them
                await self.step(caller)
            await asyncio.sleep(self.random.expovariate(1.0) * 0.05)

    async def step(self, caller: Client) -> None:
        """Make one call."""
        raise NotImplementedError

    async def read_all(self, reader: Client) -> None:
        """Look at the end."""
        raise NotImplementedError

    def check(self) -> list[str]:
        """What is wrong."""
        raise NotImplementedError
