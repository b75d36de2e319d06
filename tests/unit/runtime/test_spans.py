"""Spans of turns, and of what turns cause, in one process."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import pairwise

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, StatusCode
from tests.unit.runtime.several import several
from tests.unit.spans import Seen, seeing

from perdure import Actor, App, Delivery, DomainError, interleave, live, read, transaction, watch
from perdure.actor.methods import Method, actor_type_of
from perdure.actor.tracing import begin
from perdure.actor.turn import Turn
from perdure.base.errors import FencedError
from perdure.base.trail import Trail, current_trail, tracing
from perdure.cli.logs import names_here
from perdure.testing import async_test

WITHIN_S = 10.0


class Full(DomainError):
    """The message of this names what a user sent."""


class Stock(Actor):
    count: int = 0

    async def take(self, name: str = "tea") -> int:
        if name == "secret":
            raise Full(f"no room for {name}")
        self.count += 1
        return self.count

    async def fail(self) -> None:
        raise RuntimeError("secret")

    @read
    @live
    async def view(self) -> int:
        return self.count

    @interleave
    async def linger(self, until: str) -> dict[str, str]:
        self.count += 1
        await Stock.at(until).take()
        return names_here()


class Cart(Actor):
    names: list[str] = []

    async def buy(self, inside: bool = False) -> None:
        self.names.append("buy")
        if inside:
            with trace.get_tracer("none").start_as_current_span("not recorded by anybody"):
                await Stock.at("s").take()
        else:
            await Stock.at("s").take()

    async def send(self) -> None:
        await Stock.at("s").tell.take()
        self.outbox.send("hook", n=1)

    async def later(self) -> None:
        self.timers.set("soon", call="buy", after=timedelta(milliseconds=10))

    async def both(self) -> None:
        async with transaction():
            await Stock.at("a").take()
            await Stock.at("b").take()

    async def sleep(self) -> None:
        await asyncio.sleep(0.02)


@pytest.fixture
def seen() -> Iterator[Seen]:
    with seeing() as one:
        yield one


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not condition():
            await asyncio.sleep(0.001)


def names(seen: Seen) -> list[str]:
    return [span.name for span in seen.all()]


@async_test
async def test_a_turn_has_its_commit_below_it(seen):
    async with App(Stock, store="memory:"):
        await Stock.at("a").take()
    turn = seen.named("Stock/take")
    assert seen.tree(turn) == {"Stock/take": ["commit", "group commit"]} or seen.tree(turn) == {
        "Stock/take": ["group commit", "commit"]
    }
    commit, group = seen.named("commit"), seen.named("group commit")
    assert turn.parent is None
    assert turn.kind is SpanKind.INTERNAL
    assert [link.context.span_id for link in commit.links] == [group.context.span_id]
    assert turn.start_time <= commit.start_time <= group.start_time
    assert group.end_time <= commit.end_time <= turn.end_time
    assert turn.attributes == {
        "perdure.actor.type": "Stock",
        "perdure.actor.method": "take",
        "perdure.turn.cause": "call",
    }
    assert group.attributes == {"perdure.commit.turns": 1, "perdure.commit.actors": 1}


@async_test
async def test_keys_are_named_only_where_that_is_asked_for():
    for with_keys in (False, True):
        with seeing(with_keys=with_keys) as seen:
            async with App(Stock, store="memory:"):
                await Stock.at("anna@example.org").take()
            told = str([span.to_json() for span in seen.all()])
            assert ("anna@example.org" in told) is with_keys


@async_test
async def test_a_turn_that_waited_says_for_how_long(seen):
    async with App(Cart, store="memory:"):
        await asyncio.gather(Cart.at("a").sleep(), Cart.at("a").sleep())
    mailboxes = [span for span in seen.all() if span.name == "mailbox"]
    assert max(span.end_time - span.start_time for span in mailboxes) > 10_000_000
    for span in mailboxes:
        turn = next(one for one in seen.all() if span in seen.below(one))
        assert span.start_time == turn.start_time


@async_test
async def test_a_turn_that_writes_nothing_waits_for_nothing(seen):
    async with App(Stock, store="memory:"):
        await Stock.at("a").take()
        await until(lambda: "commit" in names(seen))
        seen.clear()
        await Stock.at("a").view()
    assert names(seen) == ["Stock/view"]


@async_test
async def test_turns_that_share_a_commit_are_linked_with_it_and_it_with_them(seen):
    async with App(Stock, store="memory:"):
        await asyncio.gather(*(Stock.at(f"{n}").take() for n in range(100)))
    turns = {one.context.span_id: one for one in seen.all() if one.name == "Stock/take"}
    groups = [one for one in seen.all() if one.name == "group commit"]
    assert len(turns) == 100
    assert sum(one.attributes["perdure.commit.turns"] for one in groups) == 100
    for group in groups:
        first = turns.pop(group.parent.span_id)
        assert first.context.trace_id == group.context.trace_id
        assert len(group.links) == min(group.attributes["perdure.commit.turns"] - 1, 32)
        assert all(link.context.span_id in turns for link in group.links)
    ids = {one.context.span_id for one in groups}
    commits = [one for one in seen.all() if one.name == "commit"]
    assert len(commits) == 100
    assert all(one.links[0].context.span_id in ids for one in commits)


@async_test
async def test_a_call_hangs_below_the_span_that_the_code_has_made(seen, monkeypatch):
    monkeypatch.setattr(trace, "get_tracer", lambda _name: seen.tracer)
    async with App(Cart, Stock, store="memory:"):
        await Cart.at("a").buy()
        await Cart.at("b").buy(inside=True)
    assert [span.name for span in seen.below(seen.named("not recorded by anybody"))] == [
        "Stock/take"
    ]
    outer = [one for one in seen.all() if one.name == "Cart/buy"]
    assert "Stock/take" in [one.name for one in seen.below(outer[0])]
    assert "not recorded by anybody" in [one.name for one in seen.below(outer[1])]


@async_test
async def test_a_call_from_code_outside_hangs_below_its_span(seen):
    async with App(Stock, store="memory:"):
        with seen.tracer.start_as_current_span("script") as span:
            await Stock.at("a").take()
    assert seen.named("Stock/take").parent.span_id == span.get_span_context().span_id


@async_test
async def test_errors_are_told_by_their_kind_alone(seen):
    async with App(Stock, store="memory:"):
        with pytest.raises(Full):
            await Stock.at("a").take("secret")
        with pytest.raises(RuntimeError):
            await Stock.at("a").fail()
    refused, failed = seen.named("Stock/take"), seen.named("Stock/fail")
    assert refused.attributes["error.type"] == "full"
    assert refused.status.status_code is StatusCode.UNSET  # the caller's fault, not ours
    assert failed.attributes["error.type"] == "RuntimeError"
    assert failed.status.status_code is StatusCode.ERROR
    assert not failed.events
    assert "secret" not in str([span.to_json() for span in seen.all()])


@async_test
async def test_a_message_goes_on_with_the_trace_of_who_sent_it(seen):
    taken: list[Delivery] = []

    async def hook(delivery: Delivery) -> None:
        taken.append(delivery)

    async with App(Cart, Stock, store="memory:", outlets={"hook": hook}):
        await Cart.at("a").send()
        await until(lambda: bool(taken) and "process Stock/take" in names(seen))
        await until(lambda: "process hook" in names(seen))
    sent, came = seen.named("send Stock/take"), seen.named("process Stock/take")
    assert sent in seen.below(seen.named("Cart/send"))
    assert came in seen.below(sent)
    assert [link.context.span_id for link in came.links] == [sent.context.span_id]
    assert (sent.kind, came.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    assert came.attributes["messaging.destination.name"] == "Stock/take"
    assert came.attributes["perdure.turn.cause"] == "message"
    out = seen.named("process hook")
    assert out in seen.below(seen.named("send hook"))
    assert taken[0].traceparent[3:52] == f"{out.context.trace_id:032x}-{out.context.span_id:016x}"


@async_test
async def test_timers_and_live_views_begin_traces_of_their_own(seen):
    async with App(Cart, Stock, store="memory:"):
        await Cart.at("a").later()
        await until(lambda: "Cart/buy" in names(seen))
        async for value in watch(Stock.at("s").view):
            assert value == 1
            break
    fired = seen.named("Cart/buy")
    assert fired.parent is None
    assert fired.attributes["perdure.turn.cause"] == "timer"
    looked = [one for one in seen.all() if one.name == "Stock/view"]
    assert {one.attributes["perdure.turn.cause"] for one in looked} == {"live"}
    assert all(one.parent is None for one in looked)


@async_test
async def test_a_transaction_is_one_span_with_its_calls_and_its_commit(seen):
    async with App(Cart, Stock, store="memory:"):
        await Cart.at("a").both()
    whole = seen.named("transaction")
    assert whole in seen.below(seen.named("Cart/both"))
    below = seen.below(whole)
    assert [one.name for one in below] == ["Stock/take", "Stock/take", "commit"]
    assert {one.attributes.get("perdure.turn.cause") for one in below[:2]} == {"transaction"}


@async_test
async def test_an_interleaving_turn_keeps_its_own_span_while_others_run(seen):
    async with App(Stock, store="memory:"):
        told = await asyncio.gather(*(Stock.at("a").linger(f"{n}") for n in range(5)))
    lingering = [one for one in seen.all() if one.name == "Stock/linger"]
    assert {one["span_id"] for one in told} == {f"{one.context.span_id:016x}" for one in lingering}
    assert all("Stock/take" in [below.name for below in seen.below(one)] for one in lingering)


@async_test
async def test_log_lines_name_the_trace(seen, caplog):
    async with App(Stock, store="memory:"):
        current = current_trail.set(Trail("r-1", "00-" + "a" * 32 + "-" + "b" * 16 + "-01"))
        with caplog.at_level(logging.ERROR):
            named = await Stock.at("a").linger("b")
        current_trail.reset(current)
    turn = seen.named("Stock/linger")
    assert turn.parent.span_id == int("b" * 16, 16)
    assert named == {
        "request_id": "r-1",
        "trace_id": "a" * 32,
        "span_id": f"{turn.context.span_id:016x}",
    }


@pytest.mark.parametrize(
    "sampler", [ALWAYS_OFF, ParentBased(TraceIdRatioBased(0)), ParentBased(ALWAYS_OFF)]
)
@async_test
async def test_of_a_trace_that_is_not_sampled_nothing_is_made(sampler):
    with seeing(sampler) as seen:
        async with App(Cart, Stock, store="memory:", outlets={"hook": print}):
            await Cart.at("a").buy()
            await Cart.at("a").send()
            await Cart.at("a").both()
            inside = await Stock.at("a").linger("b")
            with seen.tracer.start_as_current_span("script"):
                await Stock.at("a").take()
        assert not seen.all()
        assert len(inside["trace_id"]) == 32  # log lines can still be put together


@async_test
async def test_whoever_saw_it_first_has_decided():
    with seeing(ALWAYS_ON) as seen:
        async with App(Stock, store="memory:"):
            current = current_trail.set(Trail("", "00-" + "a" * 32 + "-" + "b" * 16 + "-00"))
            assert (await Stock.at("a").linger("b"))["trace_id"] == "a" * 32
            current_trail.reset(current)
        assert not seen.all()


class Passed(Turn, kw_only=True):
    """A turn that is sent elsewhere the first time it fails."""

    failed: int = 0

    def fail(self, error: BaseException) -> None:
        self.failed += 1
        if self.failed == 1:
            begin(self, "CLIENT", "a")


def test_a_turn_that_has_moved_is_one_span_below_another(seen):
    turn = Passed(actor_type_of(Stock).methods["take"], None, deadline_s=0.0)
    begin(turn, "INTERNAL", "a")
    turn.fail(FencedError("moved"))
    assert not seen.all()
    turn.fail(FencedError("moved again"))
    stayed, moved = seen.all()
    assert (stayed.kind, moved.kind) == (SpanKind.INTERNAL, SpanKind.CLIENT)
    assert seen.below(stayed) == [moved]
    assert moved.attributes["error.type"] == "fenced"


@async_test
async def test_what_is_not_sampled_has_no_spans_of_the_user_either(monkeypatch):
    with seeing(ParentBased(TraceIdRatioBased(0.5))) as seen:
        monkeypatch.setattr(trace, "get_tracer", lambda _name: seen.tracer)
        async with App(Cart, Stock, store="memory:"):
            for _ in range(40):
                await Cart.at("a").buy(inside=True)
        turns = [one for one in seen.all() if one.name == "Cart/buy"]
        assert 0 < len(turns) < 40
        own = [one for one in seen.all() if one.name == "not recorded by anybody"]
        assert len(own) == len(turns)
        assert {one.parent.span_id for one in own} == {one.context.span_id for one in turns}


@async_test
async def test_calls_to_another_process_are_one_trace(seen):
    async with several(2) as cluster:
        web = await cluster.open_gateway()
        [here], [there] = cluster.keys(0), cluster.keys(1)
        with seen.tracer.start_as_current_span("request"):
            await web.Account.at(here).follow([there])
    calls = [one for one in seen.all() if one.name == "Account/follow"]
    assert len({one.context.trace_id for one in calls}) == 1
    assert [one.kind for one in calls] == [
        SpanKind.CLIENT,
        SpanKind.SERVER,
        SpanKind.CLIENT,
        SpanKind.SERVER,
    ]
    for outer, inner in pairwise(calls):
        assert inner in seen.below(outer)
    assert calls[0].attributes["rpc.system.name"] == "perdure"
    assert calls[0].attributes["rpc.method"] == "Account/follow"


@async_test
async def test_everything_is_as_before_when_the_app_has_stopped(seen):
    method = actor_type_of(Stock).methods["take"]
    async with App(Stock, store="memory:"):
        assert type(method) is not Method
    assert type(method) is Method
    assert tracing() is None
    seen.clear()
    async with App(Stock, store="memory:"):
        await Stock.at("a").take()
    assert not seen.all()


@async_test
async def test_two_apps_of_one_process_may_stop_in_any_order(seen):
    first, second = App(Stock, store="memory:"), App(Cart, store="memory:")
    await first.start()
    await second.start()
    await first.stop()
    await Cart.at("a").sleep()
    await second.stop()
    assert names(seen) == ["Cart/sleep"]
