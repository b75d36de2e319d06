"""Owners that others are wrong about: suspected to be dead, or gone without knowing it."""

import threading
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from tests.faults.cluster_lab import CUT_OFF_TOLD, Caller, Cluster, Load
from tests.faults.database import Database
from tests.faults.frame_proxy import Proxy
from tests.faults.lab import note, run, unhurried
from tests.faults.supervised import free_port, until

pytestmark = [pytest.mark.faults, *unhurried]

LEASE_S = 3.0


def _wait(database: Database, pause_s: float) -> None:
    """Wait until the database's clock has moved on so far."""
    sql = "SELECT extract(epoch FROM clock_timestamp())::float8"
    end_s = database.tells(sql) + pause_s
    until(lambda: database.tells(sql) >= end_s, "time to pass")


def test_an_owner_at_whose_address_nobody_answers_is_not_taken_for_dead(
    database: Database, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        cluster = stack.enter_context(Cluster(tmp_path, database.url))
        own = ("127.0.0.21", free_port())
        proxy = stack.enter_context(Proxy(own, ports=2))
        cluster.add(web=1, state=1)
        cluster.add(web=0, state=1, cluster=own, advertise=proxy.address)
        sql = "SELECT count(DISTINCT owner) = 2 AND min(owner) > 0 FROM perdure_shard"
        until(lambda: database.asks(sql), "shards for both")
        before = database.tells("SELECT version FROM perdure_cluster")
        load = stack.enter_context(Load(cluster.addresses))
        load.wait_for_more(60)
        proxy.refuse()
        until(lambda: load.history.has_waited(0.5), "calls that wait")
        _wait(database, LEASE_S / 3)
        assert database.tells("SELECT version FROM perdure_cluster") == before
        proxy.accept()
        load.wait_for_more(100)
        checked = load.check()
        assert set(load.history.errors) <= CUT_OFF_TOLD, (load.history.errors, cluster.logs())
    note(
        "An owner seems dead to its peers",
        "its address refuses connections, while the database has its session",
        f"it kept its shards; calls for it were refused until it was there again; {checked}",
    )


def test_a_read_at_an_owner_that_was_replaced_without_knowing_is_not_stale(
    database: Database, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        proxy = stack.enter_context(Proxy((database.host, database.port)))
        cluster = stack.enter_context(Cluster(tmp_path, database.url))
        cluster.add(wait=False)
        cluster.add(wait=False, store=database.url_by(proxy.address))
        cluster.wait_served()
        here, there = cluster.machines
        load = Load(lambda: [here.address], lists=32)
        sql = "SELECT count(DISTINCT owner) = 2 AND min(owner) > 0 FROM perdure_shard"
        until(lambda: database.asks(sql), "shards for both")
        key = load.list_of(there.owner())
        load.append_to(key, "one")
        proxy.close()
        sql = "SELECT count(*) FROM perdure_member WHERE address = $1"
        until(lambda: database.asks(sql, there.member) == 0, "a take-over")
        assert load.append_to(key, "two") == 2
        told: list[tuple[int, list[str]]] = []

        async def read() -> None:
            with closing(Caller(lambda: [there.address])) as caller:
                status, body = await caller.call(f"/journal/{key}/view")
                told.append((status, body[0] if status == 200 else []))

        reader = threading.Thread(target=lambda: run(read()))
        reader.start()
        reader.join(1)  # a stale answer would be here at once
        proxy.open()
        reader.join(40)
    [(status, entries)] = told
    assert status != 200 or entries == ["one", "two"], entries
    note(
        "An owner was replaced without knowing",
        "its connections to the database are cut for longer than its lease, then it is asked",
        f"it answered nothing of its own memory: {status}, after the database was back",
    )
