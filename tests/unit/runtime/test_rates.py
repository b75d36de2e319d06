"""Rates in a cluster: one count for all processes, while their owners live, move and die."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest
from tests.unit.runtime.celled import celled
from tests.unit.runtime.several import LIMITS, Several, several, until

from perdure.base.errors import NotFoundError
from perdure.base.gcra import Verdict, policy
from perdure.base.shards import shard_of
from perdure.cluster.frames import Call
from perdure.runtime.cluster_node import ClusterNode
from perdure.runtime.gateway import Gateway
from perdure.runtime.rates import BUCKETS, Rates, _key_of
from perdure.testing import async_test

FIVE = (policy("five", limit=5, per_s=3600, burst=5),)
QUICK = (policy("quick", limit=20, per_s=1, burst=2),)


@dataclass
class Asked:
    """What a process was asked over links, and how often."""

    takes: int = 0


def _count_takes(node: ClusterNode) -> Asked:
    asked = Asked()
    call = node._reception.takers[Call]

    def counting(link: object, frame: Call) -> None:
        asked.takes += frame.actor_type == BUCKETS.name
        call(link, frame)  # type: ignore[arg-type]

    node._reception.takers[Call] = counting  # type: ignore[assignment]
    return asked


async def _take(rates: Rates, subject: str, policies: tuple = FIVE) -> Verdict:  # type: ignore[type-arg]
    verdict = rates.take(subject, policies)
    return await rates.ask(subject, policies) if verdict is None else verdict


async def _allowed(count: int, *take: Callable[[], Awaitable[Verdict]]) -> int:
    verdicts = await asyncio.gather(*(one() for _ in range(count) for one in take))
    return sum(verdict.allowed for verdict in verdicts)


def _subjects(cluster: Several, number: int, count: int = 1) -> list[str]:
    """Subjects for which this node counts."""
    found = (f"s{at}" for at in range(100_000))
    owned = cluster.nodes[number].owned
    return [one for one in found if shard_of(_key_of(one)) in owned][:count]


@async_test
async def test_all_processes_together_allow_exactly_the_limit() -> None:
    async with several(2) as cluster:
        for _ in range(2):
            await cluster.open_gateway()
        everyone = [Rates(one) for one in (*cluster.gateways, *cluster.nodes)]
        for subject in (*_subjects(cluster, 0, 3), *_subjects(cluster, 1, 3)):
            takes = [
                lambda rates=rates, subject=subject: _take(rates, subject) for rates in everyone
            ]
            assert await _allowed(10, *takes) == 5
        assert not any(rates._alone for rates in everyone)


@async_test
async def test_several_policies_of_one_subject_are_decided_on_together() -> None:
    async with several(1) as cluster:
        await cluster.open_gateway()
        rates = Rates(cluster.gateways[0])
        both = (*FIVE, policy("two", limit=2, per_s=3600, burst=2))
        assert await _allowed(9, lambda: _take(rates, "a", both)) == 2
        assert await _allowed(9, lambda: _take(rates, "a")) == 3


@async_test
async def test_a_flood_of_who_was_refused_asks_nobody() -> None:
    async with several(1) as cluster:
        await cluster.open_gateway()
        rates, asked = Rates(cluster.gateways[0]), _count_takes(cluster.nodes[0])
        for allowed in (True, True, False):
            verdict = await _take(rates, "a", QUICK)
            assert verdict.allowed == allowed
        assert asked.takes == 3
        refusals = 0
        while not (verdict := await _take(rates, "a", QUICK)).allowed:
            refusals += 1
            left, wait_ns = QUICK[0].left(verdict.ahead_ns[0])
            assert left == 0
            assert 0 < wait_ns <= QUICK[0].interval_ns
        assert refusals > 100
        assert asked.takes < 20


@async_test
async def test_what_is_given_back_far_away_can_be_had_again() -> None:
    async with several(1) as cluster:
        await cluster.open_gateway()
        rates = Rates(cluster.gateways[0])
        verdicts = [await _take(rates, "a") for _ in range(5)]
        rates.give_back("a", FIVE, verdicts[-1])
        allowed = (await _take(rates, "a")).allowed  # behind it, on one link
        assert allowed
        assert not (await _take(rates, "a")).allowed


@async_test
async def test_an_owner_that_dies_costs_one_burst() -> None:
    async with several(2) as cluster:
        await cluster.open_gateway()
        rates = Rates(cluster.gateways[0])
        [subject] = _subjects(cluster, 1)
        assert await _allowed(10, lambda: _take(rates, subject)) == 5
        rates = Rates(cluster.gateways[0])  # it has forgotten who was refused
        cluster.kill(1)
        await until(lambda: len(cluster.nodes[0].owned) == 4096)
        assert await _allowed(20, lambda: _take(rates, subject)) == 5
        assert await _allowed(20, lambda: _take(Rates(cluster.gateways[0]), subject)) == 0


@async_test
async def test_a_shard_that_moves_costs_one_burst() -> None:
    async with several(2) as cluster:
        await cluster.open_gateway()
        [subject] = _subjects(cluster, 1)
        assert await _allowed(10, lambda: _take(Rates(cluster.gateways[0]), subject)) == 5
        moving = asyncio.create_task(cluster.nodes[1].stop(5.0))
        cluster.dead.add(1)
        allowed = 0
        while not moving.done():
            verdict = await _take(Rates(cluster.gateways[0]), subject)
            allowed += verdict.allowed
        allowed += await _allowed(20, lambda: _take(Rates(cluster.gateways[0]), subject))
        assert allowed == 5
        await moving


@async_test
async def test_who_cannot_ask_waits_once_then_counts_alone_until_it_can() -> None:
    async with several(1) as cluster:
        await cluster.open_gateway()
        gateway = cluster.gateways[0]
        rates = Rates(gateway)
        assert await _allowed(3, lambda: _take(rates, "a")) == 3
        cluster.part(gateway)
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        assert await _allowed(9, lambda: _take(rates, "a")) == 5  # of its own
        assert LIMITS.rate_wait_s * 0.9 < loop.time() - began_s < LIMITS.rate_wait_s + 1.0
        assert rates._alone == 9
        assert rates.take("a", FIVE) is not None  # at once: nobody is waited for a second time
        cluster.heal(gateway)
        await until(lambda: rates.take("a", FIVE) is None)
        assert not (await _take(rates, "a")).allowed  # what was asked meanwhile has come through


@async_test
async def test_an_owner_of_an_older_release_makes_each_process_count_alone() -> None:
    async with several(1) as cluster:
        await cluster.open_gateway()
        rates = Rates(cluster.gateways[0])
        del cluster.nodes[0]._reception._types[BUCKETS.name]
        with pytest.raises(NotFoundError):
            cluster.nodes[0]._reception.method(BUCKETS.name, "take")
        assert await _allowed(9, lambda: _take(rates, "a")) == 5
        assert rates._alone == 9


@async_test
async def test_an_owner_whose_lease_is_over_does_not_count_at_once() -> None:
    async with several(1) as cluster:
        node, key = cluster.nodes[0], _key_of("a")
        assert node.counts_here(key)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(ClusterNode, "lease_until_s", node.now_s())
            assert not node.counts_here(key)
        assert node.counts_here(key)


@async_test
async def test_cells_share_the_subjects() -> None:
    async with celled(2) as cells:
        for _ in range(2):
            await cells.open_gateway()
        everyone = [Rates(one) for one in (*cells.gateways, *cells.nodes)]
        for subject in map(str, range(8)):
            takes = [
                lambda rates=rates, subject=subject: _take(rates, subject) for rates in everyone
            ]
            assert await _allowed(5, *takes) == 5
        assert not any(rates._alone for rates in everyone)
        assert all(len(node.counters) for node in cells.nodes)
        assert not any(len(gateway.counters) for gateway in cells.gateways)


@async_test
async def test_buckets_go_to_sleep_and_their_counts_stay() -> None:
    async with several(1) as cluster:
        await cluster.open_gateway()
        node = cluster.nodes[0]
        assert await _allowed(9, lambda: _take(Rates(cluster.gateways[0]), "a")) == 5
        assert len(node._catalog) == 1
        for _ in range(2):
            node._catalog.put_idle_to_sleep()
        assert len(node._catalog) == 0
        assert await _allowed(9, lambda: _take(Rates(cluster.gateways[0]), "a")) == 0
        assert isinstance(cluster.gateways[0], Gateway)
