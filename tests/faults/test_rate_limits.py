"""Rates over real processes: one count for all of them, and what a killed owner costs."""

import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from pathlib import Path

import pytest
from tests.faults.database import Database
from tests.faults.supervised import WITHIN_S, Supervised, until

from perdure.cluster.assignment import targets
from perdure.store.registry import Member

pytestmark = pytest.mark.faults

LIMIT = 40
KEYS = tuple(f"k{number}" for number in range(16))
APP = f"""
import os
import time
from pathlib import Path

from perdure import Actor, App, Limits, Rate, expose, read


while Path("wait").exists():  # who is started again shall take part in nothing
    time.sleep(0.01)


def by_key(caller, key):
    return key


class Shelf(Actor):
    @expose(rate=Rate({LIMIT}, per_s=3600, by=by_key))
    @read
    async def look(self) -> int:
        return 1


# long enough for another owner to be there: else each web process would count for itself meanwhile
app = App(Shelf, limits=Limits(rate_wait_s=20.0))


@app.get("/who")
async def who() -> int:
    return os.getpid()


@app.get("/quote/{{key}}", rate=Rate({LIMIT}, per_s=3600, by=by_key))
async def quote(key: str) -> int:
    return os.getpid()
"""


def _is_settled(database: Database) -> bool:
    """Whether two owners have the shards that they shall have: then nothing moves any more."""
    owners = database.asks("SELECT array_agg(owner ORDER BY shard) FROM perdure_shard")
    members = [Member(one, "", "", "") for one in {*(owners or ())}]
    return len(members) == 2 and list(targets(members)) == owners


class Clients:
    """Connections that are kept open, spread over both web processes."""

    def __init__(self, run: Supervised, stack: ExitStack) -> None:
        self._run = run
        self._stack = stack
        self._pool = stack.enter_context(ThreadPoolExecutor(8))
        self._by_process: dict[int, list[HTTPConnection]] = {}
        until(self._are_spread, "connections to both web processes")
        self.connections = [one for some in self._by_process.values() for one in some[:4]]

    def _are_spread(self) -> bool:
        connection = HTTPConnection("127.0.0.1", self._run.port, timeout=WITHIN_S)
        self._stack.enter_context(closing(connection))
        status, process = _ask(connection, "/who")
        assert status == 200
        self._by_process.setdefault(process, []).append(connection)
        return sorted(len(one) >= 4 for one in self._by_process.values()) == [True, True]

    def ask(self, path: str, times: int) -> list[int]:
        """The statuses of so many requests on each connection, all at once."""

        def asking(connection: HTTPConnection) -> list[int]:
            return [_ask(connection, path)[0] for _ in range(times)]

        each = self._pool.map(asking, self.connections)
        return [status for one in each for status in one]


def _ask(connection: HTTPConnection, path: str) -> tuple[int, int]:
    connection.request("GET", path)
    reply = connection.getresponse()
    body = json.loads(reply.read())
    assert reply.status == 200 or int(reply.headers["retry-after"]) > 0
    assert path == "/who" or reply.headers["ratelimit"]
    return reply.status, body if reply.status == 200 else 0


def _options(store: str, states: int) -> tuple[str, ...]:
    return ("--web", "2", "--state", str(states), "--store", store)


def _is_exact(clients: Clients) -> None:
    for path in ("/quote/a", "/quote/b", "/shelf/a/look", "/shelf/b/look"):
        statuses = clients.ask(path, LIMIT // 4)
        assert sorted(statuses) == [200] * LIMIT + [429] * LIMIT


def test_eight_connections_to_two_web_processes_are_allowed_exactly_the_limit(
    database: Database, tmp_path: Path
) -> None:
    options = _options(database.url, 2)
    with Supervised(tmp_path, APP, options=options) as run, ExitStack() as stack:
        run.wait_for_log("Perdure is serving")
        until(lambda: _is_settled(database), "shards that are shared out")
        _is_exact(Clients(run, stack))


def test_the_same_with_sqlite_and_one_owner(tmp_path: Path) -> None:
    options = _options("sqlite:data", 1)
    with Supervised(tmp_path, APP, options=options) as run, ExitStack() as stack:
        run.wait_for_log("Perdure is serving")
        _is_exact(Clients(run, stack))


def test_an_owner_that_is_killed_costs_each_caller_at_most_one_more_burst(
    database: Database, tmp_path: Path
) -> None:
    options = _options(database.url, 2)
    with Supervised(tmp_path, APP, options=options) as run, ExitStack() as stack:
        run.wait_for_log("Perdure is serving")
        until(lambda: _is_settled(database), "shards that are shared out")
        clients = Clients(run, stack)
        # none is refused yet: else web processes would go by that, whatever becomes of the owner
        assert _allowed_of_each(clients, of=LIMIT) == [LIMIT] * len(KEYS)
        (tmp_path / "wait").touch()
        os.kill(run.pid_of("state-1"), signal.SIGKILL)
        # of keys whose bucket the other owner has, and of those of the dead one
        assert set(_allowed_of_each(clients, of=2 * LIMIT)) == {0, LIMIT}
        assert set(_allowed_of_each(clients, of=2 * LIMIT)) == {0}


def test_an_owner_that_freezes_makes_nobody_wait_for_long_and_costs_one_burst_for_each_process(
    database: Database, tmp_path: Path
) -> None:
    options = _options(database.url, 2)
    app = APP.replace("rate_wait_s=20.0", "rate_wait_s=0.3")
    with Supervised(tmp_path, app, options=options) as run, ExitStack() as stack:
        run.wait_for_log("Perdure is serving")
        until(lambda: _is_settled(database), "shards that are shared out")
        clients = Clients(run, stack)
        assert _allowed_of_each(clients, of=LIMIT) == [LIMIT] * len(KEYS)
        frozen = run.pid_of("state-1")
        os.kill(frozen, signal.SIGSTOP)
        try:
            took_s, allowed = [], []
            for key in KEYS:
                began_s = time.monotonic()
                allowed.append(clients.ask(f"/quote/{key}", LIMIT).count(200))
                took_s.append(time.monotonic() - began_s)
        finally:
            os.kill(frozen, signal.SIGCONT)
        assert min(allowed) == 0  # of the other owner's
        assert LIMIT <= max(allowed) <= 3 * LIMIT  # two processes by themselves, and the next owner
        assert max(took_s) < 3.0  # no lease was waited for


def _allowed_of_each(clients: Clients, *, of: int) -> list[int]:
    allowed = []
    for key in KEYS:
        statuses = clients.ask(f"/quote/{key}", of // 8)
        assert set(statuses) <= {200, 429}
        allowed.append(statuses.count(200))
    return allowed
