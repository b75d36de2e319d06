"""The application whose effects are counted: messages, timers, transactions and live views.

Every actor here can tell, from its own state, that something was done twice, left out, done too
early or out of order; `test_effects` compares that with what the clients were told.
"""

import time
from datetime import UTC, datetime

from perdure import Actor, App, DomainError, Log, expose, live, read, transaction

SLOTS = 5


class TooLittle(DomainError):
    """There is not that much in the account."""

    status = 409


def view_of(count: int) -> dict[str, int]:
    """What a Counter shows after that many calls. Members come, change and go, so that the patches
    of a live view do all three."""
    slots = range(max(count - SLOTS + 1, 1), count + 1)
    return {"count": count, **{str(number % (SLOTS + 2)): number for number in slots}}


class Counter(Actor):
    """Counts calls; its view follows from the count."""

    count: int = 0
    slots: dict[str, int] = {}

    @expose
    async def bump(self) -> int:
        self.count += 1
        self.slots = view_of(self.count)
        return self.count

    @expose
    @live
    async def view(self) -> dict[str, int]:
        return self.slots


class Writer(Actor):
    """Sends numbered messages to lists."""

    sent: dict[str, int] = {}

    @expose
    async def write(self, to: list[str]) -> None:
        for key in to:
            number = self.sent[key] = self.sent.get(key, 0) + 1
            AppendList.at(key).tell.append(self.key, number)

    @expose
    @read
    async def view(self) -> dict[str, int]:
        return self.sent


class AppendList(Actor):
    """Takes messages of several writers, and keeps them as they came."""

    lines: Log[tuple[str, int]] = Log()
    length: int = 0

    async def append(self, sender: str, number: int) -> None:
        self.lines.append((sender, number))
        self.length += 1

    @expose
    @read
    async def size(self) -> int:
        return self.length

    @expose
    @read
    async def page(self, start: int) -> list[tuple[str, int]]:
        return [line async for _, line in self.lines.range(start, start + 500)]


class Account(Actor):
    """Money that only moves; `given` and `taken` count the moves."""

    cents: int = 0
    given: int = 0
    received: int = 0

    @expose
    async def open(self, cents: int) -> None:
        self.cents += cents

    async def put(self, cents: int) -> None:
        self.cents += cents
        self.received += 1

    async def take(self, cents: int) -> None:
        if cents > self.cents:
            raise TooLittle(f"{self.cents} cents are there")
        self.cents -= cents
        self.given += 1

    @expose
    async def send(self, to: str, cents: int) -> None:
        """Give by a message, which is under way for a while."""
        await self.take(cents)
        Account.at(to).tell.put(cents)

    @expose
    async def hand(self, to: str, cents: int) -> None:
        """Give within a transaction; the receiver has it before the giver turns out to be poor."""
        async with transaction(Account.at(to)):
            await Account.at(to).put(cents)
            await self.take(cents)

    @expose
    @read
    async def view(self) -> tuple[int, int, int]:
        return self.cents, self.given, self.received


@transaction
async def _move(giver: str, receiver: str, cents: int) -> None:
    await Account.at(receiver).put(cents)
    await Account.at(giver).take(cents)


class Teller(Actor):
    """Moves money between two others, in a transaction that locks them as it goes."""

    moves: int = 0

    @expose
    async def move(self, giver: str, receiver: str, cents: int) -> None:
        await _move(giver, receiver, cents)


class Alarm(Actor):
    """Sets timers, and writes down how often each fired and how many of them too early."""

    rung: dict[str, int] = {}
    early: list[str] = []

    @expose
    async def arm(self, label: str, after_s: float) -> None:
        at_s = time.time() + after_s
        self.timers.set(
            label, at=datetime.fromtimestamp(at_s, UTC), call="ring", label=label, at_s=at_s
        )

    async def ring(self, label: str, at_s: float) -> None:
        self.rung[label] = self.rung.get(label, 0) + 1
        if time.time() < at_s - 0.001:  # timers are kept in whole milliseconds
            self.early.append(label)

    @expose
    @read
    async def view(self) -> tuple[dict[str, int], list[str]]:
        return self.rung, self.early


app = App(Counter, Writer, AppendList, Account, Teller, Alarm)
