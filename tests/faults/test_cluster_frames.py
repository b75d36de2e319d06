"""What passes between processes is lost, late, twice or out of order (scenarios 13 and 14)."""

import os
import random
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.faults.cluster_lab import CUT_OFF_TOLD, Cluster, Load, errors_of
from tests.faults.database import Database
from tests.faults.frame_proxy import Bytes, Cutting, Mangling, Passing, Proxy, Silencing
from tests.faults.lab import note, seeded, unhurried
from tests.faults.supervised import free_port, until

pytestmark = [pytest.mark.faults, *unhurried]

ANSWERS = int(os.environ.get("PERDURE_ANSWERS", "600"))
REFUSED_S = 7.0  # a link is silent for a lease; its owner is seen to live; it is dialled again
RATES = {"cut": 0.2, "drop": 0.2, "swap": 0.3, "double": 2.0, "delay": 1.0}


def _cutting(
    choices: random.Random, faults: Counter[str], *mosts: int
) -> Callable[[], tuple[Bytes, Bytes]]:
    """Connections that end before some answer gets through, after so many bytes at most."""
    return lambda: (Passing(), Cutting(choices.randrange(1, choices.choice(mosts)), faults))


def test_frames_are_lost_doubled_swapped_and_late(database: Database, tmp_path: Path) -> None:
    choices, faults = seeded(), Counter[str]()

    def streams() -> tuple[Bytes, Bytes]:
        return Mangling(1, RATES, choices, faults), Mangling(2, RATES, choices, faults)

    with ExitStack() as stack:
        cluster = stack.enter_context(Cluster(tmp_path, database.url))
        for number in (1, 2):
            own = (f"127.0.0.{20 + number}", free_port())
            proxy = stack.enter_context(Proxy(own, streams, ports=2))
            cluster.add(web=1, state=1, cluster=own, advertise=proxy.address)
        load = stack.enter_context(Load(cluster.addresses))
        load.wait_for_more(ANSWERS, 300)
        checked = load.check()
        assert not load.history.errors, cluster.logs()
    assert set(faults) == set(RATES) or ANSWERS <= 600, faults
    assert faults["double"] > 0
    assert faults["cut"] + faults["drop"] + faults["swap"] > 0
    told = ", ".join(f"{count} {fault}" for fault, count in sorted(faults.items()))
    note("Frames between processes", f"frames mangled, by seed: {told}", f"no error; {checked}")


@pytest.mark.parametrize("cut", ["ended", "silent"])
def test_an_owner_that_lives_cannot_be_reached(
    database: Database, tmp_path: Path, cut: str
) -> None:
    """Its links end, or fall silent; it has its lease, and keeps its actors (scenario 15)."""
    is_silent = threading.Event()
    with ExitStack() as stack:
        cluster = stack.enter_context(Cluster(tmp_path, database.url))
        own = ("127.0.0.23", free_port())
        proxy = Proxy(own, lambda: (Silencing(is_silent), Silencing(is_silent)), ports=2)
        stack.enter_context(proxy)
        cluster.add(web=1, state=1, cluster=own, advertise=proxy.address)
        cluster.add(web=1, state=1)
        before = database.tells("SELECT version FROM perdure_cluster")
        load = stack.enter_context(Load(cluster.addresses))
        load.wait_for_more(60)
        if cut == "ended":
            proxy.close()
        else:
            is_silent.set()
        until(lambda: len(load.refused_after_s) >= 60, "refusals", 60)
        is_silent.clear()
        proxy.open()
        healed_ns = load.history.now_ns()
        until(lambda: not load.history.waits_since_before(healed_ns), "answers", 40)
        load.wait_for_more(60)
        checked = load.check()
        errors = dict(load.history.errors)
        assert set(errors) <= CUT_OFF_TOLD, (errors, cluster.logs())
        assert database.tells("SELECT version FROM perdure_cluster") == before
    slowest_s = max(load.refused_after_s)
    at_once = sum(one < 1.0 for one in load.refused_after_s)
    assert slowest_s < (4.0 if cut == "ended" else REFUSED_S), sorted(load.refused_after_s)[-10:]
    assert at_once > 20
    note(
        f"An owner lives and cannot be reached: links {cut}",
        "all links to an owner cut off by a proxy, until 60 calls were refused",
        f"no shard moved; refused after {slowest_s:.1f} s at most, {at_once} of"
        f" {len(load.refused_after_s)} calls within 1 s; {checked}",
    )


def test_answers_of_the_database_are_lost(database: Database, tmp_path: Path) -> None:
    choices, faults = seeded(), Counter[str]()
    place = (database.host, database.port)
    with Proxy(place) as proxy, Cluster(tmp_path, database.url_by(proxy.address)) as cluster:
        cluster.add(2, web=1, state=1)
        proxy.streams = _cutting(choices, faults, 1_000, 3_000, 200_000)
        proxy.cut_all()
        with Load(cluster.addresses) as load:
            load.wait_for_more(ANSWERS, 300)
            checked = load.check()
        errors = dict(load.history.errors)
        assert not errors_of(load.history, "keyed", "read"), errors
        assert not errors, errors
    assert faults["cut"] > 3
    note(
        "Answers of the database are lost",
        f"{faults['cut']} connections to PostgreSQL cut before an answer got through",
        f"no error; {checked}",
    )


def test_answers_to_clients_are_lost(database: Database, tmp_path: Path) -> None:
    choices, faults = seeded(), Counter[str]()
    with Cluster(tmp_path, database.url) as cluster, ExitStack() as stack:
        cluster.add(2, web=1, state=1)
        proxies = [
            stack.enter_context(Proxy(address, _cutting(choices, faults, 8_000)))
            for address in cluster.addresses()
        ]
        with Load(lambda: [proxy.address for proxy in proxies]) as load:
            load.wait_for_more(ANSWERS, 300)
            load.end()
            for proxy in proxies:
                proxy.streams = lambda: (Passing(), Passing())
            checked = load.check()
        assert not errors_of(load.history, "keyed", "read")
        assert load.history.errors["keyed again"] > 0
    assert checked.unknown > 0
    note(
        "Answers to clients are lost",
        f"{faults['cut']} connections of clients cut before an answer got through",
        f"the same key got the same answer {load.history.errors['keyed again']} times; {checked}",
    )
