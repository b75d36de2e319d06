"""Calls that leave for other processes: sent, sent again, answered once, or ended in time."""

import asyncio

import pytest

from perdure import DeadlineError, Limits, OverloadedError, UnreachableError
from perdure.base.errors import (
    FencedError,
    InterruptedCallError,
    LimitError,
    OutcomeUnknownError,
    StoppingError,
)
from perdure.base.trail import Trail
from perdure.cluster.frames import Answer, Ask, Call, NotMine, Posted
from perdure.runtime.forwarder import Forwarder
from perdure.runtime.local_turn import LocalTurn
from perdure.runtime.remote_errors import failed
from perdure.store.api import Query, Stream
from perdure.store.registry import NOBODY
from perdure.testing import VirtualClock, async_test, spin

from .wire import COUNTER, FakeLink, FakeLinks, map_of

CURED = (FencedError, StoppingError, OutcomeUnknownError)


class Here:
    """The actors of the sender itself."""

    def __init__(self):
        self.owns = False
        self.taken = []

    def has(self, _key):
        return self.owns

    def take_back(self, _actor_type, key, turn, origin):
        self.taken.append((key, origin))
        turn.succeed(b"here")


class Sender:
    """A forwarder with two links: to members 1 and 2. It is 9 itself, if it owns anything."""

    def __init__(self, calls_max=100):
        self.clock = VirtualClock()
        self.one, self.two = FakeLink("p1"), FakeLink("p2")
        self.links = FakeLinks()
        self.links.open = {1: self.one, 2: self.two}
        self.behind = []
        limits = Limits(forwarded_calls_max=calls_max)
        self.forwarder = Forwarder("me", self.links, self.clock, limits, self.behind.append)
        self.forwarder.take_map(map_of(1, 1, 2))

    def call(self, method="hit", within_s=10.0):
        turn = LocalTurn(
            COUNTER.methods[method],
            COUNTER.methods[method].arguments_from_python((), {}),
            deadline_s=self.clock.monotonic_s() + within_s,
            answer=asyncio.get_running_loop().create_future(),
        )
        self.forwarder.submit(COUNTER, "a", turn)
        return turn.answer

    def lose(self, number):
        link = self.links.open.pop(number)
        link.is_open = False
        self.forwarder.closed(link)

    async def pause(self):
        await self.clock.advance(0.05)


@async_test
async def test_a_call_goes_to_its_owner_and_its_answer_to_its_caller() -> None:
    sender = Sender()
    answer = sender.call()
    [call] = sender.one.take()
    assert (call.actor_type, call.key, call.method) == (COUNTER.name, "a", "hit")
    assert (call.map_version, call.is_again, call.left_s) == (1, False, 10.0)
    sender.forwarder.received(Answer(call.id, b"1"))
    assert await answer == b"1"
    assert sender.forwarder.is_idle
    assert sender.two.sent == []


@async_test
async def test_what_was_on_a_lost_link_is_sent_again_under_its_name_and_marked() -> None:
    sender = Sender()
    answer = sender.call()
    [first] = sender.one.take()
    number = first.id
    sender.lose(1)
    sender.forwarder.take_map(map_of(2, 2))
    [again] = sender.two.take()
    assert (again.id, again.is_again, again.map_version) == (number, True, 2)
    sender.forwarder.received(Answer(number, b"1"))
    assert await answer == b"1"
    assert sender.forwarder.sent_again == 1


@async_test
async def test_other_links_are_none_of_a_lost_ones_business() -> None:
    sender = Sender()
    sender.call()
    sender.lose(2)
    [call] = sender.one.take()
    assert not call.is_again


@async_test
async def test_a_call_that_was_never_sent_is_not_marked() -> None:
    sender = Sender()
    sender.forwarder.take_map(map_of(2, NOBODY))
    sender.call()
    sender.forwarder.take_map(map_of(3, 2))
    [call] = sender.two.take()
    assert not call.is_again


@pytest.mark.parametrize("kind", CURED)
@async_test
async def test_what_another_owner_cures_is_sent_again(kind: type[Exception]) -> None:
    sender = Sender()
    answer = sender.call()
    [call] = sender.one.take()
    sender.forwarder.received(failed(call.id, kind("not here")))
    assert not answer.done()
    assert sender.one.sent == []  # a pause, or it would go back and forth without end
    sender.forwarder.take_map(map_of(2, 2))
    [again] = sender.two.take()
    assert again.is_again
    sender.forwarder.received(Answer(call.id, b"1"))
    assert await answer == b"1"


