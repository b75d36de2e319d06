"""Calls that come from other processes, once or again: each has an effect once at most."""

import asyncio
from types import SimpleNamespace

import msgspec
import pytest

from perdure import Limits
from perdure.actor.answers import answers_of
from perdure.base.errors import (
    CycleError,
    InterruptedCallError,
    LimitError,
    OutcomeUnknownError,
    OverloadedError,
    StoreError,
)
from perdure.base.trail import Trail
from perdure.cluster.frames import Answer, Ask, Call, Changed, Failed, NotMine, Posted, Watch
from perdure.runtime.reception import Reception
from perdure.store.api import Query, Stream
from perdure.testing import async_test, spin

from .wire import COUNTER, FakeLink

ME = ("sender", 7)


class Host:
    """The node: it keeps what it is given, and runs nothing."""

    def __init__(self):
        self.limits = Limits(watched_actors_max=2)
        self.map_version = 3
        self.behinds = []
        self.submitted = []
        self.stored = []
        self.reading = None  # an Event that reading the store waits for
        self.watched = []
        self.looked = []
        self.trails = []
        self.found = []

    def now_s(self):
        return 100.0

    def behind(self, version):
        self.behinds.append(version)

    def submit(self, _actor_type, _key, turn):
        self.submitted.append(turn)

    def spawn(self, work):
        self.task = asyncio.ensure_future(work)

    async def find_answers(self, _origin):
        if self.reading is not None:
            await self.reading.wait()
        if isinstance(self.stored, Exception):
            raise self.stored
        return self.stored

    async def query_here(self, _query):
        if isinstance(self.found, Exception):
            raise self.found
        return self.found

    def watch_here(self, _actor_type, key, watcher, *, on):
        self.watched.append((key, watcher, on))

    def look_at(self, stream, trails=()):
        self.looked.append(stream)
        self.trails.append(list(trails))


class Receiving:
    def __init__(self):
        self.host = Host()
        self.reception = Reception(
            self.host, [COUNTER], SimpleNamespace(returned=None, closed=lambda _link: None)
        )

    def call(self, link, method="hit", **options):
        call = Call(ME[1], 5.0, COUNTER.name, "a", method, b"{}", **options)
        self.reception.call(link, call)

    async def call_again(self, link, **options):
        self.call(link, is_again=True, **options)
        await spin()


def remembered(*bodies):
    """What commits hold for the call."""
    activation = object()
    given = [(activation, ME, body) for body in bodies]
    return [one.body for one in answers_of(given, {})]


@async_test
async def test_a_call_is_run_and_its_answer_goes_back() -> None:
    receiving, link = Receiving(), FakeLink("sender")
    receiving.call(link, map_version=3)
    [turn] = receiving.host.submitted
    assert turn.origin == ME
    assert turn.deadline_s == 105.0
    turn.succeed(b"1")
    assert link.take() == [Answer(7, b"1")]
    assert receiving.host.behinds == []
    assert receiving.reception._under_way == {}


@async_test
async def test_a_caller_with_a_newer_map_makes_us_look() -> None:
    receiving = Receiving()
    receiving.call(FakeLink("sender"), map_version=4)
    assert receiving.host.behinds == [4]


@async_test
async def test_a_call_that_is_another_s_goes_back_with_our_version() -> None:
    receiving, link = Receiving(), FakeLink("sender")
    receiving.call(link)
    receiving.host.submitted[0].turn_away(3)
    assert link.take() == [NotMine(7, 3)]
    assert receiving.reception._under_way == {}


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (Call(7, 5.0, "nothing", "a", "hit", b"{}"), "not-found"),
        (Call(7, 5.0, COUNTER.name, "a", "nothing", b"{}"), "not-found"),
        (Call(7, 5.0, COUNTER.name, "a", "hit", b'{"x": 1}'), "bad-arguments"),
        (Call(7, 5.0, COUNTER.name, "a", "hit", b"{}", caller=b"no caller"), "internal"),
        (
            Call(7, 5.0, COUNTER.name, "a", "hit", b"{}", chain=[(COUNTER.name, "a")]),
            CycleError.kind,
        ),
    ],
)
@async_test
async def test_a_call_that_cannot_be_run_is_refused(call: Call, kind: str) -> None:
    receiving, link = Receiving(), FakeLink("sender")
    receiving.reception.call(link, call)
    [answer] = link.take()
    assert (type(answer), answer.kind) == (Failed, kind)
    assert receiving.host.submitted == []


