"""SIGKILL in the midst of transfers between a thousand accounts: no money is made or lost."""

import asyncio
import os
import random
import signal
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.faults.bank import ACCOUNTS, OPENING
from tests.faults.lab import Client, Lost, Server, note, run, seeded, unhurried

pytestmark = [pytest.mark.faults, *unhurried]

BANK = Path(__file__).with_name("bank.py")
KILLS = int(os.environ.get("PERDURE_KILLS", "25"))
BUSY = ACCOUNTS[:8]  # half of all transfers are between these, so that some cross


@dataclass
class Transfers:
    """What the outside world knows of them."""

    chance: random.Random
    acknowledged: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    unknown: dict[str, tuple[str, str, str, dict[str, Any]]] = field(default_factory=dict)
    repeated: int = 0
    conflicts: int = 0

    async def send(self, port: int, name: str) -> None:
        """Transfer money until the server is gone."""
        with closing(Client(port, "account")) as accounts, closing(Client(port, "bank")) as banks:
            for count in range(10_000):
                transfer = f"{name}.{count}"
                source, to = self.chance.sample(self.chance.choice([BUSY, ACCOUNTS]), 2)
                arguments = {"to": to, "amount": self.chance.randint(1, 30), "transfer": transfer}
                call = ("account", source, "pay", arguments)
                if self.chance.random() < 0.5:
                    call = ("bank", name, "move", {**arguments, "source": source})
                keyed = self.chance.random() < 0.7
                client = accounts if call[0] == "account" else banks
                if not await self._book(client, transfer, call, keyed):
                    return

    async def _book(self, client: Client, transfer: str, call: Any, keyed: bool) -> bool:
        _, key, method, arguments = call
        request_id = f"id-{transfer}" if keyed else ""
        try:
            status, body = await client.call(key, method, request_id, **arguments)
        except Lost:
            self.unknown[transfer] = call if keyed else ("", "", "", {})
            return False
        if status == 200:
            self.acknowledged.add(transfer)
        else:
            assert status in {409, 503}, body
            self.conflicts += status == 503
            self.refused.add(transfer)
        return True

    async def check(self, port: int) -> None:
        """Send what was not answered again, if it has a key, and audit the bank."""
        for transfer, (actor, key, method, arguments) in list(self.unknown.items()):
            if not actor:
                continue
            with closing(Client(port, actor)) as client:
                status, body = await client.call(key, method, f"id-{transfer}", **arguments)
            assert status in {200, 409}, body
            (self.acknowledged if status == 200 else self.refused).add(transfer)
            del self.unknown[transfer]
            self.repeated += 1
        with closing(Client(port, "bank")) as client:
            status, (total, booked) = await client.call("auditor", "audit")
        assert status == 200
        assert total == OPENING * len(ACCOUNTS)
        for transfer, entries in booked.items():
            amounts, times = zip(*entries, strict=True)
            assert times == (1, 1), f"{transfer} was booked {entries}"
            assert sum(amounts) == 0, f"{transfer} was booked {entries}"
        assert self.acknowledged <= booked.keys(), "acknowledged and lost"
        assert not self.refused & booked.keys(), "refused, and booked"
        assert booked.keys() <= self.acknowledged | self.unknown.keys()


def test_kills_in_the_midst_of_transfers_make_and_lose_no_money(tmp_path: Path) -> None:
    transfers = Transfers(seeded())
    begin_s = time.monotonic()

    async def round_trip(server: Server, number: int) -> None:
        await transfers.check(server.port)
        after_s = transfers.chance.uniform(0.005, 0.15)
        asyncio.get_running_loop().call_later(after_s, server.process.send_signal, signal.SIGKILL)
        names = [f"r{number}c{connection}" for connection in range(8)]
        await asyncio.gather(*[transfers.send(server.port, name) for name in names])

    for number in range(KILLS):
        with Server(tmp_path, app=BANK) as server:
            run(round_trip(server, number))
            assert server.wait() == -signal.SIGKILL
    took_s = time.monotonic() - begin_s
    with Server(tmp_path, app=BANK) as server:
        run(transfers.check(server.port))
    assert len(transfers.acknowledged) > KILLS * 10
    assert transfers.repeated > KILLS / 2
    note(
        "SIGKILL in the midst of transfers between 1,000 accounts",
        f"{KILLS} kills, {took_s / KILLS:.2f} s each",
        f"{len(transfers.acknowledged)} acknowledged, all booked once on both sides; "
        f"{transfers.conflicts} refused with 503; "
        f"{transfers.repeated} unanswered sent again under their key; the sum of all accounts, "
        f"read in one transaction after each restart, never changed",
    )
