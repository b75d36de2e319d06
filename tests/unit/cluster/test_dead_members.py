"""What becomes of the shards of a process that died, froze, or only seemed to be dead."""

from perdure.base.errors import FencedError

from .members import ALL, TTL_S, with_cluster


@with_cluster
async def test_a_killed_member_is_taken_out_as_soon_as_its_lease_is_over(cluster):
    _, _, third = await cluster.start(3)
    await cluster.pass_s(2 * TTL_S)
    owned = len(third.open)
    await cluster.crash(third)
    took_s = await cluster.settled()
    assert took_s < TTL_S + 0.2
    assert cluster.moved() == owned


@with_cluster
async def test_a_member_that_its_peers_have_seen_dead_is_taken_out_at_once(cluster):
    first, second, third = await cluster.start(3)
    owned = len(third.open)
    await cluster.crash(third)
    for one in (first, second):
        one.members.peer_died(third.stands_on)
    took_s = await cluster.settled()
    assert took_s < 0.1
    assert cluster.moved() == owned


@with_cluster
async def test_a_dead_member_is_tried_again_until_its_session_is_gone(cluster):
    first, second = await cluster.start(2)
    await cluster.crash(second, keep_session=True)
    first.members.peer_died(second.stands_on)
    await cluster.pass_s(0.3)
    assert first.open != ALL
    cluster.sessions.discard(second.stands_on)
    took_s = await cluster.settled()
    assert took_s < 0.1


@with_cluster
async def test_a_living_member_that_was_called_dead_keeps_its_shards(cluster):
    first, second = await cluster.start(2)
    owned = set(second.open)
    first.members.peer_died(second.stands_on)
    await cluster.pass_s(2 * TTL_S)
    assert second.open == owned
    assert not second.falls
    calls = first.registry.calls["take_over"]
    await cluster.pass_s(TTL_S)
    assert first.registry.calls["take_over"] == calls


@with_cluster
async def test_nothing_is_handed_over_to_a_member_that_was_seen_dead(cluster):
    [first] = await cluster.start()
    first.busy |= ALL
    second = await cluster.begin()
    await cluster.pass_s(1)
    await cluster.crash(second, keep_session=True)
    first.members.peer_died(second.stands_on)
    first.busy.clear()
    await cluster.pass_s(1)
    assert first.open == ALL
    assert first.registry.calls["hand_over"] == 0


@with_cluster
async def test_who_was_seen_dead_inherits_nothing(cluster):
    first, second, third = await cluster.start(3)
    owned = len(third.open)
    await cluster.crash(second)
    await cluster.crash(third, keep_session=True)
    for dead in (second, third):
        first.members.peer_died(dead.stands_on)
    await cluster.pass_s(0.3)
    assert len(first.open) == len(ALL) - owned
    await cluster.settled()


@with_cluster
async def test_one_of_two_takers_wins(cluster):
    first, second, third = await cluster.start(3)
    owned = len(third.open)
    await cluster.crash(third)
    for one in (first, second):
        one.registry.request_s = 0.05  # both have asked before the first is answered
        one.registry.calls.clear()
        one.members.peer_died(third.stands_on)
    await cluster.settled()
    assert first.registry.calls["take_over"] > 0
    assert second.registry.calls["take_over"] > 0
    assert cluster.moved() == owned


@with_cluster
async def test_a_frozen_member_is_fenced_when_it_wakes_and_joins_anew(cluster):
    first, second, third = await cluster.start(3)
    owned, incarnation = len(third.open), third.stands_on
    third.freeze()
    await cluster.until(lambda: first.open | second.open == ALL)
    assert not third.holds_lease
    assert cluster.moved() == owned
    third.thaw()
    took_s = await cluster.until(lambda: not third.open)
    assert took_s < 0.1
    [fall] = third.falls
    assert isinstance(fall, FencedError)
    await cluster.settled()
    assert third.stands_on > incarnation
    assert third.members.state == "active"
    assert cluster.moved() == len(third.open)


@with_cluster
async def test_a_freeze_that_is_shorter_than_the_lease_moves_nothing(cluster):
    _, second = await cluster.start(2)
    owned = set(second.open)
    for _ in range(3):
        second.freeze()
        await cluster.pass_s(TTL_S * 0.6)
        second.thaw()
        await cluster.pass_s(0.5)
    assert second.open == owned
    assert cluster.moved() == 0


@with_cluster
async def test_a_commit_that_was_refused_ends_the_membership_at_once(cluster):
    first, second = await cluster.start(2)
    second.freeze()
    await cluster.until(lambda: first.open == ALL)
    second.frozen = False  # and its commit comes before its renewal
    second.members.fenced(FencedError("refused"))
    assert second.members.state == "fenced"
    assert not second.open
    assert not second.holds_lease
    second.thaw()
    await cluster.settled()
    assert len(second.falls) == 1


@with_cluster
async def test_the_error_of_a_former_life_leaves_nobody_behind(cluster):
    _, second = await cluster.start(2)
    second.members.fenced(FencedError("late, of another incarnation"))
    took_s = await cluster.settled()
    assert len(second.falls) == 1
    assert took_s < 1


@with_cluster
async def test_a_process_that_starts_again_at_its_address_need_not_wait_for_its_lease(cluster):
    first = await cluster.begin()
    await cluster.settled()
    await cluster.crash(first)
    again = await cluster.begin(cluster.process(first.address))
    took_s = await cluster.settled()
    assert took_s < 0.1
    assert again.open == ALL


@with_cluster
async def test_a_process_that_starts_again_elsewhere_waits_for_the_lease(cluster):
    first = await cluster.begin()
    await cluster.settled()
    await cluster.crash(first)
    again = await cluster.begin()
    took_s = await cluster.until(again.starting.done)
    await again.starting
    assert again.open == ALL
    assert TTL_S * 0.6 < took_s < 2 * TTL_S
