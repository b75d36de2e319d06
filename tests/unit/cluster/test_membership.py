"""Membership as a whole: how processes come and go, and what becomes of their shards."""

import asyncio

from perdure.base.shards import SHARDS

from .members import TTL_S, Cluster


def run(test):
    """Run a test with a cluster of its own."""

    def wrapped():
        async def inside():
            async with Cluster() as cluster:
                await test(cluster)

        asyncio.run(inside())

    wrapped.__name__ = test.__name__
    return wrapped


@run
async def test_a_process_alone_owns_everything_as_soon_as_it_has_started(cluster):
    [only] = await cluster.start()
    assert only.members.state == "active"
    assert only.open == set(range(SHARDS))
    assert cluster.clock.monotonic_s() < 0.1


@run
async def test_three_processes_share_everything_evenly(cluster):
    processes = await cluster.start(3)
    assert all(SHARDS / 3 * 0.85 < len(one.open) < SHARDS / 3 * 1.15 for one in processes)


@run
async def test_a_member_that_joins_moves_only_what_it_gets(cluster):
    await cluster.start(3)
    cluster.moved()
    [fourth] = await cluster.start()
    assert cluster.moved() == len(fourth.open)


@run
async def test_a_killed_member_is_taken_out_when_its_lease_is_over(cluster):
    one, two, three = await cluster.start(3)
    owned = len(three.open)
    cluster.moved()
    await cluster.crash(three)
    took_s = await cluster.settled()
    assert took_s < TTL_S + 0.2
    assert cluster.moved() == owned
