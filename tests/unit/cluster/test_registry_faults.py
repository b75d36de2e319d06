"""The database away, set back, or with another time; calls whose answers get lost."""

import pytest

from perdure.base.errors import FencedError
from perdure.store.memory_registry import MemoryRegistry

from .members import ALL, TTL_S, with_cluster


@with_cluster
async def test_when_the_database_was_away_for_long_nobody_loses_anything(cluster):
    members = await cluster.start(3)
    for one in members:
        one.registry.is_down = True
    await cluster.pass_s(3 * TTL_S)
    assert not any(one.holds_lease for one in members)
    for one in members:
        one.registry.is_down = False
    await cluster.pass_s(2 * TTL_S)
    assert all(one.holds_lease for one in members)
    assert not any(one.falls for one in members)
    assert cluster.moved() == 0


@with_cluster
async def test_who_alone_cannot_reach_the_database_is_taken_out_and_comes_back(cluster):
    first, second, third = await cluster.start(3)
    await cluster.pass_s(TTL_S)
    third.registry.is_down = True
    took_s = await cluster.until(lambda: first.open | second.open == ALL)
    assert took_s < TTL_S + 0.2
    assert not third.holds_lease
    third.registry.is_down = False
    await cluster.settled()
    assert len(third.falls) == 1


@with_cluster
async def test_a_jump_of_the_databases_clock_takes_nobody_out(cluster):
    members = await cluster.start(3)
    await cluster.pass_s(2 * TTL_S)
    cluster.database_clock.jumped_s = 3600
    await cluster.pass_s(2 * TTL_S)
    assert not any(one.falls for one in members)
    assert cluster.moved() == 0


@with_cluster
async def test_a_database_that_was_set_back_makes_everybody_join_anew(cluster):
    *members, third = await cluster.start(3)
    await cluster.while_passing(third.members.drain(cluster.clock.monotonic_s() + 30))
    replica = MemoryRegistry(cluster.database_clock, cluster.sessions.__contains__)
    for _ in members:  # it has got that they joined, and nothing that came later
        await replica.join("", "", "", TTL_S, "")
    cluster.registry = replica
    for one in members:
        one.registry.database = replica
        one.lose_session()
    await cluster.until(lambda: all(one.falls for one in members))
    await cluster.settled()
    assert all(len(one.falls) == 1 for one in members)
    assert all(isinstance(one.falls[0], FencedError) for one in members)


@with_cluster
async def test_a_hand_over_whose_answer_gets_lost_moves_nothing_twice(cluster):
    [first] = await cluster.start()
    first.registry.answers_lost["hand_over"] = 1
    second = await cluster.begin()
    await cluster.settled()
    assert first.registry.answers_lost["hand_over"] == 0
    assert cluster.moved() == len(second.open)


@with_cluster
async def test_what_was_handed_over_unheard_is_not_opened_again(cluster):
    [first] = await cluster.start()
    first.registry.request_s = 0.05
    first.registry.answers_lost["hand_over"] = 1
    second = await cluster.begin()
    await cluster.until(lambda: first.registry.answers_lost["hand_over"] == 0)
    first.registry.is_down = True
    await cluster.pass_s(TTL_S / 2)
    assert second.open
    assert second.open <= first.closed
    assert not first.reopened
    first.registry.is_down = False
    await cluster.settled()


@with_cluster
async def test_a_shard_stays_closed_until_it_is_known_who_owns_it(cluster):
    [first] = await cluster.start()
    first.registry.request_s = 0.02
    await cluster.begin()
    await cluster.until(lambda: first.closed)
    first.registry.is_down = True
    await cluster.pass_s(1)
    closed = set(first.closed)
    assert closed
    assert not closed & first.open
    first.registry.is_down = False
    await cluster.settled()


@with_cluster
async def test_a_shard_that_was_another_s_meanwhile_is_read_anew(cluster):
    [first] = await cluster.start()
    first.registry.request_s = 0.05
    first.registry.answers_lost["hand_over"] = 1
    second = await cluster.begin()
    await cluster.until(lambda: first.registry.answers_lost["hand_over"] == 0)
    first.registry.is_down = True
    given = set(first.closed)
    await cluster.until(lambda: given <= second.open)
    await cluster.crash(second)
    heirs = dict.fromkeys(ALL, first.stands_on)
    await cluster.registry.take_over(second.stands_on, heirs, seen_dead=True)
    cluster.moved()
    first.registry.is_down = False
    await cluster.settled()
    assert given <= set().union(*first.gains)


@with_cluster
async def test_a_take_over_whose_answer_gets_lost_is_made_once(cluster):
    first, second, third = await cluster.start(3)
    owned = len(third.open)
    await cluster.crash(third)
    second.is_linked = False
    first.registry.answers_lost["take_over"] = 1
    first.members.peer_died(third.stands_on)
    await cluster.settled()
    assert cluster.moved() == owned


@with_cluster
async def test_a_join_whose_answer_gets_lost_leaves_nobody_who_is_given_shards(cluster):
    first, second = await cluster.start(2)
    second.registry.answers_lost["join"] = 1
    second.members.fenced(FencedError("out"))
    took_s = await cluster.settled()
    assert second.registry.answers_lost["join"] == 0
    assert took_s < 1
    assert len(first.open | second.open) == len(ALL)


@with_cluster
async def test_a_departure_that_does_not_arrive_ends_with_the_lease(cluster):
    first, second = await cluster.start(2)
    second.registry.is_down = True
    await cluster.while_passing(second.members.leave())
    assert second.members.state == "left"
    took_s = await cluster.until(lambda: first.open == ALL)
    assert took_s == pytest.approx(TTL_S, abs=1.1)
