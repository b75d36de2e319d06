"""Owners are killed on machines that share one database (scenario 2), and what callers see of it."""

import os
import signal
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.faults.cluster_lab import Cluster, Load, errors_of
from tests.faults.database import Database
from tests.faults.lab import note, seeded
from tests.faults.supervised import until

pytestmark = pytest.mark.faults

KILLS = int(os.environ.get("PERDURE_KILLS", "4"))


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    with Database() as one:
        yield one


def test_owners_die_on_one_machine_and_callers_only_wait(
    database: Database, tmp_path: Path
) -> None:
    random = seeded()
    waits_s = []
    with Cluster(tmp_path, database.url) as cluster:
        cluster.add(web=1, state=3)
        [machine] = cluster.machines
        with Load(cluster.addresses) as load:
            for _ in range(KILLS):
                load.wait_for_more(60)
                titles = {title: pid for pid, title in machine.titles().items()}
                title = random.choice([one for one in titles if one.startswith("state")])
                killed_ns = load.history.now_ns()
                os.kill(titles[title], signal.SIGKILL)
                load.wait_for_more(200)
                waits_s.append(load.history.slowest_s(killed_ns))
                again = machine.pid_of(title, other_than=titles[title])
                machine.wait_for_log(f"serving again pid={again}")
            checked = load.check()
        print(dict(load.history.errors), sorted(waits_s))
        assert not load.history.errors, machine.log()
