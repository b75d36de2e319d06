"""SIGKILL while messages, timers, transactions and live views are under way.

All calls carry an idempotency key and are sent again until they are answered, so afterwards the
effect of each call must be there exactly once, wherever the server died.
"""

import asyncio
import json
import os
import random
import signal
import sqlite3
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.faults.effects import view_of
from tests.faults.lab import Client, Died, Lost, Server, note, run, seeded, unhurried

from perdure.base.merge_patch import apply
from perdure.base.points import COMMIT_POINTS, EFFECT_POINTS

pytestmark = [pytest.mark.faults, *unhurried]

APP = Path(__file__).with_name("effects.py")
KILLS = int(os.environ.get("PERDURE_KILLS", "5"))
KILLS_OF_ONE_TOWN = 50
REST_S = 30.0
ACCOUNTS = [f"a{number}" for number in range(6)]
CENTS = 1_000


class Desk:
    """Sends calls under idempotency keys to one class of actors, and remembers the answers."""

    def __init__(self, actor: str) -> None:
        self.actor = actor
        self.answers: dict[str, tuple[str, Any]] = {}  # request id → key, body
        self.refused: set[str] = set()
        self.calls: dict[str, tuple[str, str, dict[str, Any]]] = {}
        self.unanswered: set[str] = set()
        self.repeated = 0

    async def send(self, client: Client, key: str, method: str, **arguments: Any) -> bool:
        """One new call; returns whether there was an answer."""
        request_id = f"{self.actor}-{len(self.calls)}"
        self.calls[request_id] = key, method, arguments
        self.unanswered.add(request_id)
        try:
            await self._send(client, request_id)
        except Lost:
            return False
        return True

    async def _send(self, client: Client, request_id: str) -> None:
        key, method, arguments = self.calls[request_id]
        for _ in range(100):
            status, body = await client.call(key, method, request_id, **arguments)
            if status != 503:  # it has left nothing: two transactions would have waited in a circle
                break
        assert status == 200 or body["type"].endswith("too-little"), body
        if status == 200:
            assert self.answers.get(request_id, (key, body)) == (key, body)
            self.answers[request_id] = key, body
        else:
            self.refused.add(request_id)
        self.unanswered.discard(request_id)

    async def settle(self, port: int) -> None:
        """Send again what was not answered, and some of what was: the answer must be the same."""
        with closing(Client(port, self.actor)) as client:
            for request_id in sorted(self.unanswered):
                await self._send(client, request_id)
                self.repeated += 1
            for request_id in sorted(self.answers)[-5:]:
                await self._send(client, request_id)


async def ask(port: int, actor: str, key: str, method: str = "view", **arguments: Any) -> Any:
    """The answer of one read."""
    with closing(Client(port, actor)) as client:
        status, body = await client.call(key, method, **arguments)
        assert status == 200, body
        return body


async def until(check: Callable[[], Awaitable[str]]) -> None:
    """Wait until nothing is missing any more; `check` says what is, or raises."""
    begin_s = time.monotonic()
    while missing := await check():
        assert time.monotonic() - begin_s < REST_S, missing
        await asyncio.sleep(0.02)


class Counting:
    """Calls of a counter: each counts once, and no two of them get the same answer."""

    def __init__(self) -> None:
        self.desk = Desk("counter")

    async def load(self, client: Client, number: int) -> bool:
        return await self.desk.send(client, f"c{number % 2}", "bump")

    async def check(self, port: int) -> None:
        for key in ("c0", "c1"):
            counts = sorted(body for at, body in self.desk.answers.values() if at == key)
            assert counts == list(range(1, len(counts) + 1)), key
            shown = await ask(port, "counter", key)
            assert shown == (view_of(len(counts)) if counts else {}), key


class Writing:
    """Messages of writers to lists: per pair all of them, once, in order."""

    def __init__(self) -> None:
        self.desk = Desk("writer")
        self.messages = 0

    async def load(self, client: Client, number: int) -> bool:
        to = ["l0", f"l{1 + number % 2}", "l0"]
        return await self.desk.send(client, f"w{number % 2}", "write", to=to)

    async def check(self, port: int) -> None:
        sent = {}
        for writer in ("w0", "w1"):
            owed = [call[2]["to"] for call in self.desk.calls.values() if call[0] == writer]
            sent[writer] = await ask(port, "writer", writer)
            assert sum(sent[writer].values()) == sum(map(len, owed)), writer
        self.messages = 0
        for key in ("l0", "l1", "l2"):
            expected = sum(numbers.get(key, 0) for numbers in sent.values())
            self.messages += expected
            await until(lambda key=key, expected=expected: self._missing(port, key, expected))
            lines: list[tuple[str, int]] = []
            while page := await ask(port, "append-list", key, "page", start=len(lines)):
                lines += page
            for writer, numbers in sent.items():
                got = [number for sender, number in lines if sender == writer]
                assert got == list(range(1, numbers.get(key, 0) + 1)), (writer, key)

    async def _missing(self, port: int, key: str, expected: int) -> str:
        size = await ask(port, "append-list", key, "size")
        assert size <= expected, f"{key}: {size} of {expected} messages: some arrived twice"
        return "" if size == expected else f"{key}: {size} of {expected} messages"


