"""The network between machines is cut (scenarios 13, 15, 16): nobody is told, packets just end."""

import os
from pathlib import Path

import pytest
from tests.faults.cluster_lab import CUT_OFF_TOLD
from tests.faults.far_cluster import FarCluster
from tests.faults.lab import IS_LONG, note, unhurried
from tests.faults.network import needs_network
from tests.faults.supervised import until

pytestmark = [pytest.mark.faults, needs_network, *unhurried]

CUTS = int(os.environ.get("PERDURE_CUTS", "1"))
LEASE_S = 3.0
REFUSED_S = 2 * LEASE_S + 1  # a link is silent for a lease; its owner is seen to live; dialled
SHAPES = {
    "whole": [("n3", ("n1", "n2"), 2)],
    "one-way": [("n3", ("n1", "n2"), 1)],
    "bridge": [("n3", ("n1",), 2)],  # n2 sees both
    "all apart": [("n3", ("n1", "n2"), 2), ("n1", ("n2",), 2)],
}


def _version(far: FarCluster) -> int:
    """Of who is there and who owns what."""
    return int(far.database.tells("SELECT version FROM perdure_cluster"))


def test_machines_are_cut_from_each_other_and_all_see_the_database(tmp_path: Path) -> None:
    """Calls for owners that a machine is cut off from are refused there; another may reach them."""
    with FarCluster(tmp_path) as far:
        far.wait_for_members(3)
        before = _version(far)
        with far.load() as load:
            waits_s = {}
            for shape, cuts in (
                [*SHAPES.items()] * CUTS if IS_LONG else [("bridge", SHAPES["bridge"])]
            ):
                load.wait_for_more(60)
                since_ns, refused = load.history.now_ns(), len(load.refused_after_s)
                for one, others, ways in cuts:
                    far.network.cut(one, *others, ways=ways)
                until(
                    lambda: (
                        load.history.has_waited(0.5) or len(load.refused_after_s) > refused  # noqa: B023
                    ),
                    "calls that wait, or are refused as links of the last cut are not there yet",
                )
                _let_pass(far, 2.5)
                far.network.heal()
                healed_ns = load.history.now_ns()
                until(lambda: not load.history.waits_since_before(healed_ns), "answers", 40)  # noqa: B023
                load.wait_for_more(60)
                waits_s[shape] = load.history.slowest_s(since_ns)
            checked = load.check()
        assert set(load.history.errors) <= CUT_OFF_TOLD, (load.history.errors, far.cluster.logs())
        assert _version(far) == before
        assert load.refused_after_s
        assert max(load.refused_after_s) < REFUSED_S, sorted(load.refused_after_s)[-10:]
    at_once = sum(one < 1.0 for one in load.refused_after_s)
    told = ", ".join(f"{shape} {wait_s:.1f} s" for shape, wait_s in waits_s.items())
    note(
        "Machines cut from each other",
        f"cuts between owners that all see the database: {', '.join(waits_s)}; each {CUTS} times",
        f"no shard moved; {len(load.refused_after_s)} calls were refused where their owners could"
        f" not be reached, {at_once} within 1 s, all within {max(load.refused_after_s):.1f} s;"
        f" keyed calls and reads were answered by other machines; longest waits: {told}; {checked}",
    )


def _let_pass(far: FarCluster, leases: float) -> None:
    """Wait until the database has given so many leases more to somebody."""
    sql = "SELECT extract(epoch FROM clock_timestamp())::float8"
    end_s = far.database.tells(sql) + leases * LEASE_S
    until(lambda: far.database.tells(sql) >= end_s, "time to pass")


def test_a_machine_is_cut_from_the_database_alone(tmp_path: Path) -> None:
    waits_s = []
    with FarCluster(tmp_path) as far:
        victim = far.machines[2]
        with far.load() as load:
            for _ in range(CUTS):
                load.wait_for_more(60)
                pid, before = victim.owner(), far.incarnation(victim)
                key = load.list_of(pid)
                since_ns = load.history.now_ns()
                far.network.cut("n3", "db")
                until(lambda: far.incarnation(victim) != before, "a take-over", 30)  # noqa: B023
                waits_s.append(load.wait_for_owner(key, since_ns))
                far.network.heal()
                far.wait_for_members(3)
            checked = load.check()
        assert not load.history.errors, far.cluster.logs()
    assert max(waits_s) < LEASE_S + 2 + (0 if IS_LONG else 5), waits_s
    note(
        "A machine cut from the database alone",
        f"no packet between an owner and the database, {CUTS} times; its callers still reach it",
        f"others answered after {max(waits_s):.1f} s at most, no error; {checked}",
    )


def test_answers_never_arrive_and_clients_ask_again(tmp_path: Path) -> None:
    """Between a client and its machine; the calls have come about."""
    with FarCluster(tmp_path) as far:
        with far.load(patience_s=1.5) as load:
            for host in ("n1", "n2") * CUTS:
                load.wait_for_more(60)
                far.network.cut(host, "c1", ways=1)
                until(lambda: load.history.has_waited(1), "calls that wait")
                load.wait_for_more(60)  # of the other machine
                far.network.heal()
            checked = load.check()
        again = load.history.errors["keyed again"] + load.history.errors["read again"]
    assert again > 0
    note(
        "Answers to clients never arrive",
        f"no packet from a machine to its clients until they ask another, {2 * CUTS} times",
        f"{again} keyed calls and reads sent again, once done; {checked}",
    )
