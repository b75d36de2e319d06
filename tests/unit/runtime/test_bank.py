"""A bank over three owners: links break and an owner dies, and no cent is lost or made."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from random import Random
from typing import Any

import pytest
from tests.unit.runtime.several import Several, several, until

from perdure import PerdureError, transaction
from perdure.testing import async_test

ROUNDS = 12


class _Bank:
    def __init__(self, cluster: Several, seed: int) -> None:
        self.cluster = cluster
        self.random = Random(seed)
        self.keys = [key for number in range(3) for key in cluster.keys(number, 2)]
        self.booked: list[tuple[str, str]] = []  # acknowledged: who received it, and its name

    async def clerk(self, account: Any, number: int) -> None:
        """Transfers, one after the other: by keyed calls, and by blocks of its own."""
        for turn in range(ROUNDS):
            payer, payee = self.random.sample(self.keys, 2)
            name = f"{number}-{turn}"
            try:
                if turn % 2:
                    await account.at(payer, request_id=name).move(payee, name)
                else:
                    await transaction(partial_of(account, payer, payee, name))()
            except PerdureError:
                continue
            self.booked.append((payee, name))

    async def vandal(self, *, kills: bool) -> None:
        """Breaks links, and ends an owner."""
        for turn in range(8):
            await asyncio.sleep(self.random.uniform(0.02, 0.15))
            if turn == 4 and kills:
                self.cluster.kill(2)
            elif self.random.random() < 0.3:
                self.cluster.cut_gateway()
            else:
                self.cluster.cut(*self.random.sample(range(2), 2))


def partial_of(
    account: Any, payer: str, payee: str, name: str
) -> Callable[[], Coroutine[Any, Any, None]]:
    async def body() -> None:
        await account.at(payer).put(-1)
        await account.at(payee).receive(name)

    return body


@pytest.mark.parametrize(("seed", "kills"), [(1, False), (2, True), (3, True)])
@partial(async_test, within_s=60.0)
async def test_no_cent_is_lost_and_what_was_acknowledged_is_booked_once(
    seed: int, kills: bool
) -> None:
    async with several(3) as cluster:
        web = await cluster.open_gateway()
        bank = _Bank(cluster, seed)
        await asyncio.gather(
            *(bank.clerk(cluster.classes[number].Account, number) for number in range(2)),
            *(bank.clerk(web.Account, number) for number in (7, 8)),
            bank.vandal(kills=kills),
        )
        account = cluster.classes[0].Account
        if kills:
            await until(lambda: sum(len(cluster.nodes[at].owned) for at in range(2)) == 4096)
        assert sum([await account.at(key).view() for key in bank.keys]) == 100 * len(bank.keys)
        assert len(bank.booked) > ROUNDS
        for payee, name in bank.booked:
            assert await account.at(payee).noted(name) == 1, name
