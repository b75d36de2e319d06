"""The links of a process: whom they reach, how often they try, and what they take for a death."""

import asyncio

import pytest
from tests.unit.cluster.wiring import (
    FakeTransport,
    MemoryNetwork,
    Process,
    caught_logs,
    identity,
    joined,
    member,
    passes,
)

from perdure.base.errors import HandshakeError, UnreachableError
from perdure.base.limits import Limits
from perdure.cluster.frames import Answer, Changed
from perdure.store.registry import Member
from perdure.testing import VirtualClock, async_test

PEER = member(2, "there")


@async_test
async def test_a_wanted_member_is_dialled_and_found() -> None:
    network = MemoryNetwork()
    here, there = Process(network, 1), Process(network, 2)
    assert await there.links.listen("there") == "there"
    here.links.want([PEER])
    assert here.links.link_to(2, "there") is None
    await passes()
    link = here.links.link_to(2, "there")
    assert link is not None
    assert link.peer == identity(2)
    assert here.handler.opened_links == [link]
    assert list(here.links.open_links()) == [link]
    assert [one.peer for one in there.links.open_links()] == [identity(1)]
    here.links.want([PEER])
    await passes()
    assert network.attempts == 1


@async_test
async def test_frames_go_both_ways_on_one_link() -> None:
    network = MemoryNetwork()
    here, there = Process(network, 1), Process(network, 2)
    await there.links.listen("there")
    there.handler.on_frame = lambda link, frame: link.send(Answer(1, b"yes"))
    here.links.want([PEER])
    await passes()
    link = here.links.link_to(2, "there")
    assert link is not None
    link.send(Changed("Cart", "anna"))
    await passes()
    assert there.handler.frames == [Changed("Cart", "anna")]
    assert here.handler.frames == [Answer(1, b"yes")]


@async_test
async def test_to_ask_for_a_link_is_to_dial_until_others_are_wanted() -> None:
    network = MemoryNetwork()
    here, there = Process(network, 1), Process(network, 2)
    await there.links.listen("there")
    assert here.links.link_to(2, "there") is None
    await passes()
    link = here.links.link_to(2, "there")
    assert link is not None
    here.links.want([])
    assert not link.is_open
    await passes()
    assert here.handler.closed_links == [link]
    assert here.handler.errors == [None]
    assert list(here.links.open_links()) == []
    assert list(there.links.open_links()) == []


@async_test
async def test_a_process_does_not_dial_itself() -> None:
    network = MemoryNetwork()
    here = Process(network, 1)
    here.links.want([member(1, "here")])
    await passes()
    assert network.attempts == 0


@async_test
async def test_a_member_where_nothing_listens_is_told_refused_again_and_again() -> None:
    network, clock = MemoryNetwork(), VirtualClock()
    here = Process(network, 1, clock=clock)
    here.links.want([PEER])
    await passes()
    assert here.handler.refusals == [PEER]
    await clock.advance(0.1)
    assert 3 <= network.attempts <= 5  # after 20, 40, 80 ms, each by half more or less
    await clock.advance(20)
    assert 15 <= network.attempts <= 45  # a second each, and not in step
    assert len(here.handler.refusals) == network.attempts
    assert here.handler.failures == []


@pytest.mark.parametrize("failure", [FileNotFoundError("gone"), ConnectionRefusedError("no")])
def test_both_ways_in_which_a_listener_can_be_gone_are_refusals(failure: OSError) -> None:
    @async_test
    async def body() -> None:
        network = MemoryNetwork()
        network.failure = failure
        here = Process(network, 1)
        here.links.want([PEER])
        await passes()
        assert here.handler.refusals == [PEER]

    body()


@pytest.mark.parametrize("failure", [OSError("no route"), TimeoutError(), ValueError("bad")])
def test_any_other_failure_says_nothing_about_its_life(failure: Exception) -> None:
    @async_test
    async def body() -> None:
        network = MemoryNetwork()
        network.failure = failure
        here = Process(network, 1)
        here.links.want([PEER])
        await passes()
        assert here.handler.refusals == []
        assert len(here.handler.failures) == 1

    body()


@async_test
async def test_an_attempt_to_connect_has_a_deadline() -> None:
    network, clock = MemoryNetwork(), VirtualClock()
    network.is_stuck = True
    here = Process(network, 1, clock=clock)
    here.links.want([PEER])
    await clock.advance(1.9)
    assert here.handler.failures == []
    await clock.advance(0.15)
    assert [type(error) for error in here.handler.failures] == [UnreachableError]
    network.is_stuck = False
    there = Process(network, 2)
    await there.links.listen("there")
    await clock.advance(3)
    assert here.links.link_to(2, "there") is not None


@async_test
async def test_another_start_at_the_same_address_is_a_refusal() -> None:
    """It is proven to be of the cluster, and it is not who was wanted: that one is gone."""
    network = MemoryNetwork()
    here, there = Process(network, 1), Process(network, 3)
    await there.links.listen("there")
    here.links.want([PEER])
    await passes()
    assert here.handler.refusals == [PEER]
    assert here.handler.opened_links == []
    assert here.links.link_to(2, "there") is None
    assert list(here.links.open_links()) == []


@async_test
async def test_a_stranger_at_the_address_is_no_evidence_of_death() -> None:
    network = MemoryNetwork()
    here = Process(network, 1)
    there = Process(network, 2, key=b"the key of another cluster")
    await there.links.listen("there")
    with caught_logs():
        here.links.want([PEER])
        await passes()
    assert here.handler.refusals == []
    assert [type(error) for error in here.handler.failures] == [HandshakeError]
    assert here.handler.closed_links + there.handler.closed_links == []  # as they never opened


