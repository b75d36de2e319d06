"""Messages: committed with the turn, delivered in order, applied once, given up in the end."""

import asyncio
from typing import Any

import pytest

from perdure import Actor, BadArgumentsError, DomainError, LimitError, Limits, NotRunningError, read
from perdure.runtime.outlets import Delivery
from perdure.store.api import Batch, Committed, Message, Shards, Stream
from perdure.store.memory import MemoryStore
from perdure.testing import VirtualClock, async_test, running, spin


class Refused(DomainError):
    """The receiver does not want it now."""


class Receiver(Actor):
    got: list[int] = []
    refuses: bool = False

    async def take(self, number: int) -> None:
        if self.refuses:
            raise Refused("not now")
        self.got.append(number)

    async def refuse(self, on: bool) -> None:
        self.refuses = on

    @read
    async def all(self) -> list[int]:
        return self.got


class Sender(Actor):
    sent: int = 0

    async def pour(self, count: int, to: str = "r", fail: bool = False) -> int:
        for _ in range(count):
            self.sent += 1
            Receiver.at(to).tell.take(self.sent)
        if fail:
            raise Refused("after sending")
        return self.sent

    async def wrong(self) -> None:
        Receiver.at("r").tell.take("seven")  # type: ignore[arg-type]

    async def mail(self, text: str) -> None:
        self.outbox.send("mail", text=text)

    @read
    async def peek(self) -> None:
        await Receiver.at("r").tell.take(1)


FEW = Limits(delivery_attempts_max=3, delivery_backoff_s=1.0)


async def received(key: str = "r") -> list[int]:
    return await Receiver.at(key).all()


@async_test
async def test_messages_arrive_in_order_and_once() -> None:
    async with running(Sender, Receiver, clock=VirtualClock()) as app:
        await Sender.at("s").pour(250)
        await spin(3000)
        assert await received() == list(range(1, 251))
        assert await app.store.streams(10) == []


@async_test
async def test_a_turn_that_fails_sends_nothing() -> None:
    async with running(Sender, Receiver, clock=VirtualClock()):
        with pytest.raises(Refused):
            await Sender.at("s").pour(3, fail=True)
        await Sender.at("s").pour(1)
        await spin()
        assert await received() == [1]


@async_test
async def test_a_message_survives_a_restart() -> None:
    store, clock = MemoryStore(), VirtualClock()
    async with running(Sender, Receiver, store=store, clock=clock, limits=FEW):
        await Receiver.at("r").refuse(True)
        await Sender.at("s").pour(2)
        await spin()
    async with running(Sender, Receiver, store=store, clock=clock, limits=FEW):
        await Receiver.at("r").refuse(False)
        await clock.advance(10)
        assert await received() == [1, 2]


class SlowReads(MemoryStore):
    """Tells which streams there are, and that there are no messages, when the test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.may_answer = asyncio.Event()
        self.found_nothing = asyncio.Event()

    async def streams(self, limit: int, shards: Shards = None) -> list[tuple[Stream, int]]:
        found = await super().streams(limit, shards)
        await self.may_answer.wait()
        return found

    async def messages(self, stream: Stream, after_id: int, limit: int) -> list[Message]:
        found = await super().messages(stream, after_id, limit)
        if not found:
            self.found_nothing.set()
            await self.may_answer.wait()
        return found


@async_test
async def test_what_is_sent_after_a_restart_comes_after_what_was_left() -> None:
    store, clock = SlowReads(), VirtualClock()
    store.may_answer.set()
    async with running(Sender, Receiver, store=store, clock=clock, limits=FEW):
        await Receiver.at("r").refuse(True)
        await Sender.at("s").pour(2)
        await spin()
    store.may_answer.clear()
    async with running(Sender, Receiver, store=store, clock=clock, limits=FEW):
        await Receiver.at("r").refuse(False)
        await Sender.at("s").pour(1)
        await spin()
        store.may_answer.set()
        await clock.advance(10)
        assert await received() == [1, 2, 3]


@async_test
async def test_a_message_sent_while_the_store_is_read_keeps_its_place() -> None:
    store = SlowReads()
    store.may_answer.set()
    async with running(Sender, Receiver, store=store, clock=VirtualClock()):
        await spin()
        store.may_answer.clear()
        await Sender.at("s").pour(200)  # a line holds 100: the second read finds no more
        await store.found_nothing.wait()
        await Sender.at("s").pour(1)
        store.may_answer.set()
        await spin()
        await Sender.at("s").pour(1)
        await spin()
        assert await received() == list(range(1, 203))
        assert await store.streams(10) == []


class SlowCommits(MemoryStore):
    """Tells that it has committed when the test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.may_tell = asyncio.Event()
        self.may_tell.set()

    async def commit(self, batch: Batch) -> Committed:
        committed = await super().commit(batch)
        await self.may_tell.wait()
        return committed


