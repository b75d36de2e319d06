"""The disk under PostgreSQL is full (scenario 10), and has room again."""

import signal
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.faults.cluster_lab import Caller, Cluster, Load
from tests.faults.database import Database
from tests.faults.lab import note, unhurried
from tests.faults.supervised import until
from tests.faults.test_disks import mounted

pytestmark = [pytest.mark.faults, *unhurried]


def _ask(load: Load, path: str, body: Any = None) -> tuple[int, Any]:
    async def call() -> tuple[int, Any]:
        caller = Caller(load._addresses)
        answer = await caller.call(path, "", body)
        caller.close()
        return answer

    answer: tuple[int, Any] = load.in_place(call())
    return answer


def test_a_full_disk_refuses_writes_and_reads_go_on(tmp_path: Path) -> None:
    with Database() as database:
        place = database.place_for("small")
        with mounted(place, "-t", "tmpfs", "-o", "size=4m", "tmpfs"), ExitStack() as stack:
            stack.callback(database.stop, signal.SIGINT)  # before its disk goes
            database.keep_tables_in(place)
            database.use_another()
            with Cluster(tmp_path, database.url) as cluster:
                cluster.add(1, web=1, state=1)
                client = Load(cluster.addresses)
                acknowledged, refusal = _fill(client)
                assert (refusal["status"], refusal["type"].rpartition(":")[2]) == (
                    503,
                    "store-full",
                )
                for key in list(acknowledged)[:3]:
                    status, body = _ask(client, f"/journal/{key}/view")
                    assert (status, body[0]) == (200, acknowledged[key])
                subprocess.run(["mount", "-o", "remount,size=64m", str(place)], check=True)
                until(
                    lambda: _ask(client, "/journal/after/append", {"entry": "x"})[0] == 200, "room"
                )
                for key, entries in acknowledged.items():
                    assert _ask(client, f"/journal/{key}/view")[1][0] == entries
    note(
        "A full disk under PostgreSQL (tablespace on a tmpfs of 4 MB), made larger",
        f"{len(acknowledged)} states until 503 store-full",
        "reads went on, writes resumed by themselves; nothing acknowledged was lost",
    )


def _fill(client: Load) -> tuple[dict[str, list[str]], Any]:
    acknowledged: dict[str, list[str]] = {}
    for number in range(1_000):
        entry = f"{number}-" + "".join(f"{number * 7919 + n:x}" for n in range(3_000))
        status, body = _ask(client, f"/journal/full-{number}/append", {"entry": entry})
        if status != 200:
            return acknowledged, body
        acknowledged[f"full-{number}"] = [entry]
    raise AssertionError("the disk did not fill up")
