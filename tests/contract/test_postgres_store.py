"""The store contract on PostgreSQL."""

from pathlib import Path

from perdure.store.api import Store
from perdure.store.postgres import PostgresStore
from perdure.testing.postgres import fresh_database
from perdure.testing.store_contract import StoreContract


class TestPostgresStore(StoreContract):
    examples = 15

    def make_place(self, tmp_path: Path) -> str:
        return fresh_database()

    def make_store(self, place: str) -> Store:
        return PostgresStore(place)