@async_test
async def test_what_never_had_an_effect_is_run_when_it_comes_again() -> None:
    receiving, link = Receiving(), FakeLink("sender")
    await receiving.call_again(link)
    [turn] = receiving.host.submitted
    turn.succeed(b"1")
    assert link.take() == [Answer(7, b"1")]


@async_test
async def test_what_is_done_gets_the_answer_that_it_had() -> None:
    receiving, link = Receiving(), FakeLink("sender")
    receiving.host.stored = remembered(None, b"41")
    await receiving.call_again(link)
    assert receiving.host.submitted == []
    assert link.take() == [Answer(7, b"41")]
    assert receiving.reception._under_way == {}


@async_test
async def test_what_is_half_done_is_not_run_again() -> None:
    receiving, link = Receiving(), FakeLink("sender")
    receiving.host.stored = remembered(None)
    await receiving.call_again(link)
    [answer] = link.take()
    assert answer.kind == InterruptedCallError.kind
    assert receiving.host.submitted == []


@async_test
async def test_answers_to_other_calls_are_not_taken_for_its_own() -> None:
    receiving, link = Receiving(), FakeLink("sender")
    others = [(object(), ("sender", number), b"0") for number in (6, 8)]
    receiving.host.stored = [one.body for one in answers_of(others, {})]
    await receiving.call_again(link)
    assert len(receiving.host.submitted) == 1


@async_test
async def test_while_the_store_cannot_say_what_was_done_nothing_is_run() -> None:
    receiving, link = Receiving(), FakeLink("sender")
    receiving.host.stored = StoreError("away")
    await receiving.call_again(link)
    [answer] = link.take()
    assert answer.kind == OutcomeUnknownError.kind  # which makes the sender come once more
    assert receiving.host.submitted == []


@pytest.mark.parametrize("request_id", [None, "key"])
@async_test
async def test_what_is_under_way_answers_to_the_new_link(request_id: str | None) -> None:
    receiving, old, new = Receiving(), FakeLink("sender"), FakeLink("sender")
    receiving.call(old, request_id=request_id)
    await receiving.call_again(new, request_id=request_id)
    [turn] = receiving.host.submitted
    turn.succeed(b"1")
    assert old.sent == []
    assert new.take() == [Answer(7, b"1")]
    assert receiving.reception.answered_again == 1


@async_test
async def test_what_comes_a_third_time_while_the_store_is_asked_is_run_once() -> None:
    receiving, second, third = Receiving(), FakeLink("sender"), FakeLink("sender")
    receiving.host.reading = asyncio.Event()
    await receiving.call_again(second)
    first_task = receiving.host.task
    await receiving.call_again(third)
    receiving.host.reading.set()
    await first_task
    [turn] = receiving.host.submitted
    turn.succeed(b"1")
    assert second.sent == []
    assert third.take() == [Answer(7, b"1")]


@pytest.mark.parametrize("is_over", [True, False])
@async_test
async def test_a_first_sending_that_comes_after_the_second_does_nothing(*, is_over: bool) -> None:
    receiving, old, new = Receiving(), FakeLink("sender"), FakeLink("sender")
    await receiving.call_again(new)
    [turn] = receiving.host.submitted
    if is_over:
        turn.succeed(b"1")
    receiving.call(old)
    await spin()
    if not is_over:
        turn.succeed(b"1")
    assert len(receiving.host.submitted) == 1
    assert new.take() == [Answer(7, b"1")]
    assert old.sent == []


@async_test
async def test_the_same_number_of_another_process_is_another_call() -> None:
    receiving = Receiving()
    receiving.call(FakeLink("sender"))
    await receiving.call_again(FakeLink("other"))
    assert len(receiving.host.submitted) == 2