@async_test
async def test_a_link_that_is_closing_is_not_given_out() -> None:
    network = MemoryNetwork()
    here, there = Process(network, 1), Process(network, 2)
    await there.links.listen("there")
    here.links.want([PEER])
    await passes()
    link = here.links.link_to(2, "there")
    assert link is not None
    link.close()
    assert here.links.link_to(2, "there") is None


@async_test
async def test_a_connection_that_comes_too_late_is_not_kept() -> None:
    network, clock = MemoryNetwork(), VirtualClock()
    here = Process(network, 1, clock=clock)
    network.is_stuck = True
    here.links.want([PEER])
    await clock.advance(2.01)
    late = FakeTransport(network.protocols[0])
    network.protocols[0].connection_made(late)
    await passes()
    assert late.is_closed
    assert here.handler.opened_links == []


@async_test
async def test_a_link_that_lasted_is_dialled_again_at_once() -> None:
    network, clock = MemoryNetwork(), VirtualClock()
    here, there = Process(network, 1, clock=clock), Process(network, 2, clock=clock)
    await there.links.listen("there")
    here.links.want([PEER])
    await clock.advance(5)
    network.transports[0].abort()
    await passes()
    assert len(here.handler.closed_links) == 1
    assert network.attempts == 2
    link = here.links.link_to(2, "there")
    assert link is not None
    assert here.handler.opened_links == [*here.handler.closed_links, link]


@async_test
async def test_a_link_that_breaks_each_time_is_not_dialled_in_a_hurry() -> None:
    network, clock = MemoryNetwork(), VirtualClock()
    here, there = Process(network, 1, clock=clock), Process(network, 2, clock=clock)
    await there.links.listen("there")
    here.handler.opened = lambda link: link.close()  # type: ignore[method-assign]
    here.links.want([PEER])
    await clock.advance(10)
    assert 10 <= network.attempts <= 30


@async_test
async def test_who_is_wanted_no_longer_is_not_dialled_again() -> None:
    network, clock = MemoryNetwork(), VirtualClock()
    here = Process(network, 1, clock=clock)
    here.links.want([PEER])
    await clock.advance(1)
    before = network.attempts
    here.links.want([])
    await clock.advance(10)
    assert network.attempts == before


@async_test
async def test_an_attempt_under_way_is_given_up_when_it_is_wanted_no_longer() -> None:
    network, clock = MemoryNetwork(), VirtualClock()
    network.is_stuck = True
    here = Process(network, 1, clock=clock)
    here.links.want([PEER])
    await passes()
    here.links.want([])
    await clock.advance(10)
    assert network.attempts == 1
    assert here.handler.failures + here.handler.refusals == []


@async_test
async def test_a_handler_that_raises_does_not_end_the_attempts() -> None:
    network, clock = MemoryNetwork(), VirtualClock()
    here = Process(network, 1, clock=clock)

    def fail(member: Member) -> None:
        raise RuntimeError("bug")

    here.handler.refused = fail  # type: ignore[method-assign]
    with caught_logs() as records:
        here.links.want([PEER])
        await clock.advance(5)
    assert network.attempts > 3
    assert len(records) == network.attempts


@async_test
async def test_links_that_come_in_are_bounded() -> None:
    network = MemoryNetwork()
    there = Process(network, 2, limits=Limits(links_max=2))
    await there.links.listen("there")
    processes = [Process(network, number) for number in range(10, 13)]
    for one in processes:
        one.links.want([PEER])
        await passes()
    opened = [one.links.link_to(2, "there") is not None for one in processes]
    assert opened == [True, True, False]
    assert [type(error) for error in processes[2].handler.failures] == [HandshakeError]
    assert len(list(there.links.open_links())) == 2
    await processes[0].links.close()
    await passes()
    late = Process(network, 13)
    late.links.want([PEER])
    await passes()
    assert late.links.link_to(2, "there") is not None


@async_test
async def test_connections_that_say_nothing_count_and_go() -> None:
    network, clock = MemoryNetwork(), VirtualClock()
    there = Process(network, 2, clock=clock, limits=Limits(links_max=1))
    await there.links.listen("there")
    _, end = joined(asyncio.Protocol(), network.listeners["there"]())
    with caught_logs():
        here = Process(network, 1, clock=clock)
        here.links.want([PEER])
        await clock.advance(1)
        assert here.links.link_to(2, "there") is None
        await clock.advance(6)
    assert end.is_aborted
    assert here.links.link_to(2, "there") is not None


@async_test
async def test_close_ends_all_links_and_takes_no_more() -> None:
    network, clock = MemoryNetwork(), VirtualClock()
    here, there = Process(network, 1, clock=clock), Process(network, 2, clock=clock)
    await here.links.listen("here")
    await there.links.listen("there")
    here.links.want([PEER])
    there.links.want([member(1, "here")])
    await clock.advance(2)
    assert len(list(here.links.open_links())) == 2
    await here.links.close()
    assert list(here.links.open_links()) == []
    assert here.handler.errors == [None, None]
    assert set(here.handler.closed_links) == set(here.handler.opened_links)
    await passes()
    assert list(there.links.open_links()) == []
    assert here.links.link_to(2, "there") is None
    await passes()
    assert network.attempts == 3  # the third is the other's, who is told that nobody listens
    assert there.handler.refusals == [member(1, "here")]
    await there.links.close()


@async_test
async def test_close_of_links_that_never_were_returns() -> None:
    network = MemoryNetwork()
    here = Process(network, 1)
    here.links.want([PEER])
    await here.links.close()
    await here.links.close()
    assert list(here.links.open_links()) == []