class Banking:
    """Money that moves by messages and by transactions: none is made and none is lost."""

    def __init__(self) -> None:
        self.accounts, self.teller = Desk("account"), Desk("teller")
        self._random = random.Random(1)

    async def open(self, port: int) -> None:
        with closing(Client(port, "account")) as client:
            for key in ACCOUNTS:
                assert await self.accounts.send(client, key, "open", cents=CENTS)

    async def load(self, client: Client, number: int) -> bool:
        giver, receiver = self._random.sample(ACCOUNTS, 2)
        method = "send" if number % 2 else "hand"
        cents = self._random.randint(1, 400)
        return await self.accounts.send(client, giver, method, to=receiver, cents=cents)

    async def load_teller(self, client: Client, number: int) -> bool:
        giver, receiver = self._random.sample(ACCOUNTS, 2)
        cents = self._random.randint(1, 400)
        at = {"giver": giver, "receiver": receiver, "cents": cents}
        return await self.teller.send(client, f"t{number}", "move", **at)

    def moves(self) -> int:
        """Acknowledged ones."""
        return len(self.accounts.answers) - len(ACCOUNTS) + len(self.teller.answers)

    async def check(self, port: int) -> None:
        await until(lambda: self._missing(port))

    async def _missing(self, port: int) -> str:
        views = [await ask(port, "account", key) for key in ACCOUNTS]
        cents, given, received = map(sum, zip(*views, strict=True))
        assert given == self.moves(), "a move was done twice, or half"
        assert received <= given, "a move arrived twice"
        if received < given:
            return f"{given - received} transfers under way"
        assert cents == CENTS * len(ACCOUNTS), "money was made or lost"
        balances = dict.fromkeys(ACCOUNTS, CENTS)
        for desk in (self.accounts, self.teller):
            for request_id, (key, _) in desk.answers.items():
                _, method, arguments = desk.calls[request_id]
                if method != "open":
                    balances[arguments.get("giver", key)] -= arguments["cents"]
                    balances[arguments.get("receiver", arguments.get("to"))] += arguments["cents"]
        assert balances == dict(zip(ACCOUNTS, [view[0] for view in views], strict=True))
        return ""


class Alarms:
    """Timers: each fires, never early, and its effect is there once."""

    def __init__(self) -> None:
        self.desk = Desk("alarm")
        self._random = random.Random(2)
        self.fired = 0

    async def load(self, client: Client, number: int) -> bool:
        label = f"t{len(self.desk.calls)}"
        after_s = self._random.choice([0.0, 0.01, 0.05, 0.2, 1.0])
        return await self.desk.send(client, f"m{number % 3}", "arm", label=label, after_s=after_s)

    async def check(self, port: int) -> None:
        self.fired = 0
        for key in ("m0", "m1", "m2"):
            owed = {call[2]["label"] for call in self.desk.calls.values() if call[0] == key}
            await until(lambda key=key, owed=owed: self._missing(port, key, owed))
            self.fired += len(owed)

    async def _missing(self, port: int, key: str, owed: set[str]) -> str:
        rung, early = await ask(port, "alarm", key)
        assert not early, f"{key}: too early: {early}"
        assert rung.keys() <= owed
        twice = [label for label, times in rung.items() if times != 1]
        assert not twice, f"{key}: more than once: {twice}"
        return "" if rung.keys() == owed else f"{key}: not fired: {sorted(owed - rung.keys())[:5]}"


class Watcher:
    """Follows a counter over Server-Sent Events, from one server to the next."""

    def __init__(self) -> None:
        self.value: dict[str, int] = {}
        self.events = self.patches = self.resumed = 0
        self._token = ""

    async def watch(self, port: int, count: int | None = None) -> None:
        """Until the server is gone, or has shown that count."""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return
        with closing(writer):
            resume = f"last-event-id: {self._token}\r\n" if self._token else ""
            self.resumed += bool(resume)
            writer.write(f"GET /counter/c0/view/live HTTP/1.1\r\nhost: x\r\n{resume}\r\n".encode())
            try:
                head = await reader.readuntil(b"\r\n\r\n")
                assert b" 200 " in head, head
                while self.value.get("count", 0) != count:
                    self._take((await reader.readuntil(b"\n\n")).decode())
            except (OSError, asyncio.IncompleteReadError):
                return

    def _take(self, text: str) -> None:
        lines = [line.partition(": ") for line in text.split("\n")]
        fields = {name: value for name, _, value in lines}
        if "data" not in fields:
            return
        assert fields["event"] in ("snapshot", "patch"), text
        data, before = json.loads(fields["data"]), self.value.get("count", 0)
        self.events += 1
        self.patches += fields["event"] == "patch"
        self.value = data if fields["event"] == "snapshot" else apply(self.value, data)
        self._token = fields["id"]
        count = self.value.get("count", 0)
        assert self.value == (view_of(count) if count else {}), "a state that never was"
        assert count >= before, f"went back from {before} to {count}"


