"""What clients do, and what must be true of it afterwards.

R register, C counter, N additions by way of another actor, L append list over messages, B bank over
messages, T timers, X transactions over several actors, V live views, E expiry. Each client of a
workload makes one call after another; `check` compares what they heard with what is there at the
end. Calls with an idempotency key are sent until they are answered; a call whose outcome nobody
knows has happened once, or not at all.
"""

import asyncio
from contextlib import suppress
from typing import Any

from tests.simulation.sessions import Sessions
from tests.simulation.transfers import Transfers
from tests.simulation.views import Views
from tests.simulation.workload import ERRORS, Workload
from tests.simulation.world import UNKNOWN, Client, Doors, World

from perdure.testing import delivery
from perdure.testing import linearizability as linear
from perdure.testing.linearizability import Operation


def _check_each(histories: dict[str, list[Operation]], model: linear.Model, what: str) -> list[str]:
    wrong = []
    for key, history in histories.items():
        if linear.check(history, model) == "violated":
            told = linear.explain(history, model).replace("\n", "\n    ")
            wrong.append(f"{what} {key} is not linearizable:\n    {told}")
    return wrong


class Registers(Workload):
    """R: read, write and compare-and-set, without idempotency keys.

    Some are mostly read: where a write waits for its commit, reads wait with it, and a stale read
    cannot come about.
    """

    letter = "R"
    clients = 4
    share = 0.6  # most of what can go wrong is seen here first
    often_written = ("r0", "r1")
    keys = (*often_written, "r2", "r3", "r4", "r5", "r6")

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.histories: dict[str, list[Operation]] = {key: [] for key in self.keys}
        self._value = 0
        self._probes = 0
        world.probes.append(self.probe)

    async def probe(self, inside: Doors, outside: Doors, seconds: float) -> None:
        """Read what is seldom written inside, often; write it outside."""
        self._probes += 1
        loop, mostly_read = self.world.loop, self.keys[len(self.often_written) :]
        end_s = loop.time() + seconds

        async def again(key: str, doors: Doors, pause_s: float, *, reads: bool) -> None:
            name = f"{'inside' if reads else 'outside'}{self._probes}-{key}"
            caller = Client(self.world, name, patience_s=2.0, doors=doors)
            while loop.time() < end_s and not self.world.is_ending:
                with suppress(*ERRORS):
                    if reads:
                        await caller.call("Register", key, "read", history=self.histories[key])
                    else:
                        self._value += 1
                        write = ("Register", key, "write", self._value)
                        await caller.call(*write, history=self.histories[key])
                await asyncio.sleep(self.random.expovariate(1.0) * pause_s)

        reading = [again(key, inside, 0.015, reads=True) for key in mostly_read]
        writing = [again(key, outside, 0.05, reads=False) for key in mostly_read]
        await asyncio.gather(*reading, *writing)

    async def step(self, caller: Client) -> None:
        key = self.random.choice(self.keys)
        history, draw = self.histories[key], self.random.random()
        self._value += 1
        if key not in self.often_written:
            draw *= 0.53
        if draw < 0.5:
            await caller.call("Register", key, "read", history=history)
        elif draw < 0.8:
            await caller.call("Register", key, "write", self._value, history=history)
        else:
            old = max(self._value - int(self.random.random() * 6), 0)
            await caller.call("Register", key, "cas", old, self._value, history=history)

    async def read_all(self, reader: Client) -> None:
        for key, history in self.histories.items():
            await reader.call("Register", key, "read", history=history)

    def check(self) -> list[str]:
        return _check_each(self.histories, linear.Register(), "register")


class Counters(Workload):
    """C: additions with and without idempotency keys; each happens once, and is seen."""

    letter = "C"
    clients = 3
    keys = ("c0", "c1", "c2", "c3")

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.histories: dict[str, list[Operation]] = {key: [] for key in self.keys}
        self._amount = 0

    async def step(self, caller: Client) -> None:
        key = self.random.choice(self.keys)
        history, keyed = self.histories[key], self.random.random() < 0.7
        self._amount += 1
        amount = self._amount * 1_000 + 1  # no sum of some is that of others by accident, or seldom
        if self.random.random() < 0.2:
            await caller.call("Counter", key, "read", history=history)
        else:
            await caller.call("Counter", key, "add", amount, keyed=keyed, history=history)

    async def read_all(self, reader: Client) -> None:
        for key, history in self.histories.items():
            await reader.call("Counter", key, "read", history=history)

    def check(self) -> list[str]:
        return _check_each(self.histories, linear.Counter(), "counter")


