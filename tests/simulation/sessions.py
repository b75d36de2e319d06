"""E: sessions that expire when nobody writes them for a while."""

from typing import Any

import msgspec
from tests.simulation.workload import Workload
from tests.simulation.world import Client, World

TTL_S = 3.0


class _Known(msgspec.Struct):
    """What the one who uses a session has heard of it."""

    lives: list[str] = msgspec.field(default_factory=lambda: [""])  # newest last
    count: int = 0
    maybe: int = 0  # touches that nobody knows of: they may come about at any time, or never
    used_s: float = -TTL_S


class Sessions(Workload):
    """Each has one client, who uses one for a while, and then another. A session that is used
    stays; one that has expired begins anew, and its old life never comes back."""

    letter = "E"
    clients = 2
    sessions = 8  # of each client
    leaves = 0.3  # after a use: often a session is used again just when it is about to expire

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.known: dict[str, _Known] = {}
        self.using: dict[str, str] = {}  # by client
        self.left: list[str] = []
        self.wrong: list[str] = []

    async def step(self, caller: Client) -> None:
        if caller.name not in self.using or self.random.random() < self.leaves:
            number = int(self.random.random() * self.sessions)
            self.using[caller.name] = f"e-{caller.name}-{number}"
        key, loop = self.using[caller.name], self.world.loop
        known = self.known.setdefault(key, _Known())
        begun_s, life = loop.time(), caller.next_id()
        try:
            answer = await caller.call("Session", key, "touch", life, keyed=True)
        except BaseException:
            known.maybe += 1
            raise
        self._heard(key, answer, life, since_s=loop.time() - known.used_s)
        known.used_s = begun_s

    def _heard(self, key: str, answer: Any, asked: str, *, since_s: float) -> None:
        life, count = answer
        known = self.known[key]
        others = count - 1  # that were counted meanwhile
        if life == known.lives[-1]:
            others = count - known.count - 1
        elif life in known.lives:
            self.wrong.append(f"session {key} has come back in its life {life}")
        else:
            if since_s < TTL_S - self.world.clocks_differ_s:
                self.wrong.append(f"session {key} expired {since_s:.3f} s after its use")
            if life != asked and not known.maybe:
                self.wrong.append(f"session {key} began anew with {answer}")
            known.lives.append(life)
        if not 0 <= others <= known.maybe:
            self.wrong.append(f"session {key} counts {count} after {known}")
        known.count, known.maybe = count, known.maybe - others

    async def read_all(self, _reader: Client) -> None:
        self.left = sorted(self.world.database.store._table("session"))

    def check(self) -> list[str]:
        return self.wrong + [f"session {key} has not expired" for key in self.left]
