"""X: money moves between purses in transactions, whoever owns them; all of it or nothing."""

from collections import Counter
from typing import Any

from tests.simulation.workload import Workload
from tests.simulation.world import UNKNOWN, Client, World

from perdure import PerdureError

_CENTS = 100  # in each purse at first


class Transfers(Workload):
    """Each move leaves its name in both purses, and whoever counts all in one transaction finds
    what was there at first."""

    letter = "X"
    clients = 2
    keys = ("q0", "q1", "q2", "q3")
    tellers = ("k0", "k1", "k2")

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.done_s: dict[str, float] = {}  # by name of the move: when that was heard
        self.maybe: set[str] = set()
        self.moves: dict[str, Counter[str]] = {}  # by purse, and how often each is there
        self.wrong: list[str] = []

    async def step(self, caller: Client) -> None:
        draw, teller = self.random.random(), self.random.choice(self.tellers)
        if draw < 0.25:
            cents = await caller.call("Teller", teller, "audit", list(self.keys))
            if not self.world.is_unsure:
                self._count(cents, "an audit")
            return
        payer, payee = self.random.sample(self.keys, 2)
        name, cents = caller.next_id(), 1 + int(self.random.random() * 40)
        keyed = self.random.random() < 0.5
        try:
            if draw < 0.6:
                await caller.call("Teller", teller, "move", payer, payee, name, cents, keyed=keyed)
            else:
                await caller.call("Purse", payer, "give", payee, name, cents, keyed=keyed)
        except UNKNOWN:
            self.maybe.add(name)
            raise
        except PerdureError as error:
            if error.status >= 500 and keyed:
                self.maybe.add(
                    name
                )  # the last of several attempts says so; of the others it cannot
            raise
        self.done_s[name] = self.world.loop.now_s

    def _count(self, cents: list[int], who: str) -> None:
        if sum(cents) != _CENTS * len(self.keys) or min(cents) < 0:
            self.wrong.append(f"{who} finds {cents}")

    async def read_all(self, reader: Client) -> None:
        purses: list[Any] = [await reader.call("Purse", key, "view") for key in self.keys]
        self._count([cents for cents, _ in purses], "the last look")
        for key, (_, moves) in zip(self.keys, purses, strict=True):
            self.moves[key] = Counter(moves)
            if moves != (stored := self.world.stored("purse", key).get("moves", [])):
                self.wrong.append(f"purse {key} shows {moves[-3:]}, and {stored[-3:]} is stored")

    def check(self) -> list[str]:
        total: Counter[str] = sum(self.moves.values(), Counter())
        for name, count in total.items():
            purses = [key for key, moves in self.moves.items() if moves[name]]
            if count != 2 or len(purses) != 2:
                self.wrong.append(f"move {name} is {count} times in {purses}")
        sure_s = self.world.set_back_s + self.world.unsure_s
        done = {name for name, at_s in self.done_s.items() if at_s > sure_s}
        lost = sorted(done - total.keys())
        ghosts = sorted(total.keys() - self.done_s.keys() - self.maybe)
        self.wrong += [f"move {name} is lost" for name in lost]
        return self.wrong + [f"move {name} was refused and is there" for name in ghosts]
