"""New code comes while callers are there (scenarios 22 and 23): machine by machine, and back."""

import os
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.faults.cluster_lab import APP, Cluster, Load, errors_of
from tests.faults.database import Database
from tests.faults.frame_proxy import Holding, Passing, Proxy
from tests.faults.lab import IS_LONG, note, unhurried
from tests.faults.supervised import until

from perdure.cluster.frames import VERSION

pytestmark = [pytest.mark.faults, *unhurried]

ROUNDS = int(os.environ.get("PERDURE_ROUNDS", "1"))
SOURCE = Path(__file__).parents[2] / "src"
NEWER_APP = APP.replace(
    "    owners: list[str] = []\n", "    owners: list[str] = []\n    note: str = 'new'\n"
)


def test_three_machines_are_restarted_one_by_one_and_no_request_fails(
    database: Database, tmp_path: Path
) -> None:
    with Cluster(tmp_path, database.url) as cluster:
        cluster.add(3)
        with Load(cluster.addresses) as load:
            for _ in range(ROUNDS):
                for number in range(3):
                    load.wait_for_more(100)
                    cluster.restart(number)
            load.wait_for_more(100)
            checked = load.check()
        assert not load.history.errors, f"{load.history.errors}\n{cluster.logs()}"
        slowest_s = load.history.slowest_s(0)
    note(
        "Rolling restart",
        f"SIGTERM to one of three machines after the other, under load, {ROUNDS} times",
        f"no request failed, keyed or not; longest wait {slowest_s:.2f} s; {checked}",
    )


def test_a_hand_over_waits_for_a_commit_that_is_on_its_way(
    database: Database, tmp_path: Path
) -> None:
    faults = Counter[str]()
    with ExitStack() as stack:
        proxy = stack.enter_context(Proxy((database.host, database.port)))
        proxy.streams = lambda: (Holding(b"held", 1.0, faults), Passing())
        cluster = stack.enter_context(Cluster(tmp_path, database.url))
        cluster.add(web=1, state=1, wait=False)
        cluster.add(web=0, state=1, wait=False, store=database.url_by(proxy.address))
        cluster.wait_served()
        sql = "SELECT count(DISTINCT owner) = 2 AND min(owner) > 0 FROM perdure_shard"
        until(lambda: database.asks(sql), "shards for both")
        load = Load(cluster.addresses, lists=32)
        leaving = cluster.machines[1]
        key = load.list_of(leaving.owner())
        with ThreadPoolExecutor(1) as beside:
            first = beside.submit(load.append_to, key, "held")
            until(lambda: faults["held"], "a commit on its way")
            leaving.process.terminate()
            sql = "SELECT count(*) > 0 FROM perdure_member WHERE state = 'draining'"
            until(lambda: database.asks(sql) or leaving.process.poll() is not None, "a drain")
            assert load.append_to(key, "next") == 2
            assert first.result() == 1
        assert leaving.process.wait(30) == 0
    note(
        "A hand-over with a commit on its way",
        "SIGTERM to an owner whose commit is held up for 1 s on its way to the database",
        "the shard was given away after the commit; no error",
    )


def _newer_source(folder: Path) -> Path:
    """The source as a later release may be: it speaks one more version of the wire."""
    newer = folder / "newer"
    shutil.copytree(SOURCE / "perdure", newer / "perdure", ignore=shutil.ignore_patterns("*.pyc"))
    frames = newer / "perdure" / "cluster" / "frames.py"
    text = frames.read_text()
    line = f"\nVERSION = {VERSION}\n"
    assert text.count(line) == 1
    frames.write_text(text.replace(line, f"\nVERSION = {VERSION + 1}\n"))
    return newer


@pytest.mark.parametrize("is_class_changed", [True, False] if IS_LONG else [True])
def test_two_releases_live_side_by_side_and_back(
    database: Database, tmp_path: Path, is_class_changed: bool
) -> None:
    newer = {"source": _newer_source(tmp_path), "app": NEWER_APP if is_class_changed else APP}
    older = {"source": None, "app": APP}
    with Cluster(tmp_path, database.url) as cluster:
        cluster.add(2)
        with Load(cluster.addresses) as load:
            for _ in range(ROUNDS):
                for number, changes in ((0, newer), (1, newer), (0, older), (1, older)):
                    load.wait_for_more(100)
                    cluster.restart(number, **changes)
            load.wait_for_more(100)
            checked = load.check()
        errors = errors_of(load.history, "keyed", "unkeyed", "read")
        if is_class_changed:  # the older class reads what the newer one wrote
            assert {one.partition(" ")[2] for one in errors} <= {"503 newer-state"}, errors
            assert not errors_of(load.history, "read")
        else:
            assert not load.history.errors, f"{load.history.errors}\n{cluster.logs()}"
    what = f", wire versions {VERSION} and {VERSION + 1}"
    if is_class_changed:
        what = ", a field more in the newer class"
    note(
        f"Two releases side by side, and back{what}",
        f"two machines under load replaced by a newer release and back, {ROUNDS} times",
        (
            f"{sum(errors.values())} writes refused (newer-state), no other error"
            if errors
            else "no error"
        )
        + f"; {checked}",
    )
