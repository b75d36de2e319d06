"""Sends every line as a cart call, whatever happens to the server, and compares in the end.

Each cart belongs to one of the connections, so its lines arrive in their order. A call that got no
answer is sent again under the same `Idempotency-Key`, until it is answered.
"""

import asyncio
import random
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple
from urllib.parse import quote
from zlib import crc32

import msgspec
from examples.retail_replay.client import Answer, Connection
from examples.retail_replay.rules import UNREADABLE, Cart, Fold, Line
from examples.retail_replay.server import Server

_ATTEMPT_S = 10.0  # for one attempt to be answered
_GIVE_UP_S = 120.0  # for a call, all attempts together
_BACKOFF_S = (0.02, 1.0)  # the first pause, and the longest
_QUEUE_LINES = 1_000  # for one connection; the reader waits when it is full
_KILL_DELAY_MAX_S = 0.02  # so that kills do not keep step with answers

_PROBLEM = "urn:perdure:problem:"


class ReplayError(Exception):
    """Raised when a call cannot be brought to an end."""


class Call(NamedTuple):
    """One call of a cart."""

    cart: str
    method: str
    number: int  # of the line; 0 opens the cart
    body: bytes


@dataclass
class Tally:
    """What happened on the way."""

    lines: int = 0
    carts: int = 0
    retries: int = 0  # attempts beyond the first
    replays: int = 0  # answers that a process gave which was dead when the call was sent again
    refused: Counter[str] = field(default_factory=Counter)
    call_s: "array[float]" = field(default_factory=lambda: array("d"))
    seconds: float = 0.0
    milestones: dict[int, asyncio.Event] = field(default_factory=dict)  # set at so many lines

    def count_line(self) -> None:
        """One more line is answered."""
        self.lines += 1
        if (milestone := self.milestones.get(self.lines)) is not None:
            milestone.set()

    def percentile_ms(self, percent: float) -> float:
        """The time within which so many of the calls were answered, retries included."""
        ordered = sorted(self.call_s)
        index = min(int(len(ordered) * percent / 100), len(ordered) - 1)
        return ordered[index] * 1000 if ordered else 0.0


async def send_all(
    lines: Iterator[Line | None],
    server: Server,
    *,
    connections: int,
    kill_at: list[int],
    chance: random.Random,
    on_progress: Callable[[Tally], None] = lambda _: None,
) -> Tally:
    """Send all lines. The server is killed when as many are answered as each of `kill_at` says,
    which must be fewer than there are."""
    tally = Tally(milestones={lines: asyncio.Event() for lines in kill_at})
    queues: list[asyncio.Queue[Call | None]] = [
        asyncio.Queue(_QUEUE_LINES) for _ in range(connections)
    ]
    begun_s = time.monotonic()
    async with asyncio.TaskGroup() as group:
        group.create_task(_kill(server, tally, chance))
        senders = [group.create_task(_send(queue, server, tally)) for queue in queues]
        await _read(lines, queues, tally, on_progress)
        await asyncio.gather(*senders)
        tally.seconds = time.monotonic() - begun_s
    on_progress(tally)
    return tally


async def _read(
    lines: Iterator[Line | None],
    queues: list[asyncio.Queue[Call | None]],
    tally: Tally,
    on_progress: Callable[[Tally], None],
) -> None:
    opened: set[str] = set()
    for index, line in enumerate(lines):
        if index % 200 == 0:
            on_progress(tally)
        if line is None:
            tally.count_line()
            tally.refused[UNREADABLE] += 1
            continue
        queue = queues[crc32(line.invoice.encode()) % len(queues)]
        if line.invoice not in opened:
            opened.add(line.invoice)
            opening = {"country": line.country, "customer": line.customer}
            await queue.put(Call(line.invoice, "open", 0, msgspec.json.encode(opening)))
        adding = {"sku": line.sku, "quantity": line.quantity, "price": line.price}
        await queue.put(Call(line.invoice, "add", line.number, msgspec.json.encode(adding)))
    for queue in queues:
        await queue.put(None)


async def _send(queue: asyncio.Queue[Call | None], server: Server, tally: Tally) -> None:
    connection = Connection(server.host, server.port)
    while (call := await queue.get()) is not None:
        begun_s = time.monotonic()
        answer = await _send_until_answered(call, connection, server, tally)
        tally.call_s.append(time.monotonic() - begun_s)
        if answer.status != 200:
            tally.refused[_refusal(call, answer)] += 1
        if call.method == "open":
            tally.carts += 1
        else:
            tally.count_line()
    connection.close()


