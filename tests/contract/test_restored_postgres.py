"""A database that was dumped beside a running app, and restored into another one, goes on."""

import asyncio
import subprocess
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from tests.unit.cli.invoking import perdure

from perdure import Actor, App, expose
from perdure.store.postgres_programs import carried_versions
from perdure.testing.postgres import fresh_database

PROGRAMS = max(carried_versions().items())[1]


class Shelf(Actor):
    taken: list[int] = []

    async def take(self, qty: int) -> None:
        if qty < 0:
            raise ValueError("less than nothing")
        self.taken.append(qty)


class Cart(Actor):
    n: int = 0

    @expose
    async def add(self, qty: int) -> int:
        self.n += 1
        Shelf.at("tea").tell.take(qty)
        return self.n


def run(program: str, *arguments: str | Path) -> None:
    subprocess.run([PROGRAMS / program, *arguments], check=True, capture_output=True, timeout=60)


async def query(url: str, sql: str) -> list[tuple[Any, ...]]:
    connection = await asyncpg.connect(url)
    try:
        return [tuple(row) for row in await connection.fetch(sql)]
    finally:
        await connection.close()


async def incarnations(url: str) -> list[int]:
    return [one for (one,) in await query(url, "SELECT incarnation FROM perdure_member ORDER BY 1")]


async def until_taken(url: str, count: int) -> None:
    async with asyncio.timeout(20):
        while (
            await query(
                url, "SELECT coalesce(max(json_array_length(state -> 'taken')), 0) FROM shelf"
            )
        ) != [(count,)]:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("ends", ["before the restore", "after the restore"])
def test_a_dump_of_a_running_app_restored_elsewhere_goes_on(tmp_path: Path, ends: str) -> None:
    url, copy, dump = fresh_database(), fresh_database(), tmp_path / "shop.dump"
    old: list[int] = []

    async def restore() -> None:
        await asyncio.to_thread(run, "pg_restore", "--no-owner", "--dbname", copy, dump)

    async def first() -> None:
        async with App(Cart, Shelf, store=url):
            for qty in (1, 2):
                await Cart.at("alice").add(qty)
            await until_taken(url, 2)
            old.extend(await incarnations(url))
            await asyncio.to_thread(run, "pg_dump", "--format=custom", "--file", dump, url)
            if ends == "after the restore":
                await restore()
            await Cart.at("alice").add(3)  # what comes behind the dump is not in the copy
            await until_taken(url, 3)
        if ends == "before the restore":
            await restore()

    async def second() -> None:
        assert await incarnations(copy) == old  # as if they had been killed
        async with App(Cart, Shelf, store=copy):
            [new] = await incarnations(copy)
            assert new > max(old)
            assert await query(copy, "SELECT DISTINCT owner FROM perdure_shard") == [(new,)]
            assert await Cart.at("alice").add(4) == 3
            await until_taken(copy, 3)
        fences = await query(copy, "SELECT incarnation FROM perdure_fence WHERE incarnation > 0")
        assert fences == []

    asyncio.run(first())
    asyncio.run(second())
    shown = perdure("state", "query", "SELECT state FROM shelf", "--json", "--store", copy)
    assert shown.output == '{"state":"{\\"taken\\":[1,2,4]}"}\n'
    shown = perdure("state", "query", "SELECT state FROM shelf", "--json", "--store", url)
    assert shown.output == '{"state":"{\\"taken\\":[1,2,3]}"}\n'


def test_a_restored_database_holds_all_that_the_first_one_held(tmp_path: Path) -> None:
    """Timers, entries, messages, remembered calls and sequences, in each table of the store."""
    url, copy, dump = fresh_database(), fresh_database(), tmp_path / "shop.dump"

    async def body() -> None:
        async with App(Cart, Shelf, store=url):
            await Cart.at("alice").add(1)
            await Cart.at("bob").add(-1)
        await asyncio.to_thread(run, "pg_dump", "--format=custom", "--file", dump, url)
        await asyncio.to_thread(run, "pg_restore", "--no-owner", "--dbname", copy, dump)
        names = await query(url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        assert len(names) >= 12
        for (name,) in names:
            rows = f"SELECT t::text FROM {name} AS t ORDER BY 1"
            assert await query(copy, rows) == await query(url, rows), name
        for sequence in ("perdure_incarnation", "perdure_message_block"):
            last = f"SELECT last_value, is_called FROM {sequence}"
            assert await query(copy, last) == await query(url, last)

    asyncio.run(body())
    again = [perdure("state", "export", "-", "--store", one).output for one in (url, copy)]
    assert again[0] == again[1]
    assert '"key":"alice"' in again[0]
