"""The actor classes of the workloads, made anew for each simulated process.

A class is bound to one node of a Python process, and here many nodes live in one.
"""

from collections.abc import Callable
from datetime import timedelta
from functools import cache
from types import SimpleNamespace

from perdure import Actor, DomainError, read


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

    made = [Register, Counter, Relay, Journal, Writer, Account, Alarm]

    def tell_time(clock: Callable[[], int]) -> None:
        wall_ms[:] = [clock]

    return SimpleNamespace(**{one.__name__: one for one in made}, all=made, tell_time=tell_time)
