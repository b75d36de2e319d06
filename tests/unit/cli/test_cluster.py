"""`perdure cluster`: what it shows, what a probe hears, and draining."""

import asyncio
import json
import socket

import asyncpg
import pytest

from perdure.base.shards import SHARDS
from perdure.cli import cluster
from perdure.cli.failures import NO_INPUT, NOT_YET, USAGE
from perdure.store.memory_registry import MemoryRegistry
from perdure.store.registry import NOBODY
from perdure.testing import VirtualClock
from perdure.testing.postgres import fresh_database

from .invoking import perdure

HOST = socket.gethostname()
URL = "postgresql://db/shop"


class Members:
    """A registry, and members in it."""

    def __init__(self):
        self.clock = VirtualClock()
        self.registry = MemoryRegistry(self.clock)
        self.numbers = []

    def join(self, *names, lease_s=3.0):
        for name in names:
            joining = self.registry.join(name, "tcp:10.0.0.5:7000", "1.0", lease_s, "key")
            self.numbers.append(asyncio.run(joining))

    def give(self, heir_of):
        heirs = {shard: heir_of(shard) for shard in range(SHARDS)}
        asyncio.run(self.registry.take_over(NOBODY, heirs, seen_dead=False))

    def state_of(self, number):
        view = asyncio.run(self.registry.view(0))
        return {one.incarnation: one.state for one in view.members}[number]


@pytest.fixture
def members(monkeypatch):
    made = Members()
    monkeypatch.setattr(cluster, "registry_from_url", lambda _url: made.registry)
    return made


def ready():
    return perdure("cluster", "--ready", "--store", URL)


def drain(*arguments):
    return perdure("cluster", "drain", *arguments, "--store", URL)


def test_members_are_shown_with_what_they_own(members):
    members.join("shop-1/state-1", "shop-2/state-1")
    members.give(lambda shard: 1 if shard < 1000 else 2 if shard < 3000 else NOBODY)
    done = perdure("cluster", "--store", URL)
    assert done.exit_code == 0
    lines = [" ".join(line.split()) for line in done.output.splitlines()]
    assert lines[0] == "incarnation name address release state lease left shards"
    assert lines[1] == "1 shop-1/state-1 tcp:10.0.0.5:7000 1.0 active 3.0 s 1000"
    assert lines[2] == "2 shop-2/state-1 tcp:10.0.0.5:7000 1.0 active 3.0 s 2000"
    assert "1,096 of 4,096 shards without an owner" in done.output


def test_the_same_as_json(members):
    members.join("shop-1/state-1")
    members.give(lambda _: 1)
    told = json.loads(perdure("cluster", "--json", "--store", URL).output)
    assert told["members"] == [
        {
            "incarnation": 1,
            "name": "shop-1/state-1",
            "address": "tcp:10.0.0.5:7000",
            "release": "1.0",
            "state": "active",
            "lease_left_ms": 3000,
            "shards": SHARDS,
        }
    ]
    assert told["shards"] == SHARDS
    assert told["shards_without_owner"] == 0
    assert told["version"] == 3


def test_a_lease_that_is_over_is_told(members):
    members.join("shop-1/state-1", lease_s=-1.0)
    assert " over " in perdure("cluster", "--store", URL).output


@pytest.mark.parametrize("store", ["sqlite:data", "memory:"])
def test_a_store_of_one_owner_has_no_members(store):
    done = perdure("cluster", "--store", store)
    assert done.exit_code == USAGE
    assert "has one owner and no members" in done.errors


def test_a_machine_whose_members_own_their_part_is_ready(members):
    members.join(f"{HOST}/state-1", "other/state-1")
    members.give(lambda shard: 1 + shard % 2)
    assert ready().exit_code == 0


