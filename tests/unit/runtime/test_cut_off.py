"""Two owners that both see the database, and not each other: calls between them are refused."""

import asyncio
import time

import pytest

from perdure import UnansweredError, UnreachableError, transaction
from perdure.store.api import Query
from perdure.testing import async_test

from .several import several, until
from .test_forwarder import Sender


def assert_refused(answer: "asyncio.Future[bytes]", error: type[Exception]) -> None:
    assert answer.done()
    assert type(answer.exception()) is error


@async_test
async def test_a_call_to_an_owner_that_is_cut_off_is_refused_at_once() -> None:
    sender = Sender()
    sender.lose(1)
    sender.links.cut_off.add(1)
    assert_refused(sender.call(), UnreachableError)
    assert sender.forwarder.is_idle


@async_test
async def test_calls_that_wait_are_refused_when_it_is_known_as_what_they_are() -> None:
    sender = Sender()
    running = asyncio.create_task(sender.forwarder.run())
    sent, read = sender.call(), sender.call("view")
    sender.lose(1)
    never_sent = sender.call()
    await asyncio.sleep(0)
    await sender.clock.advance(0.3)
    assert not any(one.done() for one in (sent, read, never_sent))
    sender.links.cut_off.add(1)
    await sender.clock.advance(0.3)
    assert_refused(sent, UnansweredError)  # it may have been done
    assert_refused(read, UnreachableError)
    assert_refused(never_sent, UnreachableError)
    assert sender.forwarder.is_idle
    running.cancel()


@async_test
async def test_a_link_that_is_there_is_used_whatever_was_known() -> None:
    sender = Sender()
    sender.links.cut_off.add(1)
    answer = sender.call()
    assert len(sender.one.sent) == 1
    assert not answer.done()


@async_test
async def test_a_query_is_refused_when_all_who_could_be_asked_are_cut_off() -> None:
    sender = Sender()
    sender.lose(1)
    sender.lose(2)
    sender.links.cut_off |= {1, 2}
    with pytest.raises(UnreachableError):
        await sender.forwarder.ask(Query("counter"), 100.0)


async def refused_after_s(call: "asyncio.Future[object]") -> float:
    began_s = time.monotonic()
    with pytest.raises(UnreachableError):
        await call
    return time.monotonic() - began_s


@async_test
async def test_owners_cut_from_each_other_refuse_in_time_and_work_again_when_healed() -> None:
    async with several(2) as cluster:
        [key] = cluster.keys(1)
        account = cluster.classes[0].Account.at(key)
        assert await account.put(1) == 101
        cluster.part()
        await until(lambda: not cluster.links(0))
        assert await refused_after_s(account.put(1)) < 4.0
        assert await refused_after_s(account.view()) < 1.0
        assert await cluster.classes[1].Account.at(key).put(1) == 102
        assert [len(one.owned) > 0 for one in cluster.nodes] == [True, True]
        cluster.heal()
        await until(lambda: len(cluster.links(0)) > 1)
        assert await account.put(1) == 103


async def move(account: type, key: str) -> None:
    async with transaction():
        await account.at(key).put(1)


@async_test
async def test_a_web_process_refuses_transactions_and_calls_of_owners_it_is_cut_off_from() -> None:
    async with several(2) as cluster:
        made = await cluster.open_gateway()
        [key] = cluster.keys(0)
        assert await made.Account.at(key).put(1) == 101
        cluster.part(gateway := cluster.gateways[0])
        await until(lambda: not any(gateway._cells.forwarders[0]._links.open_links()))
        assert await refused_after_s(made.Account.at(key).put(1)) < 4.0
        assert await refused_after_s(move(made.Account, key)) < 1.5
        cluster.heal(gateway)
        await until(lambda: any(gateway._cells.forwarders[0]._links.open_links()))
