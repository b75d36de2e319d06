"""The how-to for three machines, done word for word, with requests going on all the time."""

import asyncio
import http.client
import shutil
import threading
import time
from pathlib import Path

import asyncpg
import pytest
from tests.docs.documents import ROOT, blocks_of
from tests.docs.machines import Machines

from perdure.base.shards import SHARDS
from perdure.testing.postgres import fresh_database

PAGE = ROOT / "docs" / "how-to" / "three-machines.md"
REASON = "needs several machines, see test_three_machines.py"


class Shopper(threading.Thread):
    """Adds to a cart of its own through the balancer, and counts."""

    def __init__(self, name: str, balancer: str) -> None:
        super().__init__(name=name)
        self._balancer = balancer
        self._is_over = threading.Event()
        self.added = 0
        self.failures: list[str] = []

    def run(self) -> None:
        while not self._is_over.wait(0.01):
            connection = http.client.HTTPConnection(self._balancer, timeout=30)
            try:
                connection.request("POST", f"/cart/{self.name}/add", b'{"sku": "tea"}')
                reply = connection.getresponse()
                body = reply.read().decode()
                self.added += 1
                if (reply.status, body) != (200, f'{{"tea":{self.added}}}'):
                    self.failures.append(f"{time.time():.1f} {reply.status} {body[:200]}")
            except OSError as error:
                self.failures.append(f"{time.time():.1f} {error!r}")
            finally:
                connection.close()

    def end(self) -> None:
        self._is_over.set()
        self.join(timeout=60)


async def rows_of(store: str, query: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(store)
    try:
        return await connection.fetch(query)
    finally:
        await connection.close()


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="needs HAProxy")
def test_the_how_to_leads_to_three_machines_and_no_request_fails(tmp_path: Path) -> None:
    store = fresh_database()
    machines = Machines(tmp_path, store)
    shoppers: list[Shopper] = []
    blocks = blocks_of(PAGE)
    try:
        machines.do(blocks[0])  # shop.py
        for block in blocks:
            if block.language == "sql":
                members = asyncio.run(rows_of(store, block.text))
                # two of three are left, with half of the shards each
                assert [row["state"] for row in members] == ["active", "active"]
                assert sum(row["shards"] for row in members) == SHARDS
                assert all(row["shards"] > SHARDS / 3 for row in members)
            elif block.reason == REASON:
                machines.do(block)
            if "restart haproxy" in block.text:  # from here on there is a balancer
                shoppers = [Shopper(f"shopper-{number}", machines.balancer) for number in range(4)]
                for shopper in shoppers:
                    shopper.start()
        for shopper in shoppers:
            shopper.end()
        assert len(shoppers) == 4
        for shopper in shoppers:
            assert shopper.failures == [], machines.logs()
            assert shopper.added > 100
    finally:
        for shopper in shoppers:
            shopper.end()
        machines.close()
