"""What the registry in PostgreSQL adds to the contract: who waits for whom, and for how long."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import asyncpg
import pytest

from perdure.base.clock import SystemClock
from perdure.base.errors import FencedError, StoreError
from perdure.base.shards import SHARDS
from perdure.store.postgres_link import Server
from perdure.store.postgres_registry import PostgresRegistry
from perdure.store.postgres_registry_tables import LOCK_SCHEMA
from perdure.store.registry import NOBODY
from perdure.testing import async_test
from perdure.testing.postgres import fresh_database
from perdure.testing.registry_contract_base import KEY, LONG_S, SHORT_S, joined, member_of, owned

_COMMIT = "UPDATE perdure_fence SET commit_number = commit_number + 1 WHERE incarnation = $1"
_QUICK = """
ALTER FUNCTION perdure_take_over SET lock_timeout = 100;
ALTER FUNCTION perdure_hand_over SET lock_timeout = 100;
ALTER FUNCTION perdure_leave SET lock_timeout = 100;
ALTER FUNCTION perdure_join SET lock_timeout = 100
"""


def _registry(url: str) -> PostgresRegistry:
    return PostgresRegistry(Server(url, SystemClock()))


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[PostgresRegistry]:
    registry = _registry(url)
    await registry.open()
    try:
        yield registry
    finally:
        await registry.close()


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        connection.terminate()


async def waits_for_a_lock(watcher: asyncpg.Connection, statement: str) -> None:
    """Until somebody who runs this statement waits for a lock."""
    sql = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND starts_with(query, $1)"
    async with asyncio.timeout(5):
        while await watcher.fetchval(sql, statement) is None:
            await asyncio.sleep(0.01)


@async_test
async def test_a_take_over_waits_for_the_commit_under_way_and_fences_the_next() -> None:
    url = fresh_database()
    async with opened(url) as registry, connected(url) as victims, connected(url) as watcher:
        victim = await registry.join("victim", "tcp:h:1", "1", 0.0, KEY)
        await registry.take_over(NOBODY, {1: victim}, seen_dead=False)
        transaction = victims.transaction()
        await transaction.start()
        await victims.execute("CREATE TABLE made_by_commit ()")
        assert await victims.execute(_COMMIT, victim) == "UPDATE 1"
        taking = asyncio.create_task(registry.take_over(victim, {}, seen_dead=False))
        await waits_for_a_lock(watcher, "SELECT perdure_take_over")
        assert not taking.done()
        await transaction.commit()
        view = await taking
        assert view is not None
        assert owned(view) == {}
        assert await watcher.fetchval("SELECT to_regclass('made_by_commit')") is not None
        assert await victims.execute(_COMMIT, victim) == "UPDATE 0"


@async_test
async def test_a_commit_that_comes_while_its_process_is_taken_out_finds_no_fence() -> None:
    url = fresh_database()
    async with opened(url) as registry, connected(url) as taker, connected(url) as victims:
        victim = await joined(registry)
        transaction = taker.transaction()
        await transaction.start()
        assert await taker.fetchval("SELECT perdure_take_over($1, true, '{}', '{}')", victim)
        committing = asyncio.create_task(victims.execute(_COMMIT, victim))
        async with connected(url) as watcher:
            await waits_for_a_lock(watcher, "UPDATE perdure_fence")
        await transaction.commit()
        assert await committing == "UPDATE 0"


@async_test
async def test_a_commit_that_does_not_end_makes_a_take_over_fail_and_change_nothing() -> None:
    url = fresh_database()
    async with opened(url) as registry, connected(url) as victims:
        await victims.execute(_QUICK)
        victim, heir = await joined(registry), await joined(registry)
        await registry.take_over(NOBODY, {1: victim}, seen_dead=False)
        before = await registry.view(0)
        transaction = victims.transaction()
        await transaction.start()
        await victims.execute(_COMMIT, victim)
        for attempt in (
            registry.take_over(victim, {1: heir}, seen_dead=True),
            registry.leave(victim),
        ):
            with pytest.raises(StoreError, match="lock timeout"):
                await attempt
        after = await registry.view(0)
        assert (after.version, after.owners) == (before.version, before.owners)
        await transaction.commit()
        assert await victims.execute(_COMMIT, victim) == "UPDATE 1"
        assert await registry.take_over(victim, {1: heir}, seen_dead=True) is not None


@async_test
async def test_a_renewal_waits_neither_for_commits_nor_for_changes_of_the_cluster() -> None:
    url = fresh_database()
    async with opened(url) as registry, opened(url) as other, connected(url) as commits:
        one, victim = await joined(registry), await registry.join("v", "tcp:h:1", "1", 0.0, KEY)
        transaction = commits.transaction()
        await transaction.start()
        await commits.execute(_COMMIT, victim)
        await commits.execute(_COMMIT, one)
        taking = asyncio.create_task(other.take_over(victim, {}, seen_dead=False))
        async with connected(url) as watcher:
            await waits_for_a_lock(watcher, "SELECT perdure_take_over")
        view = await registry.renew(one, LONG_S, "active", 0)
        assert member_of(view, one).lease_left_ms > LONG_S * 900
        assert not taking.done()
        await transaction.commit()
        assert await taking is not None


@async_test
async def test_who_renews_while_it_is_taken_out_hears_that_it_is_out() -> None:
    url = fresh_database()
    async with opened(url) as registry, opened(url) as other, connected(url) as commits:
        victim = await registry.join("v", "tcp:h:1", "1", 0.0, KEY)
        transaction = commits.transaction()
        await transaction.start()
        await commits.execute(_COMMIT, victim)
        taking = asyncio.create_task(other.take_over(victim, {}, seen_dead=False))
        async with connected(url) as watcher:
            await waits_for_a_lock(watcher, "SELECT perdure_take_over")
            renewing = asyncio.create_task(registry.renew(victim, LONG_S, "active", 0))
            await waits_for_a_lock(watcher, "\nWITH renewed")
        await transaction.commit()
        assert await taking is not None
        with pytest.raises(FencedError):
            await renewing


@async_test
async def test_a_renewal_under_way_makes_a_take_over_look_again() -> None:
    url = fresh_database()
    async with opened(url) as registry, connected(url) as renewing, connected(url) as watcher:
        victim = await registry.join("v", "tcp:h:1", "1", 0.0, KEY)
        transaction = renewing.transaction()
        await transaction.start()
        await renewing.execute("UPDATE perdure_member SET lease_until = now() + interval '1 hour'")
        taking = asyncio.create_task(registry.take_over(victim, {}, seen_dead=False))
        await waits_for_a_lock(watcher, "SELECT perdure_take_over")
        await transaction.commit()
        assert await taking is None
        assert await renewing.execute(_COMMIT, victim) == "UPDATE 1"


@async_test
async def test_somebody_who_keeps_the_cluster_locked_makes_changes_fail_in_time() -> None:
    url = fresh_database()
    async with opened(url) as registry, connected(url) as stuck:
        await stuck.execute(_QUICK)
        one = await joined(registry)
        transaction = stuck.transaction()
        await transaction.start()
        await stuck.execute("SELECT 1 FROM perdure_cluster FOR UPDATE")
        for attempt in (
            registry.take_over(NOBODY, {1: one}, seen_dead=False),
            registry.hand_over(one, {}, 0),
            registry.leave(one),
            joined(registry),
        ):
            with pytest.raises(StoreError, match="lock timeout"):
                await attempt
        await registry.renew(one, LONG_S, "active", 0)
        await transaction.rollback()
        await registry.leave(one)


@async_test
async def test_ten_processes_can_make_the_tables_at_once() -> None:
    registries = [_registry(url) for url in [fresh_database()] for _ in range(10)]
    await asyncio.gather(*(registry.open() for registry in registries))
    incarnations = await asyncio.gather(*(joined(registry) for registry in registries))
    assert sorted(incarnations) == list(range(1, 11))
    for registry in registries:
        view = await registry.view(0)
        assert len(view.members) == 10
        assert len(view.owners or ()) == SHARDS
        await registry.close()


@async_test
async def test_nothing_that_is_called_waits_for_locks_without_end() -> None:
    url = fresh_database()
    async with opened(url), connected(url) as reader:
        rows = await reader.fetch(
            "SELECT proname, proconfig::text FROM pg_proc WHERE proname LIKE 'perdure%'"
        )
        unbounded = {name for name, settings in rows if "lock_timeout=2000" not in str(settings)}
        assert unbounded == {"perdure_give", "perdure_remove"}  # called by the others
        assert len(rows) == 8


@async_test
async def test_who_starts_while_another_makes_large_indexes_need_not_wait() -> None:
    url = fresh_database()
    async with opened(url), connected(url) as busy:
        transaction = busy.transaction()
        await transaction.start()
        await busy.execute(LOCK_SCHEMA)
        async with asyncio.timeout(2), opened(url) as registry:
            assert list((await registry.view(0)).members) == []


@async_test
async def test_each_shard_tells_with_which_version_its_owner_came() -> None:
    url = fresh_database()
    async with opened(url) as registry, connected(url) as reader:
        one, two = await joined(registry), await joined(registry)
        await registry.take_over(NOBODY, {1: one, 2: one}, seen_dead=False)
        first = (await registry.view(0)).version
        second = (await registry.hand_over(one, {1: two, 2: 99, 3: two}, first)).version
        last = await registry.take_over(one, {1: two, 2: one}, seen_dead=True)
        assert last is not None
        rows = await reader.fetch("SELECT * FROM perdure_shard WHERE since > 0 ORDER BY shard")
        assert [tuple(row) for row in rows] == [(1, two, second), (2, NOBODY, last.version)]


@async_test
async def test_a_registry_goes_on_after_its_connections_were_cut() -> None:
    url = fresh_database()
    async with opened(url) as registry, connected(url) as administrator:
        one = await joined(registry)
        await registry.view(0)
        cut = await administrator.fetch(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE application_name LIKE 'perdure%' AND datname = current_database()"
        )
        assert [row[0] for row in cut] == [True, True]
        with suppress(StoreError):  # the first call may be the one that finds out
            await registry.renew(one, LONG_S, "active", 0)
        with suppress(StoreError):
            await registry.hand_over(one, {}, 0)
        await registry.renew(one, LONG_S, "active", 0)
        assert await registry.take_over(NOBODY, {1: one}, seen_dead=False) is not None
        assert owned(await registry.view(0)) == {1: one}


@async_test
async def test_a_database_that_stopped_answering_is_given_up_in_time_and_found_again() -> None:
    url = fresh_database()
    async with opened(url) as registry, connected(url) as administrator:
        one = await joined(registry)
        await registry.view(0)
        frozen = await administrator.fetchval(
            "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'perdure%'"
            " AND datname = current_database() AND query LIKE '%renewed%'"
        )
        registry._looks._answer_s = 0.2
        os.kill(frozen, signal.SIGSTOP)
        try:
            with pytest.raises(StoreError, match=r"did not answer within 0\.2 s"):
                await registry.renew(one, LONG_S, "active", 0)
            registry._looks._answer_s = 5.0
            assert len((await registry.renew(one, LONG_S, "active", 0)).members) == 1
        finally:
            os.kill(frozen, signal.SIGCONT)


@async_test
async def test_a_database_that_is_not_there_is_named_without_its_password() -> None:
    registry = _registry("postgresql://me:secret@127.0.0.1:1/shop")
    with pytest.raises(StoreError, match=r"127\.0\.0\.1:1/shop cannot be reached") as caught:
        await registry.open()
    assert "secret" not in str(caught.value)
    await registry.close()


@async_test
async def test_who_gives_up_waiting_disturbs_nobody_who_comes_next() -> None:
    """A cancelled call leaves an answer under way, which must not be taken for the next one's."""
    url = fresh_database()
    async with opened(url) as registry, connected(url) as stuck:
        one = await joined(registry)
        transaction = stuck.transaction()
        await transaction.start()
        await stuck.execute("SELECT 1 FROM perdure_cluster FOR UPDATE")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(SHORT_S):
                await registry.hand_over(one, {}, 0)
        await transaction.rollback()
        two = await joined(registry)
        assert two > one
        assert [member.incarnation for member in (await registry.view(0)).members] == [one, two]