class Relays(Workload):
    """N: additions that go through another actor; no addition is made twice.

    Not among the defaults: see `BY_DEFAULT`.
    """

    letter = "N"
    clients = 2
    keys = ("n0", "n1")
    relays = ("p0", "p1", "p2")

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.histories: dict[str, list[Operation]] = {key: [] for key in self.keys}
        self._amount = 0

    async def step(self, caller: Client) -> None:
        key, relay = self.random.choice(self.keys), self.random.choice(self.relays)
        history = self.histories[key]
        self._amount += 1
        if self.random.random() < 0.3:
            await caller.call("Counter", key, "read", history=history)
        else:
            amount = self._amount * 1_000 + 1
            await caller.call("Relay", relay, "forward", key, amount, history=history, kind="add")

    async def read_all(self, reader: Client) -> None:
        for key, history in self.histories.items():
            await reader.call("Counter", key, "read", history=history)

    def check(self) -> list[str]:
        return _check_each(self.histories, linear.Counter(), "counter behind relays")


class Journals(Workload):
    """L: writers tell journals; each line arrives once, and those of one writer in order."""

    letter = "L"
    clients = 2
    writers = ("w0", "w1", "w2")
    journals = ("j0", "j1")

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.heard: dict[str, int] = dict.fromkeys(self.writers, 0)  # what writers have said
        self.said: dict[str, int] = {}
        self.lines: dict[str, list[Any]] = {}

    async def step(self, caller: Client) -> None:
        writer, journal = self.random.choice(self.writers), self.random.choice(self.journals)
        number = await caller.call("Writer", writer, "say", journal, keyed=True)
        self.heard[writer] = max(self.heard[writer], number)

    async def read_all(self, reader: Client) -> None:
        for writer in self.writers:
            self.said[writer] = await reader.call("Writer", writer, "count")
        for journal in self.journals:
            self.lines[journal] = await reader.call("Journal", journal, "read")

    def check(self) -> list[str]:
        forgotten = [
            f"{writer} has forgotten: it said {heard}, and knows {self.said[writer]}"
            for writer, heard in self.heard.items()
            if self.said[writer] < heard
        ]
        return forgotten + delivery.in_order(self.said, self.lines)


class Bank(Workload):
    """B: money moves between accounts over messages; none is made and none is lost."""

    letter = "B"
    clients = 2
    keys = ("a0", "a1", "a2", "a3")

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.balances: dict[str, int] = {}

    async def step(self, caller: Client) -> None:
        payer, payee = self.random.sample(self.keys, 2)
        amount = 1 + int(self.random.random() * 30)
        keyed = self.random.random() < 0.5
        await caller.call("Account", payer, "pay", payee, amount, keyed=keyed)

    async def read_all(self, reader: Client) -> None:
        for key in self.keys:
            self.balances[key] = await reader.call("Account", key, "read")

    def check(self) -> list[str]:
        total = sum(self.balances.values())
        wrong = [f"{key} has {has}" for key, has in self.balances.items() if has < 0]
        if total != 100 * len(self.keys):
            wrong.append(f"{total} in the bank instead of {100 * len(self.keys)}: {self.balances}")
        return wrong


class Alarms(Workload):
    """T: timers that were set fire once, and not before their time."""

    letter = "T"
    clients = 1
    keys = ("t0", "t1")
    after_max_ms = 4_000

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.set: dict[str, str] = {}  # name: key, of timers that are surely set
        self.maybe: dict[str, str] = {}
        self.rung: dict[str, list[Any]] = {}

    async def step(self, caller: Client) -> None:
        key, name = self.random.choice(self.keys), caller.next_id()
        after_ms = int(self.random.random() * self.after_max_ms)
        try:
            await caller.call("Alarm", key, "set", name, after_ms)
        except UNKNOWN:
            self.maybe[name] = key
            raise
        self.set[name] = key

    async def read_all(self, reader: Client) -> None:
        for key in self.keys:
            self.rung[key] = await reader.call("Alarm", key, "read")

    def check(self) -> list[str]:
        jumped = self.world.trace.faults["clock jump"]
        early = [
            f"timer {name} of {key} fired {due_at_ms - fired_at_ms} ms early"
            for key, rung in self.rung.items()
            for name, due_at_ms, fired_at_ms in rung
            if fired_at_ms < due_at_ms and not jumped
        ]
        fired = [f"timer {name} of {key}" for key, rung in self.rung.items() for name, *_ in rung]
        surely = [f"timer {name} of {key}" for name, key in self.set.items()]
        maybe = [f"timer {name} of {key}" for name, key in self.maybe.items()]
        return early + delivery.once(surely, maybe, fired)


WORKLOADS: tuple[type[Workload], ...] = (
    Registers,
    Counters,
    Relays,
    Journals,
    Bank,
    Alarms,
    Transfers,
    Views,
    Sessions,
)

BY_DEFAULT = "RCLBTXVE"
"""N finds that calls which turns make are not fenced: when an owner that has been taken out goes on
with a turn, the call it makes is done, and once more when its turn is run by the next owner."""