@pytest.mark.parametrize(
    ("method", "request_id"), [("view", None), ("hit", "key")], ids=["read", "keyed"]
)
@async_test
async def test_reads_and_keyed_calls_may_simply_be_run_again(
    method: str, request_id: str | None
) -> None:
    receiving = Receiving()
    receiving.host.stored = StoreError("nobody need ask")
    await receiving.call_again(FakeLink("sender"), method=method, request_id=request_id)
    assert len(receiving.host.submitted) == 1


@async_test
async def test_an_answer_that_is_too_large_is_told_as_an_error() -> None:
    receiving = Receiving()
    link = FakeLink("sender", lambda frame: LimitError("big") if type(frame) is Answer else None)
    receiving.call(link)
    receiving.host.submitted[0].succeed(b"1" * 100)
    [answer] = link.take()
    assert answer.kind == LimitError.kind


@async_test
async def test_only_so_many_second_sendings_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perdure.runtime.reception._SEEN_AGAIN_MAX", 3)
    receiving, link = Receiving(), FakeLink("sender")
    for number in range(9):
        call = Call(number, 5.0, COUNTER.name, "a", "hit", b"{}", is_again=True)
        receiving.reception.call(link, call)
    await spin()
    assert [number for _, number in receiving.reception._seen_again] == [6, 7, 8]


# -- queries, hints and watches --------------------------------------------------------------------


def ask_of(query):
    return Ask(4, 1.0, msgspec.msgpack.encode(query))


@async_test
async def test_queries_are_answered_or_refused() -> None:
    receiving, link = Receiving(), FakeLink("sender")
    receiving.reception.ask(link, ask_of(Query(COUNTER.name)))
    await spin()
    receiving.host.found = StoreError("away")
    receiving.reception.ask(link, ask_of(Query(COUNTER.name)))
    await spin()
    receiving.reception.ask(link, Ask(4, 1.0, b"no query"))
    await spin()
    assert [type(frame) for frame in link.take()] == [Answer, Failed, Failed]


@async_test
async def test_a_query_that_finds_more_than_a_frame_holds_is_told_so() -> None:
    receiving = Receiving()
    link = FakeLink("sender", lambda frame: LimitError("big") if type(frame) is Answer else None)
    receiving.reception.ask(link, ask_of(Query(COUNTER.name)))
    await spin()
    assert link.take()[0].kind == LimitError.kind


@async_test
async def test_hints_are_looked_at_if_they_are_for_classes_of_ours() -> None:
    receiving = Receiving()
    ours, others = Stream("x", "1", COUNTER.name, "2"), Stream("x", "1", "unknown", "2")
    frame = Posted([msgspec.structs.astuple(one) for one in (ours, others)])
    receiving.reception.posted(FakeLink("sender"), frame)
    assert receiving.host.looked == [ours]
    frame.trails = [[(7, Trail("r-1"))], []]
    receiving.reception.posted(FakeLink("sender"), frame)
    assert receiving.host.trails == [[], [(7, Trail("r-1"))]]


@async_test
async def test_an_actor_is_watched_once_for_all_links_until_the_last_is_gone() -> None:
    receiving, one, two = Receiving(), FakeLink("a"), FakeLink("b")
    for link in (one, two, one):
        receiving.reception.watch(link, Watch(COUNTER.name, "a"))
    [(key, watcher, on)] = receiving.host.watched
    assert (key, on) == ("a", True)
    watcher.changed()
    assert one.take() == two.take() == [Changed(COUNTER.name, "a")]
    receiving.reception.closed(one)
    watcher.changed()
    assert one.sent == []
    assert len(two.take()) == 1
    receiving.reception.watch(two, Watch(COUNTER.name, "a", on=False))
    assert receiving.host.watched[-1] == ("a", watcher, False)
    receiving.reception.watch(two, Watch(COUNTER.name, "a", on=False))  # twice: nothing
    receiving.reception.watch(two, Watch("unknown", "a"))
    assert len(receiving.host.watched) == 2


@async_test
async def test_more_watched_actors_than_fit_end_the_link() -> None:
    receiving, link = Receiving(), FakeLink("sender")
    for key in "abc":
        receiving.reception.watch(link, Watch(COUNTER.name, key))
    assert isinstance(link.closed_with[0], OverloadedError)