@async_test
async def test_a_message_that_is_read_before_its_commit_is_heard_of_is_delivered_once() -> None:
    seen: list[str] = []
    may_return = asyncio.Event()

    async def mail(delivery: Delivery) -> None:
        seen.append(delivery.values["text"])
        await may_return.wait()

    store, clock = SlowCommits(), VirtualClock()
    async with running(Sender, store=store, clock=clock, outlets={"mail": mail}, limits=Limits()):
        await spin()
        store.may_tell.clear()
        mailing = asyncio.create_task(Sender.at("s").mail("one"))
        await spin()
        await clock.advance(3)  # looks for messages, and finds it
        assert seen == ["one"]
        assert not mailing.done()
        store.may_tell.set()
        await mailing
        may_return.set()
        await Sender.at("s").mail("two")
        await clock.advance(3)
        assert seen == ["one", "two"]
        assert await store.streams(10) == []


@async_test
async def test_a_failing_message_holds_its_own_line_only() -> None:
    clock = VirtualClock()
    async with running(Sender, Receiver, clock=clock, limits=FEW):
        await Receiver.at("r").refuse(True)
        await Sender.at("s").pour(2)
        await Sender.at("s").pour(1, to="other")
        await spin()
        assert await received("other") == [3]
        assert await received() == []
        await Receiver.at("r").refuse(False)
        await clock.advance(0.9)
        assert await received() == []
        await clock.advance(0.2)
        assert await received() == [1, 2]


@async_test
async def test_what_keeps_failing_becomes_a_dead_letter_and_the_next_goes_on() -> None:
    clock = VirtualClock()
    async with running(Sender, Receiver, clock=clock, limits=FEW) as app:
        await Receiver.at("r").refuse(True)
        await Sender.at("s").pour(2)
        await clock.advance(3.5)  # attempts at 0, 1 and 3 seconds
        [letter] = await app.store.dead_letters(0, 10)
        assert (letter.attempts, letter.error) == (3, "Refused: not now")
        await Receiver.at("r").refuse(False)
        await clock.advance(5)
        assert await received() == [2]
        assert app.statistics()["dead_letters"] == 1


@async_test
async def test_mistakes_are_told_where_they_are_made() -> None:
    async with running(Sender, Receiver, limits=Limits(messages_per_turn_max=2)):
        with pytest.raises(BadArgumentsError):
            await Sender.at("s").wrong()
        with pytest.raises(LimitError):
            await Sender.at("s").pour(3)
        with pytest.raises(BadArgumentsError, match="no outlet 'mail'"):
            await Sender.at("s").mail("hello")
        with pytest.raises(Exception, match="@read"):
            await Sender.at("s").peek()
        with pytest.raises(NotRunningError):
            Receiver.at("r").tell.take(1)
        assert await received() == []


@async_test
async def test_an_outlet_is_tried_until_it_takes_it_under_one_id() -> None:
    seen: list[Delivery] = []

    async def mail(delivery: Delivery) -> None:
        seen.append(delivery)
        if len(seen) < 3:
            raise OSError("no route")

    clock = VirtualClock()
    async with running(Sender, clock=clock, outlets={"mail": mail}, limits=Limits()) as app:
        await Sender.at("s").mail("one")
        await Sender.at("s").mail("two")
        await clock.advance(30)
        assert [one.values["text"] for one in seen] == ["one", "one", "one", "two"]
        assert len({one.id for one in seen[:3]}) == 1
        assert seen[3].id != seen[0].id
        assert [one.attempt for one in seen] == [1, 2, 3, 1]
        assert seen[0].sender == "sender/s"
        assert await app.store.streams(10) == []


@async_test
async def test_the_number_of_deliveries_under_way_is_bounded() -> None:
    running_now, most = 0, 0

    async def mail(_delivery: Delivery) -> None:
        nonlocal running_now, most
        running_now += 1
        most = max(most, running_now)
        await asyncio.sleep(0)
        running_now -= 1

    limits = Limits(deliveries_max=3)
    async with running(Sender, clock=VirtualClock(), outlets={"mail": mail}, limits=limits) as app:
        await asyncio.gather(*(Sender.at(f"s{n}").mail("x") for n in range(20)))
        await spin(500)
        assert most == 3
        assert app.statistics()["messages_delivered"] == 20


@async_test
async def test_the_caller_of_a_turn_is_the_caller_of_its_messages() -> None:
    seen: list[Any] = []

    class Asker(Actor):
        async def ask(self) -> None:
            Answerer.at("a").tell.answer()

    class Answerer(Actor):
        async def answer(self) -> None:
            seen.append(self.caller)

    async with running(Asker, Answerer, clock=VirtualClock()):
        await Asker.at("a").ask()
        await spin()
    assert seen == [None]
