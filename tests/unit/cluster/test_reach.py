"""Who is taken to be cut off, and who is waited for."""

from tests.unit.cluster.wiring import MemoryNetwork, Process, member, passes

from perdure.base.limits import Limits
from perdure.cluster.reach import lease_ends_s
from perdure.store.registry import Member, View
from perdure.testing import VirtualClock, async_test

PEER = member(2, "there")
TTL_S = Limits().lease_ttl_s


class Pair:
    """One process, and a member that it was linked to until now."""

    def __init__(self) -> None:
        self.network, self.clock = MemoryNetwork(), VirtualClock()
        self.here = Process(self.network, 1, clock=self.clock)
        self.there = Process(self.network, 2, clock=self.clock)

    async def lose(self) -> float:
        """Link the two, and cut them from each other; returns when."""
        await self.there.links.listen("there")
        self.here.links.want([PEER])
        await self.clock.advance(5)
        assert self.here.links.link_to(2, "there") is not None
        self.network.is_stuck = True
        self.network.transports[-1].abort()
        await passes()
        return self.clock.monotonic_s()

    def saw_renewal(self, at_s: float) -> None:
        self.here.links.saw_leases({2: at_s + TTL_S})

    @property
    def is_cut_off(self) -> bool:
        return self.here.links.is_cut_off(2)


@async_test
async def test_who_renewed_its_lease_after_its_link_broke_is_cut_off_in_a_second() -> None:
    pair = Pair()
    lost_s = await pair.lose()
    pair.saw_renewal(lost_s + 1.0)
    await pair.clock.advance(1.0)
    assert not pair.is_cut_off
    await pair.clock.advance(0.3)
    assert pair.is_cut_off


@async_test
async def test_who_renewed_its_lease_before_its_link_broke_may_be_dead_and_is_waited_for() -> None:
    pair = Pair()
    lost_s = await pair.lose()
    for at_s in (lost_s - 1, lost_s, lost_s + 0.4):  # the last was under way when it died
        pair.saw_renewal(at_s)
        await pair.clock.advance(0.7)
        assert not pair.is_cut_off


@async_test
async def test_who_was_cut_off_and_died_then_is_waited_for() -> None:
    pair = Pair()
    lost_s = await pair.lose()
    pair.saw_renewal(lost_s + 1.0)
    await pair.clock.advance(1.0 + TTL_S - 0.1)
    assert pair.is_cut_off
    await pair.clock.advance(0.2)
    assert not pair.is_cut_off


@async_test
async def test_attempts_that_fail_again_and_again_count_from_the_first() -> None:
    pair = Pair()
    lost_s = await pair.lose()
    await pair.clock.advance(Limits().link_connect_s)  # now it is refused at once
    pair.network.is_stuck, pair.network.failure = False, OSError("no route")
    await pair.clock.advance(3.0)
    assert pair.network.attempts > 3
    pair.saw_renewal(lost_s + 4.5)
    assert pair.is_cut_off


@async_test
async def test_a_member_that_is_linked_again_is_not_cut_off() -> None:
    pair = Pair()
    lost_s = await pair.lose()
    pair.saw_renewal(lost_s + 2.0)
    await pair.clock.advance(1.5)
    assert pair.is_cut_off
    pair.network.is_stuck = False
    await pair.clock.advance(2.5)
    pair.saw_renewal(pair.clock.monotonic_s())
    assert pair.here.links.link_to(2, "there") is not None
    assert not pair.is_cut_off


@async_test
async def test_a_member_that_was_never_reached_is_cut_off_as_any() -> None:
    pair = Pair()
    pair.network.is_stuck = True
    pair.here.links.want([PEER])
    pair.saw_renewal(1.0)
    await pair.clock.advance(1.0)
    assert not pair.is_cut_off
    await pair.clock.advance(0.3)
    assert pair.is_cut_off


def test_nobody_is_cut_off_who_is_not_wanted_or_whose_lease_is_not_known() -> None:
    here = Process(MemoryNetwork(), 1)
    assert not here.links.is_cut_off(2)


def test_leases_are_counted_from_before_the_question_and_those_that_are_over_left_out() -> None:
    members = [Member(1, "a", "x", "", lease_left_ms=1500), Member(2, "b", "y", "", "active", -1)]
    assert lease_ends_s(View(1, members, None), 10.0) == {1: 11.5}
