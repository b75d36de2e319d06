"""Members that are asked to drain, hand-overs that come late, and clusters with another key."""

import asyncio

import pytest

from perdure.base.errors import FencedError, OtherClusterError

from .members import ALL, TTL_S, with_cluster


@with_cluster
async def test_who_is_asked_to_drain_gives_everything_away_and_stays(cluster):
    first, second, third = await cluster.start(3)
    owned = len(second.open)
    assert await cluster.registry.ask_to_drain(second.stands_on)
    await cluster.until(lambda: not second.open and not second.closed)
    await cluster.settled()
    assert first.open | third.open == ALL
    assert cluster.moved() == owned
    assert second.members.state == "active"
    await cluster.pass_s(3 * TTL_S)
    assert not second.open
    assert second.holds_lease
    assert cluster.registry.is_fenced(second.stands_on) is False


@with_cluster
async def test_who_was_asked_to_drain_owns_nothing_also_after_a_fall(cluster):
    first, second = await cluster.start(2)
    await cluster.registry.ask_to_drain(second.stands_on)
    await cluster.until(lambda: first.open == ALL)
    former = second.stands_on
    second.members.fenced(FencedError("a commit was refused"))
    await cluster.until(lambda: second.members.incarnation > former)
    await cluster.pass_s(2 * TTL_S)
    assert first.open == ALL
    assert not second.open


@with_cluster
async def test_a_process_that_starts_anew_after_a_drain_owns_shards_again(cluster):
    first, second = await cluster.start(2)
    await cluster.registry.ask_to_drain(second.stands_on)
    await cluster.until(lambda: first.open == ALL)
    await cluster.while_passing(second.members.drain(cluster.clock.monotonic_s() + 30))
    second.alive = False
    [third] = await cluster.start()
    assert third.open
    assert first.open | third.open == ALL


@with_cluster
async def test_the_last_who_could_own_shards_keeps_them_when_asked_to_drain(cluster):
    first, second = await cluster.start(2)
    for one in (first, second):
        await cluster.registry.ask_to_drain(one.stands_on)
    await cluster.pass_s(2 * TTL_S)
    assert first.open | second.open == ALL


@with_cluster
async def test_who_drains_is_no_heir(cluster):
    first, second, third = await cluster.start(3)
    await cluster.registry.ask_to_drain(second.stands_on)
    await cluster.until(lambda: not second.open)
    await cluster.crash(third)
    first.members.peer_died(third.stands_on)
    await cluster.until(lambda: first.open == ALL)
    assert not second.open


@with_cluster
async def test_a_hand_over_that_is_delivered_late_takes_nothing_back(cluster):
    [first] = await cluster.start()
    asked = []
    hand_over = cluster.registry.hand_over

    async def noting(*arguments):
        asked.append(arguments)
        return await hand_over(*arguments)

    cluster.registry.hand_over = noting
    [second] = await cluster.start()
    given = set(second.open)
    await cluster.while_passing(second.members.drain(cluster.clock.monotonic_s() + 30))
    second.alive = False
    await cluster.until(lambda: first.open == ALL)
    [third] = await cluster.start()
    before = await cluster.registry.view(0)
    late = [one for one in asked if one[0] == first.stands_on and given & one[1].keys()]
    assert given & first.open
    for incarnation, heirs, version in late[:1]:
        await hand_over(incarnation, dict.fromkeys(heirs, third.stands_on), version)
    assert (await cluster.registry.view(0)).version == before.version


@with_cluster
async def test_a_process_with_another_key_does_not_start_beside_members(cluster):
    [first] = await cluster.start()
    other = cluster.process()
    other.members._key_fingerprint = "another"
    starting = asyncio.create_task(other.members.start())
    took_s = await cluster.until(starting.done)
    with pytest.raises(OtherClusterError):
        await starting
    assert took_s == pytest.approx(2 * TTL_S, abs=TTL_S)
    assert first.open == ALL
    other.alive = False


@with_cluster
async def test_a_process_with_another_key_starts_as_soon_as_the_dead_have_no_lease(cluster):
    [first] = await cluster.start()
    await cluster.crash(first)
    other = cluster.process()
    other.members._key_fingerprint = "another"
    await cluster.begin(other)
    took_s = await cluster.until(lambda: other.open == ALL)
    assert took_s < 1.3 * TTL_S
    assert cluster.registry.is_fenced(first.stands_on)


@with_cluster
async def test_a_frozen_member_does_not_come_back_into_a_cluster_with_another_key(cluster):
    [first] = await cluster.start()
    first.freeze()
    other = cluster.process()
    other.members._key_fingerprint = "another"
    await cluster.begin(other)
    await cluster.until(lambda: other.open == ALL)
    first.thaw()
    await cluster.until(lambda: first.falls)
    await cluster.pass_s(3 * TTL_S)
    assert not first.open
    assert other.open == ALL
