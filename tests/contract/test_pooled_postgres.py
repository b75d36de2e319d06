"""PostgreSQL behind PgBouncer, which gives each transaction another connection."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from perdure.base.clock import SystemClock
from perdure.base.errors import FencedError
from perdure.store.api import Store
from perdure.store.postgres import PostgresStore
from perdure.store.postgres_link import Server
from perdure.store.registry import NOBODY
from perdure.testing import async_test
from perdure.testing.pooler import PGBOUNCER, pooler
from perdure.testing.postgres import fresh_database
from perdure.testing.registry_contract import LONG_S, SHORT_S, eventually
from perdure.testing.store_contract import StoreContract
from perdure.testing.store_contract_base import SCHEMAS, StoreCase, batch, write

pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="there is no pgbouncer here")

IGNORING = {"ignore_startup_parameters": "plan_cache_mode,extra_float_digits"}


@pytest.fixture(scope="module", autouse=True)
def way() -> Iterator[None]:
    with pooler(fresh_database()) as url:
        Way.url = url.rpartition("/")[0]
        yield


class Way:
    """Where the pooler is, up to the name of a database."""

    url = ""


def pooled(direct: str) -> str:
    return f"{Way.url}/{direct.partition('?')[0].rpartition('/')[2]}"


class TestPooledStore(StoreCase):
    def make_place(self, tmp_path: Path) -> str:
        return pooled(fresh_database())

    def make_store(self, place: str) -> Store:
        return PostgresStore(place)

    test_conflicts = StoreContract.test_a_conflict_leaves_nothing_of_the_batch
    test_large_batches = StoreContract.test_a_batch_of_ten_thousand_rows_is_kept_whole
    test_all_kinds_of_rows = StoreContract.test_opening_again_finds_every_kind_of_row
    test_refusals = StoreContract.test_all_that_belongs_to_refused_actors_is_left_out
    test_messages = StoreContract.test_many_messages_in_one_batch_keep_their_order
    test_letters = StoreContract.test_a_dead_letter_can_be_sent_again_or_thrown_away
    test_timers = StoreContract.test_paging_goes_through_all_timers_of_one_millisecond
    test_entries = StoreContract.test_collections_go_with_their_actor
    test_searches = StoreContract.test_pages_of_a_search_have_only_what_fits
    test_new_types = StoreContract.test_new_types_can_join_later
    test_forgetting = StoreContract.test_old_answers_are_forgotten_a_bounded_number_at_a_time


@pytest.mark.parametrize("settings", [{}, IGNORING])
def test_a_pooler_is_noticed_whatever_it_lets_through(settings: dict[str, str]) -> None:
    direct = fresh_database()

    async def body(url: str) -> None:
        behind, before = Server(url, SystemClock()), Server(direct, SystemClock())
        for server in (behind, before):
            (await server.connect()).drop()
        assert behind.pooled
        assert not before.pooled

    with pooler(direct, **settings) as url:
        async_test(body)(url)


@pytest.mark.parametrize("settings", [{}, IGNORING])
def test_nobody_behind_a_pooler_is_dead_before_its_lease_is_over(
    settings: dict[str, str],
) -> None:
    direct = fresh_database()

    async def body(url: str) -> None:
        store, watcher = PostgresStore(url), PostgresStore(direct)
        await store.open(SCHEMAS)
        await watcher.open(SCHEMAS)
        behind, before = store.registry, watcher.registry
        assert behind is not None
        assert before is not None
        await behind.open()
        await before.open()
        victim = await behind.join("victim", "tcp:h:1", "1", LONG_S, "key")
        heir = await before.join("heir", "tcp:h:2", "1", LONG_S, "key")
        await behind.take_over(NOBODY, {1: victim, 2: heir}, seen_dead=False)
        store.stand_on(victim)
        for asker in (behind, before):
            assert await asker.take_over(victim, {1: heir}, seen_dead=True) is None
        await store.commit(batch(write("a", 1)))
        await behind.renew(victim, SHORT_S, "active", 0)
        await eventually(lambda: before.take_over(victim, {1: heir}, seen_dead=True))
        with pytest.raises(FencedError):
            await store.commit(batch(write("a", 2)))
        for one in (behind, before):
            await one.close()
        await store.close()
        await watcher.close()

    with pooler(direct, **settings) as url:
        async_test(body)(url)
