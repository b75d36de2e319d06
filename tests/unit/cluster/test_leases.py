"""How long a member may answer, by its own clock, and when it renews."""

import math

import pytest

from .members import TTL_S, with_cluster

MARGIN_S = TTL_S / 10


@with_cluster
async def test_there_is_no_lease_before_joining_nor_after_leaving(cluster):
    process = cluster.process()
    assert process.members.lease_until_s == -math.inf
    await cluster.begin(process)
    assert process.holds_lease
    await cluster.while_passing(process.members.leave())
    assert process.members.lease_until_s == -math.inf


@with_cluster
async def test_a_lease_is_counted_from_before_the_renewal_was_sent_and_ends_early(cluster):
    [only] = await cluster.start()
    only.registry.request_s = only.registry.answer_s = 0.4
    before = only.members.lease_until_s
    await cluster.until(lambda: only.members.lease_until_s > before)
    now_s = cluster.clock.monotonic_s()
    assert only.members.lease_until_s == pytest.approx(now_s - 0.8 + TTL_S - MARGIN_S, abs=0.02)


@with_cluster
async def test_a_lease_is_renewed_every_third_of_it(cluster):
    [only] = await cluster.start()
    calls = only.registry.calls["renew"]
    await cluster.pass_s(10 * TTL_S)
    assert 30 <= only.registry.calls["renew"] - calls <= 34


@with_cluster
async def test_a_lease_is_void_when_the_session_is_lost_until_it_is_renewed(cluster):
    [only] = await cluster.start()
    only.registry.request_s = 0.1
    only.lose_session()
    assert not only.holds_lease
    took_s = await cluster.until(lambda: only.holds_lease)
    assert took_s == pytest.approx(0.1, abs=0.02)
    assert not only.falls


@with_cluster
async def test_a_renewal_that_was_sent_before_the_session_was_lost_makes_no_lease(cluster):
    [only] = await cluster.start()
    only.registry.answer_s = 0.2
    calls = only.registry.calls["renew"]
    await cluster.until(lambda: only.registry.calls["renew"] > calls)
    only.lose_session()
    await cluster.pass_s(0.25)
    assert only.registry.calls["renew"] == calls + 2
    assert not only.holds_lease
    await cluster.until(lambda: only.holds_lease)


@with_cluster
async def test_many_hints_cost_one_renewal(cluster):
    [only] = await cluster.start()
    calls = only.registry.calls["renew"]
    for _ in range(100):
        only.members.behind(only.members.map.version + 1)
    await cluster.pass_s(0.05)
    assert only.registry.calls["renew"] == calls + 1


@with_cluster
async def test_a_hint_of_what_is_known_costs_nothing(cluster):
    [only] = await cluster.start()
    calls = only.registry.calls["renew"]
    only.members.behind(only.members.map.version)
    await cluster.pass_s(0.05)
    assert only.registry.calls["renew"] == calls


@with_cluster
async def test_while_the_database_is_away_it_is_asked_again_at_bounded_intervals(cluster):
    [only] = await cluster.start()
    only.registry.is_down = True
    await cluster.pass_s(TTL_S)
    calls = only.registry.calls["renew"]
    await cluster.pass_s(10 * TTL_S)
    assert 30 <= only.registry.calls["renew"] - calls <= 130
    only.registry.is_down = False
    took_s = await cluster.settled()
    assert took_s < TTL_S / 3