class Town:
    """All workloads at once, on one server after the other."""

    def __init__(self) -> None:
        self.counting, self.writing = Counting(), Writing()
        self.banking, self.alarms = Banking(), Alarms()
        self.watcher = Watcher()

    def desks(self) -> list[Desk]:
        at = self.banking
        return [self.counting.desk, self.writing.desk, at.accounts, at.teller, self.alarms.desk]

    def acknowledged(self) -> int:
        return sum(len(desk.answers) for desk in self.desks())

    def repeated(self) -> int:
        return sum(desk.repeated for desk in self.desks())

    async def open(self, port: int) -> None:
        await self.banking.open(port)

    async def load(self, port: int) -> None:
        """Until the server is gone."""

        async def keep_on(actor: str, send: Callable[[Client, int], Awaitable[bool]]) -> None:
            with closing(Client(port, actor)) as client:
                number = 0
                while await send(client, number):
                    number += 1

        works = {
            "counter": self.counting.load,
            "writer": self.writing.load,
            "account": self.banking.load,
            "teller": self.banking.load_teller,
            "alarm": self.alarms.load,
        }
        async with asyncio.TaskGroup() as group:
            group.create_task(self.watcher.watch(port))
            for actor, work in works.items():
                group.create_task(keep_on(actor, work))
                group.create_task(keep_on(actor, work))

    async def kill_under_load(self, server: Server, after_s: float) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(after_s, server.process.send_signal, signal.SIGKILL)
        await self.load(server.port)

    async def check(self, port: int) -> None:
        """Everything that was owed is there, once."""
        for desk in self.desks():
            await desk.settle(port)
        for workload in (self.counting, self.writing, self.banking, self.alarms):
            await workload.check(port)
        count = (await ask(port, "counter", "c0")).get("count", 0)
        async with asyncio.timeout(REST_S):
            await self.watcher.watch(port, count)
        assert self.watcher.value.get("count", 0) == count

    def check_at_rest(self, data: Path) -> None:
        """Start once more, compare, and see that nothing is left under way."""
        with Server(data, app=APP) as server:
            run(self.check(server.port))
        with closing(sqlite3.connect(data / "perdure.db")) as database:
            for table in ("perdure_message", "perdure_timer"):
                assert database.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), table
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def told(towns: list[Town]) -> str:
    """What was found, for docs/reliability.md."""
    return (
        f"{sum(town.acknowledged() for town in towns)} acknowledged, "
        f"{sum(town.repeated() for town in towns)} of them sent again; each effect once: "
        f"{sum(town.writing.messages for town in towns)} messages in order, "
        f"{sum(town.alarms.fired for town in towns)} timers, "
        f"{sum(town.banking.moves() for town in towns)} transfers, no cent lost; a live view "
        f"showed {sum(town.watcher.events for town in towns)} states, all of them committed "
        f"ones, over {sum(town.watcher.resumed for town in towns)} resumed streams"
    )


@pytest.mark.parametrize("point", COMMIT_POINTS + EFFECT_POINTS)
def test_a_kill_at_every_point_leaves_each_effect_once(tmp_path: Path, point: str) -> None:
    town, kills = Town(), 0
    with Server(tmp_path, app=APP) as server:
        run(town.open(server.port))
    for number in (1, 2, 7, 25):
        server = Server(tmp_path, app=APP, environment={"PERDURE_FAULT": f"{point}:kill:{number}"})
        try:
            server.wait_ready()
            run(town.load(server.port))
            assert server.wait() == -signal.SIGKILL, "the point was not reached"
        except Died:  # at the start it has gone on with what the last one left
            assert server.wait() == -signal.SIGKILL, server.errors()
        finally:
            server.close()
        kills += 1
    town.check_at_rest(tmp_path)
    assert town.acknowledged() > 0
    note(f"SIGKILL at `{point}`, with effects under way", f"{kills} kills", told([town]))


@pytest.mark.timeout(60 + 5 * KILLS)
def test_kills_at_random_moments_leave_each_effect_once(tmp_path: Path) -> None:
    """A new town now and then, since its actors remember all that was ever done."""
    towns: list[Town] = []
    moments, begin_s = seeded(), time.monotonic()
    for first in range(0, KILLS, KILLS_OF_ONE_TOWN):
        town, data = Town(), tmp_path / str(first)
        towns.append(town)
        with Server(data, app=APP) as server:
            run(town.open(server.port))
        for number in range(first, min(first + KILLS_OF_ONE_TOWN, KILLS)):
            with Server(data, app=APP) as server:
                if number % 10 == 9:
                    run(town.check(server.port))
                run(town.kill_under_load(server, moments.uniform(0.02, 0.4)))
                assert server.wait() == -signal.SIGKILL
        town.check_at_rest(data)
        assert town.repeated() > 0
        assert town.watcher.events > 0
    took_s = time.monotonic() - begin_s
    assert sum(town.acknowledged() for town in towns) > KILLS * 10
    note(
        "SIGKILL at random moments, with effects under way",
        f"{KILLS} kills, {took_s / KILLS:.2f} s each",
        told(towns),
    )