@pytest.mark.parametrize("error", [InterruptedCallError("half"), ValueError("wrong")])
@async_test
async def test_every_other_error_is_the_callers(error: Exception) -> None:
    sender = Sender()
    answer = sender.call()
    [call] = sender.one.take()
    sender.forwarder.received(failed(call.id, error))
    with pytest.raises(type(error), match=str(error)):
        await answer
    assert sender.forwarder.is_idle


@async_test
async def test_an_applications_error_of_such_a_kind_is_not_taken_for_ours() -> None:
    class Mine(FencedError):
        pass

    sender = Sender()
    answer = sender.call()
    [call] = sender.one.take()
    sender.forwarder.received(failed(call.id, Mine("of the application")))
    assert answer.done()
    assert isinstance(answer.exception(), FencedError)


@async_test
async def test_not_mine_by_a_newer_map_asks_for_it_and_the_call_waits() -> None:
    sender = Sender()
    sender.call()
    [call] = sender.one.take()
    sender.forwarder.received(NotMine(call.id, 5))
    assert sender.behind == [5]
    assert sender.one.sent == []
    sender.forwarder.take_map(map_of(5, 2))
    [again] = sender.two.take()
    assert not again.is_again  # it was not begun


@async_test
async def test_not_mine_by_an_older_map_is_asked_again_after_a_pause() -> None:
    sender = Sender()
    sender.call()
    [call] = sender.one.take()
    sender.forwarder.received(NotMine(call.id, 0))
    assert sender.behind == []
    assert sender.one.sent == []
    await sender.pause()
    assert len(sender.one.take()) == 1


@async_test
async def test_a_call_for_this_process_waits_until_its_shard_has_come() -> None:
    sender = Sender()
    here = sender.forwarder.here = Here()
    sender.forwarder.incarnation = 9
    sender.forwarder.take_map(map_of(2, 9))
    answer = sender.call()
    await sender.pause()
    assert not answer.done()
    here.owns = True
    await sender.pause()
    assert await answer == b"here"
    assert here.taken == [("a", None)]


@async_test
async def test_a_call_that_comes_home_after_it_was_sent_has_its_name_with_it() -> None:
    sender = Sender()
    here = sender.forwarder.here = Here()
    sender.forwarder.incarnation = 9
    here.owns = True
    sender.call()
    [call] = sender.one.take()
    sender.lose(1)
    sender.forwarder.take_map(map_of(2, 9))
    assert here.taken == [("a", ("me", call.id))]


@async_test
async def test_a_call_that_nobody_took_ends_at_its_deadline_as_not_done() -> None:
    sender = Sender()
    sender.forwarder.take_map(map_of(2, NOBODY))
    running = asyncio.create_task(sender.forwarder.run())
    answer = sender.call(within_s=1.0)
    await spin()
    await sender.clock.advance(0.9)
    assert not answer.done()
    await sender.clock.advance(0.5)
    with pytest.raises(UnreachableError):
        await answer
    assert sender.forwarder.is_idle
    running.cancel()


@async_test
async def test_a_call_that_may_be_done_ends_at_its_deadline_as_late() -> None:
    sender = Sender()
    running = asyncio.create_task(sender.forwarder.run())
    answers = [sender.call(within_s=1.0)]
    [call] = sender.one.take()
    sender.lose(1)
    await spin()
    await sender.clock.advance(1.5)
    with pytest.raises(DeadlineError):
        await answers[0]
    sender.forwarder.received(Answer(call.id, b"too late"))  # and nothing happens
    running.cancel()


@async_test
async def test_a_call_that_is_too_large_fails_alone() -> None:
    sender = Sender()
    sender.one.refuses = lambda frame: LimitError("too large") if type(frame) is Call else None
    with pytest.raises(LimitError):
        await sender.call()
    assert sender.forwarder.is_idle
    sender.one.refuses = lambda _frame: None
    sender.call()
    assert len(sender.one.sent) == 1


