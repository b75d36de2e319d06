"""How members come and go, and what becomes of their shards."""

import asyncio

import pytest

from perdure.base.errors import StoreError

from .members import ALL, SHARDS, TTL_S, with_cluster

PORTION = 512


@with_cluster
async def test_a_process_alone_owns_everything_as_soon_as_it_has_started(cluster):
    only = await cluster.begin()
    took_s = await cluster.until(only.starting.done)
    assert only.members.state == "active"
    assert only.open == ALL
    assert took_s < 0.1


@with_cluster
async def test_three_members_share_everything_evenly(cluster):
    members = await cluster.start(3)
    assert all(SHARDS / 3 * 0.85 < len(one.open) < SHARDS / 3 * 1.15 for one in members)


@with_cluster
async def test_a_start_ends_when_all_that_should_be_its_own_is(cluster):
    await cluster.start(2)
    third = await cluster.begin()
    took_s = await cluster.until(third.starting.done)
    assert third.members.is_settled
    assert len(third.open) > SHARDS / 3 * 0.85
    assert took_s < 1


@with_cluster
async def test_a_start_does_not_wait_for_ever_for_an_owner_that_gives_nothing(cluster):
    [first] = await cluster.start()
    first.busy |= ALL
    second = await cluster.begin()
    took_s = await cluster.until(second.starting.done)
    await second.starting
    assert second.members.state == "active"
    assert not second.open
    assert took_s == pytest.approx(2 * TTL_S, abs=0.1)


@with_cluster
async def test_a_start_without_a_registry_fails(cluster):
    process = cluster.process()
    process.registry.is_down = True
    with pytest.raises(StoreError):
        await process.members.start()
    assert process.members.state == "joining"


@with_cluster
async def test_a_member_that_joins_moves_only_what_it_gets(cluster):
    await cluster.start(3)
    fourth = await cluster.begin()
    await cluster.settled()
    assert cluster.moved() == len(fourth.open)


@with_cluster
async def test_members_that_cannot_reach_each_other_learn_of_a_member_by_renewing(cluster):
    first, _ = await cluster.start(2)
    third = cluster.process()
    third.is_linked = False
    await cluster.begin(third)
    took_s = await cluster.settled()
    assert took_s < 2 * TTL_S / 3
    assert len(first.open) < SHARDS / 2


@with_cluster
async def test_a_drained_member_gives_everything_away_and_leaves(cluster):
    _, _, third = await cluster.start(3)
    owned = len(third.open)
    took_s = await cluster.while_passing(third.members.drain(cluster.clock.monotonic_s() + 30))
    assert third.members.state == "left"
    assert third.registry.calls["hand_over"] >= owned / PORTION
    await cluster.settled()
    assert cluster.moved() == owned
    assert took_s < 1


@with_cluster
async def test_no_shard_waits_long_for_its_owner_while_a_member_is_drained(cluster):
    members = await cluster.start(3)
    for one in members:
        one.registry.request_s = one.registry.answer_s = 0.01
    drain = asyncio.create_task(members[2].members.drain(cluster.clock.monotonic_s() + 30))
    waiting_since_s = {}
    while not drain.done():
        await cluster.pass_s(0.01)
        now_s = cluster.clock.monotonic_s()
        waiting = ALL - set().union(*(one.open for one in members))
        waiting_since_s = {shard: waiting_since_s.get(shard, now_s) for shard in waiting}
        assert now_s - min(waiting_since_s.values(), default=now_s) < 0.1
    await drain


@with_cluster
async def test_the_last_member_leaves_without_waiting_for_heirs(cluster):
    [only] = await cluster.start()
    took_s = await cluster.while_passing(only.members.drain(cluster.clock.monotonic_s() + 30))
    assert only.members.state == "left"
    assert not only.open
    assert took_s < 0.2
    await cluster.start()
    assert cluster.living[-1].open == ALL


@with_cluster
async def test_a_drain_ends_at_its_deadline_and_leaves_the_rest_to_others(cluster):
    first, second = await cluster.start(2)
    stuck = set(sorted(second.open)[:3])
    second.busy |= stuck
    took_s = await cluster.while_passing(second.members.drain(cluster.clock.monotonic_s() + 5))
    assert took_s == pytest.approx(5, abs=0.1)
    assert second.members.state == "left"
    await cluster.until(lambda: first.open == ALL)


@with_cluster
async def test_a_drain_while_the_database_is_away_ends_at_its_deadline(cluster):
    _, second = await cluster.start(2)
    second.registry.is_down = True
    took_s = await cluster.while_passing(second.members.drain(cluster.clock.monotonic_s() + 2))
    assert took_s == pytest.approx(2, abs=0.1)
    assert second.members.state == "left"
    assert not second.open


@with_cluster
async def test_who_leaves_at_once_has_no_lease_when_the_registry_hears_of_it(cluster):
    first, second = await cluster.start(2)
    second.registry.request_s = 1.0
    leave = asyncio.create_task(second.members.leave())
    await cluster.pass_s(0)
    assert not second.holds_lease
    await cluster.until(leave.done)
    await cluster.until(lambda: first.open == ALL)


@with_cluster
async def test_a_shard_whose_turn_runs_is_handed_over_when_it_has_ended(cluster):
    [first] = await cluster.start()
    first.busy |= ALL
    second = await cluster.begin()
    await cluster.pass_s(1)
    assert first.open == ALL
    first.busy = set(sorted(ALL)[:10])
    await cluster.pass_s(1.5)
    assert first.busy <= first.open
    assert len(second.open) > SHARDS * 0.4
    first.busy.clear()
    await cluster.settled()


@with_cluster
async def test_a_rolling_restart_moves_each_members_shards_out_and_in_and_nothing_else(cluster):
    members = await cluster.start(3)
    for old in members:
        owned = len(old.open)
        await cluster.while_passing(old.members.drain(cluster.clock.monotonic_s() + 30))
        await cluster.settled()
        assert cluster.moved() == owned
        new = await cluster.begin()
        await cluster.settled()
        assert cluster.moved() == len(new.open)


@with_cluster
async def test_a_member_that_comes_and_dies_moves_nothing_but_its_own_shards(cluster):
    first, second = await cluster.start(2)
    before = set(first.open), set(second.open)
    for _ in range(3):
        short_lived = await cluster.begin()
        await cluster.pass_s(1)
        owned = len(short_lived.open)
        await cluster.crash(short_lived)
        await cluster.settled()
        assert cluster.moved() == 2 * owned
    assert (first.open, second.open) == before


@with_cluster
async def test_three_that_start_at_once_move_each_shard_less_than_twice(cluster):
    for _ in range(3):
        await cluster.begin()
    await cluster.settled()
    assert cluster.moved() < 2 * SHARDS
