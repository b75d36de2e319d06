"""The database goes away and comes back (scenario 11), or another takes its place (12)."""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.faults.cluster_lab import Cluster, Load, errors_of
from tests.faults.database import Database
from tests.faults.frame_proxy import Proxy
from tests.faults.lab import IS_LONG, note, seeded, unhurried
from tests.faults.supervised import until

pytestmark = [pytest.mark.faults, *unhurried]

RESTARTS = int(os.environ.get("PERDURE_RESTARTS", "2"))
OUTAGE_MAX_S = 1.0


@pytest.fixture
def mortal() -> Iterator[Database]:
    """A server that may be killed."""
    with Database() as one:
        yield one


def test_the_database_is_killed_and_starts_again(mortal: Database, tmp_path: Path) -> None:
    choices = seeded()
    with Cluster(tmp_path, mortal.url) as cluster:
        cluster.add(2, web=1, state=1)
        with Load(cluster.addresses) as load:
            for _ in range(RESTARTS):
                load.wait_for_more(100)
                mortal.kill()
                back_s = time.monotonic() + choices.random() * OUTAGE_MAX_S
                until(lambda: time.monotonic() >= back_s, "the end of the outage")  # noqa: B023
                mortal.start()
            load.wait_for_more(200)
            checked = load.check()
        assert not load.history.errors, f"{load.history.errors}\n{cluster.logs()}"
    note(
        "The database is killed",
        f"kill -9 of the postmaster under load, {RESTARTS} times, away for up to {OUTAGE_MAX_S} s",
        f"no error; {checked}",
    )


@pytest.mark.parametrize("way", ["hosts", "proxy"] if IS_LONG else ["hosts"])
def test_a_synchronous_replica_takes_over_and_nothing_is_lost(tmp_path: Path, way: str) -> None:
    with ExitStack() as stack:
        primary = stack.enter_context(Database())
        replica = stack.enter_context(primary.replica())
        primary.be_synchronous(on=True)
        proxy = stack.enter_context(Proxy((primary.host, primary.port)))
        both = [(one.host, one.port) for one in (primary, replica)]
        url = primary.url_by(proxy.address) if way == "proxy" else primary.url_by(*both)
        cluster = stack.enter_context(Cluster(tmp_path, url))
        cluster.add(2, web=1, state=1)
        load = stack.enter_context(Load(cluster.addresses))
        load.wait_for_more(200)
        killed_ns = load.history.now_ns()
        primary.kill()
        replica.promote()
        proxy.target = (replica.host, replica.port)
        proxy.cut_all()
        load.wait_for_more(300)
        checked = load.check()
        wait_s = load.history.slowest_s(killed_ns)
        assert not errors_of(load.history, "keyed", "read"), cluster.logs()
        errors = dict(load.history.errors)
    note(
        f"Database failover, synchronous, found by {way}",
        "kill -9 of the primary under load, its replica is promoted",
        f"nothing acknowledged was lost, errors: {errors or 'none'}, longest wait {wait_s:.1f} s;"
        f" {checked}",
    )


@pytest.mark.parametrize("then", ["reads", "writes"] if IS_LONG else ["reads"])
def test_a_replica_that_lags_takes_over_and_what_is_lost_stays_lost(
    tmp_path: Path, then: str
) -> None:
    """Memory that is newer than the store is thrown away, and never comes back by a commit."""
    with ExitStack() as stack:
        primary = stack.enter_context(Database())
        wire = stack.enter_context(Proxy((primary.host, primary.port)))
        replica = stack.enter_context(primary.replica(wire.address))
        proxy = stack.enter_context(Proxy((primary.host, primary.port)))
        cluster = stack.enter_context(Cluster(tmp_path, primary.url_by(proxy.address)))
        cluster.add(2, web=1, state=1)
        load = stack.enter_context(Load(cluster.addresses, name="before"))
        load.wait_for_more(200)
        load.end()
        until(lambda: replica.has_all_of(primary), "the replica")
        kept = load.states()
        wire.close()
        late = {key: load.append_to(key, f"lost-{key}") for key in kept}
        assert all(load.states()[key] == [*kept[key], f"lost-{key}"] for key in kept)
        primary.kill()
        replica.promote()
        proxy.target = (replica.host, replica.port)
        proxy.cut_all()
        if then == "writes":
            for key in kept:
                load.append_to(key, f"new-{key}")
                kept[key].append(f"new-{key}")
        until(lambda: load.states() == kept, f"the truth:\n{cluster.logs()}")
        logs = cluster.logs()
        assert "set back" in logs or "forgotten commits" in logs or "FencedError" in logs, logs
    note(
        f"Database failover, asynchronous, then {then} alone",
        f"the replica had not got {len(late)} acknowledged commits when the primary was killed",
        "memory was thrown away, the loss is in the log, and nothing lost came back",
    )
