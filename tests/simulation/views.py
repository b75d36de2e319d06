"""V: clients follow live views, and begin anew wherever they find a door when one closes."""

import asyncio
from contextlib import suppress

from tests.simulation.workload import ERRORS, Workload
from tests.simulation.world import Client, World


class Views(Workload):
    """Each watcher sees a number that only rises: never lower than what it saw, never higher than
    what is committed, and in the end the newest."""

    letter = "V"
    clients = 1
    keys = ("v0", "v1", "v2")
    watchers = 2  # of each key

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.seen: dict[str, int] = {}
        self.last: dict[str, int] = {}
        self.wrong: list[str] = []
        for key in self.keys:
            for number in range(self.watchers):
                world.clients.spawn(self._follow(key, f"{key} watcher {number}"))

    async def step(self, caller: Client) -> None:
        await caller.call("Ticker", self.random.choice(self.keys), "tick", keyed=True)

    async def _follow(self, key: str, watcher: str) -> None:
        def saw(value: int) -> None:
            self.world.trace.note(f"{watcher} sees {value}")
            if value < self.seen.get(watcher, 0):
                self.wrong.append(f"{watcher} saw {self.seen[watcher]}, and then {value}")
            if value > (committed := self.world.stored("ticker", key).get("value", 0)):
                self.wrong.append(f"{watcher} saw {value}, but {committed} is committed")
            self.seen[watcher] = value

        while True:
            doors = self.world.find_doors()
            door = doors[int(self.random.random() * len(doors))]
            with suppress(*ERRORS):
                await door.watch("Ticker", key, "view", saw)
            await asyncio.sleep(self.random.uniform(0.05, 0.3))

    async def read_all(self, reader: Client) -> None:
        for key in self.keys:
            self.last[key] = await reader.call("Ticker", key, "view")

    def check(self) -> list[str]:
        late = [
            f"{watcher} still sees {seen}, but {self.last[watcher.split()[0]]} is there"
            for watcher, seen in self.seen.items()
            if seen != self.last[watcher.split()[0]]
        ]
        return self.wrong + late
