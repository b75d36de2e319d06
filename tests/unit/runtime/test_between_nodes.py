"""What two nodes say to each other over real links."""

import asyncio

import pytest
from tests.unit.runtime.several import FencedError, several, until

from perdure import StoppingError, UniqueError, transaction
from perdure.actor.answers import answer_among
from perdure.actor.guest import Guest, stored_form
from perdure.actor.methods import actor_type_of
from perdure.base.shards import shard_of
from perdure.testing import async_test


@async_test
async def test_a_hint_of_a_message_leaves_the_link_as_it_is() -> None:
    async with several(2) as cluster:
        sender = next(n for n in range(2) if not cluster.nodes[n].has("all"))
        before = cluster.links(sender)
        [key] = cluster.keys(sender)
        account = cluster.classes[sender].Account
        for amount in (1, 2, 3):
            await account.at(key).note("x", amount)
        ledger = cluster.classes[sender].Ledger.at("all")
        lines: list[int] = []
        while len(lines) < 3:
            lines = await ledger.all()
            await asyncio.sleep(0.005)
        assert lines == [1, 2, 3]
        assert cluster.links(sender) == before


@async_test
async def test_the_answer_of_a_refused_turn_is_not_remembered() -> None:
    async with several(2) as cluster:
        one, other = cluster.keys(1, 2)
        account = cluster.classes[0].Account
        await account.at(one).call_me("x")
        process = cluster.nodes[0]._station.identity.process
        number = cluster.nodes[0]._station.forwarder._last_id
        assert answer_among(await cluster.store.find_answers(process, number), number) is not None
        with pytest.raises(UniqueError):
            await account.at(other).call_me("x")
        number += 1
        assert cluster.nodes[0]._station.forwarder._last_id == number
        assert answer_among(await cluster.store.find_answers(process, number), number) is None


@async_test
async def test_calls_that_wait_for_nobody_end_when_their_process_stops() -> None:
    async with several(2) as cluster:
        [key] = cluster.keys(1)
        cluster.kill(1)
        call = asyncio.ensure_future(cluster.classes[0].Account.at(key).put(1))
        await asyncio.sleep(0)
        stopping = asyncio.create_task(cluster.nodes[0].stop(0.0))
        await until(call.done, 5.0)
        await stopping
        cluster.dead.add(0)
        assert isinstance(call.exception(), StoppingError)


@pytest.mark.parametrize("comes_back", [False, True])
@async_test
async def test_a_shard_that_is_lost_while_it_closes_is_neither_sealed_nor_opened(
    comes_back: bool,
) -> None:
    async with several(2) as cluster:
        [key] = cluster.keys(0)
        owner, shards = cluster.nodes[0], frozenset({shard_of(key)})
        held, over = asyncio.Event(), asyncio.Event()

        async def hold() -> None:
            async with transaction():
                await cluster.classes[0].Account.at(key).put(1)
                held.set()
                await over.wait()

        holding = asyncio.create_task(hold())
        await held.wait()
        closing = asyncio.create_task(owner.close_shards(shards))
        await until(lambda: owner._territory.closing(shards) == shards)
        owner.lost(shards)
        if comes_back:
            owner.gained(shards)
        assert await closing == frozenset()
        assert owner._territory.opened(shards) == (shards if comes_back else frozenset())
        assert owner.has(key) == comes_back
        over.set()
        await asyncio.gather(holding, return_exceptions=True)


@async_test
async def test_of_an_actor_that_is_in_a_commit_twice_the_one_that_came_first_is_left_out() -> None:
    async with several(2) as cluster:
        [key] = cluster.keys(0)
        node, account = cluster.nodes[0], cluster.classes[0].Account
        await account.at(key).put(1)
        own = node.activation(actor_type_of(account), key)
        ended: list[str] = []
        guest = Guest(node, own.actor_type, key, lambda _guest, ending, _: ended.append(ending))
        guest.owner = node.incarnation + 100  # who lent it, and fell
        guest.wake(stored_form(own))
        guest.join_unchanged()
        assert await account.at(key).put(1) == 102
        assert isinstance(guest.dead, FencedError)
        assert ended == ["unknown"]
        assert own.dead is None
        assert await account.at(key).view() == 102
