"""The actor classes of the workloads, made anew for each simulated process.

A class is bound to one node of a Python process, and here many nodes live in one.
"""

from collections.abc import Callable
from datetime import timedelta
from functools import cache
from types import SimpleNamespace

from perdure import Actor, DomainError, live, read, transaction


class Poor(DomainError):
    """The account does not hold that much."""

    status = 409


@cache
def classes_of(process: str) -> SimpleNamespace:  # noqa: C901  # methods count as branches
    """The classes that the process of this name runs, life after life."""
    wall_ms: list[Callable[[], int]] = []

    class Register(Actor):
        value: int = 0

        @read
        async def read(self) -> int:
            return self.value

        async def write(self, value: int) -> None:
            self.value = value

        async def cas(self, old: int, new: int) -> bool:
            if self.value != old:
                return False
            self.value = new
            return True

    class Counter(Actor):
        total: int = 0

        @read
        async def read(self) -> int:
            return self.total

        async def add(self, amount: int) -> int:
            self.total += amount
            return self.total

    class Relay(Actor):
        passed: int = 0

        async def forward(self, counter: str, amount: int) -> int:
            self.passed += 1
            return await Counter.at(counter).add(amount)

    class Journal(Actor):
        lines: list[tuple[str, int]] = []

        async def append(self, writer: str, number: int) -> None:
            self.lines.append((writer, number))

        @read
        async def read(self) -> list[tuple[str, int]]:
            return self.lines

    class Writer(Actor):
        said: int = 0

        async def say(self, journal: str) -> int:
            self.said += 1
            await Journal.at(journal).tell.append(self.key, self.said)
            return self.said

        @read
        async def count(self) -> int:
            return self.said

    class Account(Actor):
        balance: int = 100

        async def pay(self, to: str, amount: int) -> int:
            if self.balance < amount:
                raise Poor(f"{self.key} has {self.balance}")
            self.balance -= amount
            await Account.at(to).tell.receive(amount)
            return self.balance

        async def receive(self, amount: int) -> None:
            self.balance += amount

        @read
        async def read(self) -> int:
            return self.balance

    class Alarm(Actor):
        rung: list[tuple[str, int, int]] = []

        async def set(self, name: str, after_ms: int) -> None:
            due_at_ms = wall_ms[0]() + after_ms
            after = timedelta(milliseconds=after_ms)
            self.timers.set(name, after=after, call="ring", name_rung=name, due_at_ms=due_at_ms)

        async def ring(self, name_rung: str, due_at_ms: int) -> None:
            self.rung.append((name_rung, due_at_ms, wall_ms[0]()))

        @read
        async def read(self) -> list[tuple[str, int, int]]:
            return self.rung

    class Purse(Actor):
        cents: int = 100
        moves: list[str] = []

        async def take(self, name: str, cents: int) -> None:
            if self.cents < cents:
                raise Poor(f"{self.key} has {self.cents}")
            self.cents -= cents
            self.moves.append(name)

        async def put(self, name: str, cents: int) -> None:
            self.cents += cents
            self.moves.append(name)

        @transaction
        async def give(self, to: str, name: str, cents: int) -> None:
            await Purse.at(to).put(name, cents)
            await self.take(name, cents)

        @read
        async def view(self) -> tuple[int, list[str]]:
            return self.cents, self.moves

    class Teller(Actor):
        async def move(self, payer: str, payee: str, name: str, cents: int) -> None:
            async with transaction():
                await Purse.at(payer).take(name, cents)
                await Purse.at(payee).put(name, cents)

        async def audit(self, keys: list[str]) -> list[int]:
            async with transaction():
                return [(await Purse.at(key).view())[0] for key in keys]

    class Ticker(Actor):
        value: int = 0

        @live
        async def view(self) -> int:
            return self.value

        async def tick(self) -> int:
            self.value += 1
            return self.value

    class Session(Actor, ttl=timedelta(seconds=3)):
        life: str = ""
        count: int = 0

        async def touch(self, life: str) -> tuple[str, int]:
            self.life = self.life or life
            self.count += 1
            return self.life, self.count

    made = [Register, Counter, Relay, Journal, Writer, Account, Alarm]
    made += [Purse, Teller, Ticker, Session]

    def tell_time(clock: Callable[[], int]) -> None:
        wall_ms[:] = [clock]

    return SimpleNamespace(**{one.__name__: one for one in made}, all=made, tell_time=tell_time)