@pytest.mark.parametrize(
    ("names", "owner", "why"),
    [
        (["other/state-1"], 1, "no member on"),
        ([f"{HOST}x/state-1"], 1, "no member on"),
        ([f"{HOST}/state-1", "other/state-1"], 2, "owns nothing yet"),
        ([f"{HOST}/state-1", "other/state-1"], NOBODY, "owns nothing yet"),
    ],
)
def test_a_machine_that_has_no_part_yet_is_not_ready(members, names, owner, why):
    members.join(*names)
    members.give(lambda _: owner)
    done = ready()
    assert done.exit_code == NOT_YET
    assert why in done.errors


def test_no_machine_is_ready_while_a_shard_has_no_living_owner(members):
    members.join(f"{HOST}/state-1")
    members.give(lambda shard: 1 if shard else NOBODY)
    assert "1 shards have no living owner" in ready().errors
    members.join("dead/state-1", lease_s=-1.0)
    members.give(lambda _: 2)
    assert "1 shards have no living owner" in ready().errors


def test_a_machine_whose_own_lease_is_over_is_not_ready(members):
    members.join(f"{HOST}/state-1", lease_s=-1.0)
    members.give(lambda _: 1)
    assert ready().exit_code == NOT_YET


def test_a_machine_that_was_drained_is_ready_without_a_shard(members):
    members.join(f"{HOST}/state-1", "other/state-1")
    members.give(lambda _: 2)
    assert drain(f"{HOST}/state-1").exit_code == 0
    assert ready().exit_code == 0


@pytest.mark.parametrize("node", ["1", "a/state-1", "a"])
def test_a_member_is_drained_by_incarnation_name_or_prefix(members, node):
    members.join("a/state-1", "b/state-1")
    members.give(lambda _: 1)
    assert drain(node).exit_code == 0
    assert members.state_of(1) == "draining"
    assert members.state_of(2) == "active"


def test_a_name_that_is_exact_wins_over_longer_ones(members):
    members.join("a/state-10", "a/state-1", "b/state-1")
    assert drain("a/state-1").exit_code == 0
    assert members.state_of(2) == "draining"


def test_which_member_is_meant_is_never_guessed(members):
    members.join("a/state-1", "a/state-2", "b/state-1")
    done = drain("a/")
    assert done.exit_code == USAGE
    assert "1 (a/state-1), 2 (a/state-2)" in done.errors
    assert drain("c").exit_code == NO_INPUT
    assert {members.state_of(one) for one in members.numbers} == {"active"}


def test_nobody_is_drained_when_there_is_no_heir(members):
    members.join("a/state-1")
    members.join("dead/state-1", lease_s=-1.0)
    members.give(lambda _: 1)
    done = drain("a/state-1")
    assert done.exit_code == USAGE
    assert "nobody else is there to take the 4,096 shards" in done.errors
    assert members.state_of(1) == "active"


def test_a_drain_that_waits_ends_when_nothing_is_owned_any_more(members):
    members.join("a/state-1", "b/state-1")
    members.give(lambda _: 1)
    asking = members.registry.ask_to_drain

    async def ask(number):
        asked = await asking(number)
        version = (await members.registry.view(0)).version
        handing = members.registry.hand_over(1, dict.fromkeys(range(SHARDS), 2), version)
        asyncio.get_running_loop().call_soon(asyncio.ensure_future, handing)
        return asked

    members.registry.ask_to_drain = ask
    done = drain("a", "--wait")
    assert done.exit_code == 0
    assert "owns nothing any more" in done.errors


def test_a_drain_does_not_wait_for_ever(members, monkeypatch):
    members.join("a/state-1", "b/state-1")
    members.give(lambda _: 1)
    monkeypatch.setattr(cluster, "_WAIT_S", 0.01)
    monkeypatch.setattr(cluster, "_LOOK_S", 0.001)
    done = drain("a", "--wait")
    assert done.exit_code == NOT_YET
    assert "still owns 4,096 shards" in done.errors


def test_looking_at_a_foreign_database_creates_nothing_there():
    url = fresh_database()
    done = perdure("cluster", "--store", url)
    assert done.exit_code == NO_INPUT
    assert "no cluster has ever run on this database" in done.errors

    async def tables():
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetchval(
                "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
            )
        finally:
            await connection.close()

    assert asyncio.run(tables()) == 0
