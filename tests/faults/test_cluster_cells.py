"""Actors spread over two databases: owners die in both, and one database goes away."""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from tests.faults.cluster_lab import Caller, Cluster, Load
from tests.faults.database import Database
from tests.faults.lab import note, unhurried
from tests.faults.supervised import until

from perdure.base.shards import cell_of

pytestmark = [pytest.mark.faults, *unhurried]

ROUNDS = int(os.environ.get("PERDURE_ROUNDS", "1"))
ENTRIES = [f"m{number}" for number in range(40)]


@pytest.fixture
def both() -> Iterator[list[Database]]:
    """Two servers."""
    with ExitStack() as stack:
        yield [stack.enter_context(Database()) for _ in range(2)]


def _key(name: str, cell: int) -> str:
    return next(key for key in map(f"{name}-{{}}".format, count()) if cell_of(key, 2) == cell)


def _call(load: Load, path: str, body: Any = None) -> Any:
    """One call beside the load, and its result."""

    async def call() -> Any:
        caller = Caller(load._addresses)
        status, result = await caller.call(path, "", body)
        caller.close()
        assert status == 200, result
        return result

    return load.in_place(call())


def test_owners_die_in_both_cells_and_callers_only_wait(
    both: list[Database], tmp_path: Path
) -> None:
    """Messages that cross meanwhile come once each, in their order."""
    with Cluster(tmp_path, [database.url for database in both]) as cluster:
        cluster.add(2, web=1, state=1)
        owners = [
            (machine, title)
            for machine in cluster.machines
            for title in sorted(machine.titles().values())
            if title.startswith("state")
        ]
        assert len(owners) == 4
        receivers = [_key("receiver", cell) for cell in range(2)]
        with Load(cluster.addresses) as load:
            for cell, receiver in enumerate(receivers):
                body = {"to": receiver, "entries": ENTRIES}
                _call(load, f"/journal/{_key('sender', 1 - cell)}/send", body)
            for machine, title in owners * ROUNDS:
                load.wait_for_more(60)
                pid = machine.pid_of(title)
                os.kill(pid, signal.SIGKILL)
                machine.wait_for_log(f"serving again pid={machine.pid_of(title, other_than=pid)}")
            for key in receivers:
                path = f"/journal/{key}/view"
                until(lambda: len(_call(load, path)[0]) >= len(ENTRIES), "messages", 60)  # noqa: B023
                assert _call(load, path)[0] == ENTRIES
            checked = load.check()
        assert not load.history.errors, cluster.logs()
    for cell, database in enumerate(both):
        keys = database.tells("SELECT array_agg(key) FROM journal")
        assert {cell_of(key, 2) for key in keys} == {cell}
        assert database.tells("SELECT count(*) FROM perdure_message") == 0
    note(
        "Owners die in two cells",
        f"kill -9 of each of the 4 owners on 2 databases in turn, {ROUNDS} times, under load",
        f"no error; {2 * len(ENTRIES)} messages crossed, each once and in order; {checked}",
    )


def test_one_database_is_away_and_the_actors_of_the_other_are_served(
    both: list[Database], tmp_path: Path
) -> None:
    with Cluster(tmp_path, [database.url for database in both]) as cluster:
        cluster.add(1, web=1, state=1)
        here, there = _key("here", 0), _key("there", 1)
        client = Load(cluster.addresses)
        both[1].kill()
        _call(client, f"/journal/{here}/send", {"to": there, "entries": ENTRIES})
        for number in range(50):
            assert _call(client, f"/journal/{here}/append", {"entry": f"e{number}"}) == number + 1
        cluster.restart(0, wait=False)
        assert len(_call(client, f"/journal/{here}/view")[0]) == 50
        both[1].start()
        until(lambda: len(_call(client, f"/journal/{there}/view")[0]) == len(ENTRIES), "messages")
    note(
        "One of two databases goes away",
        "its server killed, then the machine's processes stopped and started without it",
        "actors of the other answered all along; what was sent to those of the first came later",
    )
