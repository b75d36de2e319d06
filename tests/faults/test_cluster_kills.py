"""Owners are killed (scenarios 1, 2 and 21), and how long it takes until others are at their place.

Three ways to die: on the machine that its callers are on, too; on another machine, whose system
closes the sockets; and together with the network, so that nobody hears of it.
"""

import os
import signal
from pathlib import Path

import pytest
from tests.faults.cluster_lab import Cluster, Load, Machine
from tests.faults.database import Database
from tests.faults.far_cluster import FarCluster
from tests.faults.lab import IS_LONG, note, seeded, unhurried
from tests.faults.network import needs_network
from tests.faults.supervised import until

from perdure.base.points import COMMIT_POINTS

pytestmark = [pytest.mark.faults, *unhurried]

FAILOVERS = int(os.environ.get("PERDURE_FAILOVERS", "2"))
GRACE_S = 0.0 if IS_LONG else 5.0  # the machine may be busy with other tests
LEASE_S = 3.0


def _told(waits_s: list[float]) -> str:
    """Percentiles."""
    ordered = sorted(waits_s)
    p50, p99 = (ordered[int(len(ordered) * part)] for part in (0.5, 0.99))
    return f"answers took at most {p50:.2f} s (p50), {p99:.2f} s (p99), {ordered[-1]:.2f} s (max)"


def _check(waits_s: list[float], bound_s: float) -> None:
    p99_s = sorted(waits_s)[int(len(waits_s) * 0.99)]
    assert p99_s < bound_s + GRACE_S, f"{p99_s:.2f} s: {sorted(waits_s)}"


def test_owners_die_on_one_machine_and_callers_only_wait(
    database: Database, tmp_path: Path
) -> None:
    random = seeded()
    waits_s = []
    with Cluster(tmp_path, database.url) as cluster:
        cluster.add(web=1, state=3)
        [machine] = cluster.machines
        with Load(cluster.addresses) as load:
            for _ in range(FAILOVERS):
                load.wait_for_more(60)
                titles = {pid: title for pid, title in machine.titles().items() if "state" in title}
                pid, title = random.choice(sorted(titles.items()))
                key = load.list_of(pid)
                killed_ns = load.history.now_ns()
                os.kill(pid, signal.SIGKILL)
                waits_s.append(load.wait_for_owner(key, killed_ns))
                machine.wait_for_log(f"serving again pid={machine.pid_of(title, other_than=pid)}")
            checked = load.check()
        assert not load.history.errors, cluster.logs()
    _check(waits_s, 1.0)
    note(
        "Failover, same machine",
        f"kill -9 of the state process that owns a list in use, {FAILOVERS} times, under load",
        f"{_told(waits_s)}; no error; {checked}",
    )


@needs_network
@pytest.mark.parametrize("is_silent", [False, True], ids=["seen", "silent"])
def test_owners_die_on_another_machine(tmp_path: Path, is_silent: bool) -> None:
    waits_s = []
    with FarCluster(tmp_path) as far:
        victim = far.machines[2]
        with far.load() as load:
            for _ in range(FAILOVERS):
                load.wait_for_more(60)
                pid = victim.owner()
                key = load.list_of(pid)
                killed_ns = load.history.now_ns()
                if is_silent:
                    far.network.cut("n3")
                os.kill(pid, signal.SIGKILL)
                waits_s.append(load.wait_for_owner(key, killed_ns))
                far.network.heal()
                victim.pid_of("state-1", other_than=pid)
                far.wait_for_members(3)
            checked = load.check()
        assert not load.history.errors, far.cluster.logs()
    _check(waits_s, LEASE_S + 1 if is_silent else 1.0)
    note(
        "Failover, another machine, " + ("cut off silently" if is_silent else "its socket closes"),
        f"kill -9 of a state process that owns lists in use, {FAILOVERS} times, under load"
        + (", and no packet from or to its machine" if is_silent else ""),
        f"{_told(waits_s)}; no error; {checked}",
    )


DEATHS = int(os.environ.get("PERDURE_DEATHS", "1"))  # at each point
HERD = int(os.environ.get("PERDURE_HERD", "200"))  # waiting clients; ten times as many actors


def test_owners_die_at_every_point_of_a_commit(database: Database, tmp_path: Path) -> None:
    """Their supervisor starts them again, and so they die at the same point again."""
    points = (*COMMIT_POINTS, "after_lease_check") if IS_LONG else COMMIT_POINTS[3:6]
    with Cluster(tmp_path, database.url) as cluster:
        cluster.add(web=1, state=1)
        for point in points:
            fault = {"PERDURE_FAULT": f"{point}:kill:60"}
            cluster.add(web=0, state=1, environment=fault, wait=False)
        cluster.wait_served()
        mortal = cluster.machines[1:]
        with Load(cluster.addresses, lists=32) as load:
            until(lambda: min(map(_deaths, mortal)) >= DEATHS, "deaths", 60 + 30 * DEATHS)
            load.wait_for_more(60)
            checked = load.check()
        deaths = sum(map(_deaths, mortal))
        assert not load.history.errors, cluster.logs()
    note(
        "kill -9 at a point of a commit",
        f"{deaths} deaths of owners, at each of {len(points)} points from turn to reply",
        f"others went on; no error; {checked}",
    )


def _deaths(machine: Machine) -> int:
    return machine.log().count("died (SIGKILL)")


def test_a_herd_finds_its_owner_dead(database: Database, tmp_path: Path) -> None:
    with Cluster(tmp_path, database.url) as cluster:
        cluster.add(2, web=1, state=1)
        with Load(cluster.addresses, clients=HERD, lists=10 * HERD) as load:
            load.wait_for_more(12 * HERD, 120)
            pid = cluster.machines[1].owner()
            key = load.list_of(pid)
            killed_ns = load.history.now_ns()
            os.kill(pid, signal.SIGKILL)
            wait_s = load.wait_for_owner(key, killed_ns)
            sessions = database.asks(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            )
            checked = load.check()
        assert not load.history.errors, cluster.logs()
    assert wait_s < 30
    assert sessions < 60
    note(
        "A herd finds its owner dead",
        f"kill -9 of the owner of half of {10 * HERD:,} actors, with {HERD:,} clients",
        f"all answered within {wait_s:.2f} s, {sessions} sessions of the database; {checked}",
    )