async def _send_until_answered(
    call: Call, connection: Connection, server: Server, tally: Tally
) -> Answer:
    target = f"/cart/{quote(call.cart, safe='')}/{call.method}"
    headers = f"Idempotency-Key: {call.cart}-{call.number}\r\nContent-Type: application/json\r\n"
    give_up_s = time.monotonic() + _GIVE_UP_S
    pause_s, longest_s = _BACKOFF_S
    dead_before: set[int] | None = None  # None: this is the first attempt
    while True:
        try:
            answer = await connection.request(
                "POST", target, headers, call.body, timeout_s=_ATTEMPT_S
            )
            if answer.status not in {503, 504}:
                if dead_before is not None and _process_of(answer) in dead_before:
                    tally.replays += 1
                return answer
        except (OSError, EOFError, TimeoutError):
            pass  # killed: before the call, after it, or halfway; the key makes it all the same
        if time.monotonic() > give_up_s:
            raise ReplayError(f"no answer to line {call.number} of cart {call.cart}")
        tally.retries += 1
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, longest_s)
        dead_before = set(server.killed)


def _process_of(answer: Answer) -> int:
    said = msgspec.json.decode(answer.body)
    process: int = said.get("process", 0) if isinstance(said, dict) else said
    return process


def _refusal(call: Call, answer: Answer) -> str:
    """The kind of a refusal; raises ReplayError for trouble that no rule foresees."""
    kind: str = msgspec.json.decode(answer.body).get("type", "").removeprefix(_PROBLEM)
    if not 400 <= answer.status <= 499:
        raise ReplayError(f"line {call.number} of cart {call.cart}: {answer.status} {kind}")
    return kind


async def _kill(server: Server, tally: Tally, chance: random.Random) -> None:
    for milestone in tally.milestones.values():
        await milestone.wait()
        await asyncio.sleep(chance.uniform(0, _KILL_DELAY_MAX_S))
        await server.kill()


# -- the comparison ------------------------------------------------------------------------------


async def read_carts(server: Server, names: list[str], connections: int) -> dict[str, Cart]:
    """What the server says is in these carts."""
    found: dict[str, Cart] = {}
    waiting = iter(names)

    async def ask() -> None:
        connection = Connection(server.host, server.port)
        for name in waiting:
            target = f"/cart/{quote(name, safe='')}/view"
            answer = await connection.request("GET", target, timeout_s=_ATTEMPT_S)
            if answer.status != 200:
                raise ReplayError(f"cart {name} cannot be read: {answer.status}")
            found[name] = msgspec.json.decode(answer.body, type=Cart)
        connection.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(ask())
    return found


def differences(
    expected: Fold, carts: dict[str, Cart], refused: Counter[str], lines: int
) -> list[str]:
    """Everything in which the server's carts are not what the file says, one text each."""
    found = []
    for name in sorted(expected.carts.keys() | carts.keys()):
        wanted, got = expected.carts.get(name), carts.get(name)
        if wanted != got:
            found.append(f"cart {name}: {_difference(wanted, got)}")
    for kind in sorted(expected.refused.keys() | refused.keys()):
        if expected.refused[kind] != refused[kind]:
            found.append(f"refused as {kind}: {refused[kind]}, not {expected.refused[kind]}")
    wanted_lines = sum(cart.lines for cart in expected.carts.values()) + expected.refused.total()
    if lines != wanted_lines:
        found.append(f"lines answered: {lines}, not {wanted_lines}")
    return found


def _difference(wanted: Cart | None, got: Cart | None) -> str:
    if wanted is None or got is None:
        return "is missing" if got is None else "is not in the file"
    for sku in sorted(wanted.quantities.keys() | got.quantities.keys()):
        pair = got.quantities.get(sku), wanted.quantities.get(sku)
        if pair[0] != pair[1]:
            return f"{sku!r} has quantity {pair[0]}, not {pair[1]}"
    return f"is {replace(got, quantities={})}, not {replace(wanted, quantities={})}"


def kill_moments(lines: int, kills: int, chance: random.Random) -> list[int]:
    """Random places in the file; fewer than `kills` if it is short."""
    return sorted(chance.sample(range(1, max(lines, 1)), min(kills, max(lines - 1, 0))))