@async_test
async def test_more_calls_than_may_wait_are_refused_at_once() -> None:
    sender = Sender(calls_max=3)
    kept = [sender.call() for _ in range(3)]
    with pytest.raises(OverloadedError, match="3 calls wait"):
        await sender.call()
    assert not any(one.done() for one in kept)
    with pytest.raises(OverloadedError):
        await sender.forwarder.ask(Query("counter"), 100.0)


@async_test
async def test_a_stop_ends_what_waits_and_what_is_sent_later() -> None:
    sender = Sender()
    sent = sender.call()
    asking = asyncio.create_task(sender.forwarder.ask(Query("counter"), 100.0))
    await spin()
    sender.forwarder.stop(StoppingError("this process is stopping"))
    later = sender.call()
    for one in (sent, later, asking):
        with pytest.raises(StoppingError):
            await one
    assert sender.forwarder.is_idle
    with pytest.raises(StoppingError):
        await sender.forwarder.ask(Query("counter"), 100.0)


# -- queries ---------------------------------------------------------------------------------------


def asked(link):
    [ask] = [frame for frame in link.take() if type(frame) is Ask]
    return ask


@async_test
async def test_a_query_is_answered_by_a_member() -> None:
    sender = Sender()
    asking = asyncio.create_task(sender.forwarder.ask(Query("counter"), 5.0))
    await spin()
    sender.forwarder.received(Answer(asked(sender.one).id, b"\x90"))
    assert await asking == []
    assert sender.forwarder.is_idle


@pytest.mark.parametrize("kind", CURED)
@async_test
async def test_a_query_that_one_member_cannot_answer_goes_to_another(kind: type[Exception]) -> None:
    sender = Sender()
    asking = asyncio.create_task(sender.forwarder.ask(Query("counter"), 5.0))
    await spin()
    sender.forwarder.received(failed(asked(sender.one).id, kind("stopping")))
    await spin()
    await sender.pause()
    sender.forwarder.received(Answer(asked(sender.two).id, b"\x90"))
    assert await asking == []


@async_test
async def test_a_query_on_a_lost_link_goes_to_another_member() -> None:
    sender = Sender()
    asking = asyncio.create_task(sender.forwarder.ask(Query("counter"), 5.0))
    await spin()
    asked(sender.one)
    sender.lose(1)
    await spin()
    await sender.pause()
    sender.forwarder.received(Answer(asked(sender.two).id, b"\x90"))
    assert await asking == []


@async_test
async def test_a_query_that_is_refused_or_given_up_leaves_nothing_behind() -> None:
    sender = Sender()
    asking = asyncio.create_task(sender.forwarder.ask(Query("counter"), 5.0))
    await spin()
    sender.forwarder.received(failed(asked(sender.one).id, ValueError("no such field")))
    with pytest.raises(ValueError, match="no such field"):
        await asking
    given_up = asyncio.create_task(sender.forwarder.ask(Query("counter"), 5.0))
    await spin()
    given_up.cancel()
    await asyncio.gather(given_up, return_exceptions=True)
    assert sender.forwarder.is_idle


@async_test
async def test_a_query_that_nobody_answers_ends_at_its_deadline_and_leaves_nothing_behind() -> None:
    sender = Sender()
    with pytest.raises(DeadlineError):
        await sender.forwarder.ask(Query("counter"), sender.clock.monotonic_s() + 0.02)
    assert sender.forwarder.is_idle


# -- hints -----------------------------------------------------------------------------------------


@async_test
async def test_hints_go_to_owners_that_are_linked_and_nowhere_else() -> None:
    sender = Sender()
    stream = Stream("a", "1", "b", "2")
    other, trail = Stream("a", "2", "b", "2"), Trail("r-1")
    sender.forwarder.post({stream: [(7, trail)], other: []})
    [posted] = sender.one.take()
    assert type(posted) is Posted
    assert [Stream(*fields) for fields in posted.streams] == [stream, other]
    assert posted.trails == [[(7, trail)], []]
    sender.forwarder.incarnation = 1
    sender.forwarder.post({stream: []})
    sender.forwarder.take_map(map_of(2, NOBODY))
    sender.forwarder.post({stream: []})
    assert sender.one.sent == sender.two.sent == []
