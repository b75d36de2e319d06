"""The core of the contract on every older PostgreSQL that this machine has."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from perdure.store import postgres_embedded
from perdure.store.api import Store
from perdure.store.postgres import PostgresStore
from perdure.store.postgres_embedded import EmbeddedServer
from perdure.store.postgres_programs import carried_versions
from perdure.testing.postgres import database_at
from perdure.testing.store_contract import StoreContract
from perdure.testing.store_contract_base import StoreCase

VERSIONS = carried_versions() | {
    int(one.parent.parent.name): one.parent  # Debian's
    for one in Path("/usr/lib/postgresql").glob("*/bin/postgres")
}


class Here:
    """Where the server is that is tested just now."""

    url = ""


@pytest.fixture(scope="module", autouse=True, params=sorted(VERSIONS)[:-1])
def server(request: pytest.FixtureRequest) -> Iterator[None]:
    directory = Path(tempfile.mkdtemp(prefix="perdure-older-"))
    directory.chmod(0o711)
    with pytest.MonkeyPatch.context() as patched:
        versions = {request.param: VERSIONS[request.param]}
        patched.setattr(postgres_embedded, "carried_versions", lambda: versions)
        server = EmbeddedServer(directory, settings={"fsync": "off"})
        server.start()
    Here.url = server.url
    yield
    server.stop(at_once=True)
    shutil.rmtree(directory)


class TestOlderPostgres(StoreCase):
    def make_place(self, tmp_path: Path) -> str:
        return database_at(Here.url)

    def make_store(self, place: str) -> Store:
        return PostgresStore(place)

    test_conflicts = StoreContract.test_a_conflict_leaves_nothing_of_the_batch
    test_all_kinds_of_rows = StoreContract.test_opening_again_finds_every_kind_of_row
    test_refusals = StoreContract.test_all_that_belongs_to_refused_actors_is_left_out
    test_messages = StoreContract.test_many_messages_in_one_batch_keep_their_order
    test_timers = StoreContract.test_paging_goes_through_all_timers_of_one_millisecond
    test_entries = StoreContract.test_entries_come_in_the_order_of_code_points
    test_searches = StoreContract.test_pages_of_a_search_have_only_what_fits
    test_decimals = StoreContract.test_decimals_and_times_are_compared_by_value
    test_forgetting = StoreContract.test_old_answers_are_forgotten_a_bounded_number_at_a_time
