"""What a PostgreSQL store does while its network or its server fails."""

import asyncio
import os
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest
from tests.faults.wire import Streams, Wire

from perdure.base.errors import FencedError, OutcomeUnknownError, StoreError, StoreFullError
from perdure.store import postgres, postgres_link
from perdure.store.postgres import PostgresStore
from perdure.store.postgres_embedded import EmbeddedServer
from perdure.store.postgres_reader import Reader
from perdure.testing import async_test
from perdure.testing.postgres import fresh_database
from perdure.testing.store_contract_base import SCHEMAS, batch, message, write

QUICK_S = 0.5


@asynccontextmanager
async def wired(url: str) -> AsyncIterator[tuple[PostgresStore, Wire]]:
    """A store of this database, and the wire between the two."""
    parts = urlsplit(url)
    [directory] = parse_qs(parts.query)["host"]

    async def connect() -> Streams:
        return await asyncio.open_unix_connection(f"{directory}/.s.PGSQL.5432")

    wire = await Wire(connect).open()
    store = PostgresStore(f"postgresql://perdure@127.0.0.1:{wire.port}{parts.path}")
    try:
        await store.open(SCHEMAS)
        yield store, wire
    finally:
        await store.close()
        await wire.close()


@pytest.fixture
def server() -> Iterator[EmbeddedServer]:
    """One that this test alone uses."""
    directory = Path(tempfile.mkdtemp(prefix="perdure-faults-"))
    directory.chmod(0o711)
    server = EmbeddedServer(directory, settings={"fsync": "off"})
    server.start()
    yield server
    server.stop(at_once=True)
    shutil.rmtree(directory)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines that a test can wait for."""
    monkeypatch.setattr(postgres, "COMMIT_S", QUICK_S)
    monkeypatch.setattr(postgres_link, "COMMIT_S", QUICK_S)
    assert Reader.rows.__kwdefaults__ is not None
    monkeypatch.setitem(Reader.rows.__kwdefaults__, "timeout_s", QUICK_S)


@pytest.mark.parametrize("after", [False, True])
def test_a_connection_cut_at_a_commit_loses_and_doubles_nothing(after: bool) -> None:
    async def body() -> None:
        async with wired(fresh_database()) as (store, wire):
            for number in range(5):
                wire.cut_at(b"cut me here", after=after)
                sent = message("a", "b", "cut me here")
                committed = await store.commit(batch(write("a", number + 1), sent))
                assert wire.cuts == number + 1
                found = await store.messages(sent.stream, 0, 9)
                assert found[-1].id == committed.message_ids[0]
                assert len(found) == number + 1

    async_test(body)()


@async_test
async def test_a_read_whose_connection_is_cut_is_asked_again() -> None:
    async with wired(fresh_database()) as (store, wire):
        await store.commit(batch(write("read me", 1)))
        for after in (False, True):
            wire.cut_at(b"read me", after=after)
            found = await store.load("cart", "read me")
            assert found is not None
        assert wire.cuts == 2


@async_test
async def test_a_frozen_network_costs_no_more_than_the_deadlines(quick: None) -> None:
    async with wired(fresh_database()) as (store, wire):
        await store.commit(batch(write("a", 1)))
        assert await store.load("cart", "a") is not None
        wire.freeze()
        began_s = time.monotonic()
        with pytest.raises(StoreError, match="did not answer"):
            await store.entry("cart", "a", "lines", "x")
        with pytest.raises(OutcomeUnknownError):
            await store.commit(batch(write("a", 2)))
        with pytest.raises(StoreError):
            await store.load("cart", "a")
        assert time.monotonic() - began_s < 4 * QUICK_S + 1
        wire.thaw()
        async with asyncio.timeout(10):
            while True:
                try:
                    found = await store.load("cart", "a")
                    break
                except StoreError:
                    await asyncio.sleep(0.01)
        assert found is not None
        await store.commit(batch(write("a", found.version + 1)))


def kill(server: EmbeddedServer) -> None:
    """As the kernel does it when memory is short."""
    directory = Path(parse_qs(urlsplit(server.url).query)["host"][0])
    os.kill(int((directory / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)


def test_commits_wait_for_a_server_that_was_killed_and_none_is_lost(
    server: EmbeddedServer,
) -> None:
    async def body() -> None:
        store = PostgresStore(server.url)
        await store.open(SCHEMAS)
        acknowledged: list[int] = []
        version = 0

        async def commit_on() -> None:
            nonlocal version
            while True:
                version += 1
                sent = message("a", "b", str(version))
                committed = await store.commit(batch(write("a", version), sent))
                acknowledged.append(committed.message_ids[0])

        async def more() -> None:
            wanted = len(acknowledged) + 20
            while len(acknowledged) < wanted:
                assert not committing.done(), committing.exception()
                await asyncio.sleep(0.001)

        committing = asyncio.create_task(commit_on())
        for _ in range(2):
            await more()
            kill(server)
            await asyncio.to_thread(server.start)
        await more()
        committing.cancel()
        await asyncio.wait([committing])
        found = await store.messages(message("a", "b").stream, 0, 10_000)
        stored = [one.id for one in found]
        assert stored[: len(acknowledged)] == acknowledged
        assert len(stored) - len(acknowledged) in {0, 1}  # the one that was cancelled
        [row] = await store.scan("cart", "", 9)
        assert row.version == len(stored)
        await store.close()

    async_test(body, within_s=60)()


def test_while_the_server_is_away_calls_fail_quickly_and_then_all_works_again(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body() -> None:
        store = PostgresStore(server.url)
        await store.open(SCHEMAS)
        await store.commit(batch(write("a", 1)))
        tries: list[float] = []
        connect = asyncpg.connect

        async def counted(*arguments: object, **named: object) -> object:
            tries.append(time.monotonic())
            return await connect(*arguments, **named)

        monkeypatch.setattr(asyncpg, "connect", counted)
        monkeypatch.setattr(postgres_link, "COMMIT_S", QUICK_S)
        await asyncio.to_thread(server.stop)
        began_s = time.monotonic()
        failed, slowest_s = 0, 0.0
        while time.monotonic() < began_s + 2:
            asked_s = time.monotonic()
            with pytest.raises(StoreError):
                await store.load("cart", "a")
            slowest_s = max(slowest_s, time.monotonic() - asked_s)
            failed += 1
            await asyncio.sleep(0.001)
        with pytest.raises(StoreError):
            await store.commit(batch(write("a", 2)))
        assert failed > 100
        assert slowest_s < 2
        assert len(tries) < 20
        await asyncio.to_thread(server.start)
        found = None
        async with asyncio.timeout(10):
            while found is None:
                try:
                    found = await store.load("cart", "a")
                except StoreError:
                    await asyncio.sleep(0.01)
        await store.commit(batch(write("a", 2)))
        await store.close()

    async_test(body, within_s=60)()


@async_test
async def test_a_commit_whose_caller_was_cancelled_is_made_or_not_but_not_half() -> None:
    store = PostgresStore(fresh_database())
    await store.open(SCHEMAS)
    version = cancelled = 0
    for turns in range(12):  # of the event loop, until it is cancelled
        committing = asyncio.create_task(
            store.commit(batch(write("a", version + 1), message("a", "b")))
        )
        for _ in range(turns):
            await asyncio.sleep(0)
        cancelled += committing.cancel()
        await asyncio.wait([committing])
        found = await store.load("cart", "a")  # waits until the outcome is known
        sent = await store.messages(message("a", "b").stream, 0, 99)
        version = 0 if found is None else found.version
        assert len(sent) == version
    assert version
    assert cancelled > 3
    await store.commit(batch(write("a", version + 1)))
    await store.close()


@async_test
async def test_a_full_disk_is_told_and_writes_resume() -> None:
    url = fresh_database()
    store = PostgresStore(url)
    await store.open(SCHEMAS)
    await store.commit(batch(write("a", 1)))
    other = await asyncpg.connect(url)
    await other.execute("""
        CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'no space' USING ERRCODE = '53100'; END $$;
        CREATE TRIGGER full_disk BEFORE UPDATE ON cart EXECUTE FUNCTION full_disk();
    """)
    with pytest.raises(StoreFullError):
        await store.commit(batch(write("a", 2)))
    found = await store.load("cart", "a")
    assert found is not None
    assert found.version == 1
    await other.execute("DROP TRIGGER full_disk ON cart")
    await store.commit(batch(write("a", 2)))
    await other.close()
    await store.close()


def test_who_froze_in_the_midst_of_a_commit_is_fenced_when_it_goes_on() -> None:
    async def body() -> None:
        url = fresh_database()
        async with wired(url) as (frozen, wire):
            await frozen.commit(batch(write("a", 1)))
            wire.freeze()
            late = asyncio.create_task(frozen.commit(batch(write("a", 2))))
            await asyncio.sleep(0)
            successor = PostgresStore(url)
            await successor.open(SCHEMAS)
            await successor.commit(batch(write("a", 2)))
            wire.thaw()
            with pytest.raises(FencedError):
                await late
            await successor.commit(batch(write("a", 3)))
            await successor.close()

    async_test(body)()
