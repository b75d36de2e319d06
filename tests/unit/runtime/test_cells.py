"""Actors spread over several databases: what crosses from one cell to another, and what not."""

import asyncio
from typing import Annotated

import pytest
from tests.unit.runtime.celled import Celled, celled
from tests.unit.runtime.several import KEY, LIMITS, until

from perdure import Actor, unique
from perdure.actor.methods import actor_type_of
from perdure.base.errors import (
    DefinitionError,
    InterruptedCallError,
    OtherClusterError,
    StoreError,
    TransactionError,
)
from perdure.base.shards import SHARDS, Cell, cell_of, shard_of
from perdure.runtime.cluster_node import ClusterNode
from perdure.runtime.gateway import Gateway
from perdure.runtime.place import Place
from perdure.store.api import Batch
from perdure.store.registry import fenced


def test_every_shard_belongs_to_one_cell() -> None:
    shards = [shard for number in range(3) for shard in Cell(number, 3).shards]
    assert sorted(shards) == list(range(SHARDS))
    for key in ("ada", "grace", "ä"):
        assert shard_of(key) in Cell(cell_of(key, 3), 3).shards
        assert Cell().has(key)


def test_calls_get_to_the_cell_of_their_actor_and_are_stored_there_only() -> None:
    async def body() -> None:
        async with celled(3) as cells:
            web = await cells.open_gateway()
            for cell in range(3):
                assert await web.Account.at(cells.key(cell)).put(cell + 1) == cell + 1
            for cell, store in enumerate(cells.stores):
                assert [one.key for one in await store.scan("account", "", 10)] == [cells.key(cell)]
            assert sum(len(one.owned) for one in cells.nodes) == SHARDS

    asyncio.run(body())


def test_an_actor_calls_another_in_another_cell() -> None:
    async def body() -> None:
        async with celled() as cells:
            web = await cells.open_gateway()
            here, there = cells.key(0), cells.key(1)
            assert await web.Account.at(here).put_to(there, 5) == 5
            assert await web.Account.at(here).view() == (-5, [])

    asyncio.run(body())


def test_messages_cross_in_their_order_and_are_taken_away() -> None:
    async def body() -> None:
        async with celled() as cells:
            web = await cells.open_gateway()
            here, there = cells.key(0), cells.key(1)
            await web.Account.at(here).send_to(there, list(range(50)))
            await until_seen(cells, there, list(range(50)))
            await until(lambda: not cells.stores[0]._streams)

    asyncio.run(body())


async def until_seen(cells: Celled, key: str, numbers: list[int]) -> None:
    web = cells.gateways[0]
    account = web.actor_types[0].actor_class.at(key)
    for _ in range(500):
        if (seen := (await account.view())[1]) == numbers:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{len(seen)} messages came: {seen}")


def test_a_message_whose_delivery_was_not_noted_is_taken_once() -> None:
    """The sender's process dies after the receiver has taken it."""

    async def body() -> None:
        async with celled() as cells:
            web = await cells.open_gateway()
            here, there = cells.key(0), cells.key(1)
            died = asyncio.Event()

            async def die(batch: Batch) -> None:
                if batch.taken:
                    died.set()
                    cells.handles[0].before_commit = None
                    cells.registries[0]._remove(cells.nodes[0].incarnation, {})
                    raise fenced(cells.nodes[0].incarnation)

            cells.handles[0].before_commit = die
            await web.Account.at(here).send_to(there, [7])
            await asyncio.wait_for(died.wait(), 10)
            await until(lambda: not cells.stores[0]._streams)
            assert (await web.Account.at(there).view())[1] == [7]

    asyncio.run(body())


def test_a_call_that_crossed_is_told_to_be_half_done_when_its_caller_dies() -> None:
    async def body() -> None:
        async with celled() as cells:
            web = await cells.open_gateway()
            here, there = cells.key(0), cells.key(1)
            await web.Account.at(here).put(100)
            arrived = asyncio.Event()

            async def hold(batch: Batch) -> None:
                if any(one.key == there for one in batch.writes):
                    arrived.set()
                    await asyncio.sleep(0.3)

            cells.handles[1].before_commit = hold
            calling = asyncio.ensure_future(web.Account.at(here).put_to(there, 5))
            await asyncio.wait_for(arrived.wait(), 10)
            node = cells.nodes[0]
            cells.registries[0]._remove(node.incarnation, {})
            node._membership.fenced(OtherClusterError("taken out"))  # type: ignore[union-attr]
            with pytest.raises(InterruptedCallError):
                await calling
            assert (await web.Account.at(there).view())[0] == 5
            assert (await web.Account.at(here).view())[0] == 100

    asyncio.run(body())


def test_a_transaction_stays_in_its_cell() -> None:
    async def body() -> None:
        async with celled() as cells:
            web = await cells.open_gateway()
            here, there, other = cells.key(0), cells.key(1), cells.key(0, 1)
            with pytest.raises(TransactionError, match="one commit, and so of one database"):
                await web.Account.at(here).pay(there, 5)
            await web.Account.at(here).pay(other, 5)
            assert (await web.Account.at(here).view())[0] == -5
            assert (await web.Account.at(there).view())[0] == 0

    asyncio.run(body())


def test_a_query_looks_into_all_cells_from_wherever_it_is_asked() -> None:
    async def body() -> None:
        async with celled(3) as cells:
            web = await cells.open_gateway()
            keys = [f"k{number}" for number in range(12)]
            for money, key in enumerate(keys, start=1):
                await web.Account.at(key).put(money)
            assert len({cell_of(key, 3) for key in keys}) == 3
            assert await web.Account.at("k0").richest() == keys[:10]
            first = await web.Account.where(money__gt=2).order_by("-money").limit(4)
            assert [one.key for one in first] == keys[:-5:-1]

    asyncio.run(body())


def test_one_cell_that_is_away_does_not_keep_the_others_from_serving() -> None:
    async def body() -> None:
        async with celled() as cells:
            cells.registries[1] = _Away()  # type: ignore[assignment,call-overload]
            web = await cells.open_gateway()
            assert await web.Account.at(cells.key(0)).put(1) == 1
            assert cells.gateways[0].is_running

    asyncio.run(body())


class _Away:
    async def open(self) -> None:
        raise StoreError("no network")

    async def close(self) -> None:
        pass


def test_databases_in_another_order_are_refused() -> None:
    async def body() -> None:
        async with celled() as cells:
            cells.registries.reverse()
            with pytest.raises(
                OtherClusterError, match="is cell 2 of 2, and was named as cell 1 of 2"
            ):
                await cells.open_gateway()
            with pytest.raises(OtherClusterError):
                await cells.start_node(0)

    asyncio.run(body())


def test_a_unique_field_is_refused_where_there_are_several_cells() -> None:
    async def body() -> None:
        class User(Actor):
            email: Annotated[str | None, unique] = None

            async def call(self) -> None:
                """Nothing."""

        cells = Celled(2)
        place = Place("web", name="web", key=KEY)
        gateway = Gateway([actor_type_of(User)], cells.registries, place, limits=LIMITS)
        with pytest.raises(DefinitionError, match="email is unique, and 2 databases"):
            await gateway.start()
        node = ClusterNode(
            [actor_type_of(User)],
            cells.stores[0],
            Place("state", name="s", key=KEY, listen="tcp:127.0.0.1:0"),
            limits=LIMITS,
            abroad={1: cells.registries[1]},
        )
        with pytest.raises(DefinitionError, match="make it the key"):
            await node.start()

    asyncio.run(body())
