"""The store contract on PostgreSQL."""

from pathlib import Path

import asyncpg

from perdure.base.codec import encode
from perdure.store.api import ActorSchema, Condition, IndexedField, Query, Store
from perdure.store.postgres import PostgresStore
from perdure.testing import async_test
from perdure.testing.postgres import fresh_database
from perdure.testing.store_contract import StoreContract
from perdure.testing.store_contract_base import batch, write


class TestPostgresStore(StoreContract):
    examples = 15

    def make_place(self, tmp_path: Path) -> str:
        return fresh_database()

    def make_store(self, place: str) -> Store:
        return PostgresStore(place)


LONG = "n" * 62 + "é"
NAMES = [
    'x"; DROP TABLE perdure_fence; --',
    "it's",
    "back\\slash",
    "%s $1 {0}",
    "select",
    "pg_class",
    LONG + "1",  # the first 63 bytes of the next two are the same
    LONG + "2",
    "é" * 100,
]


@async_test
async def test_no_name_of_a_class_or_field_is_too_long_or_too_hostile() -> None:
    fields = [IndexedField(name, unique=True) for name in NAMES]
    schemas = [ActorSchema(name, fields=NAMES, indexes=fields, expires=True) for name in NAMES]
    url = fresh_database()
    for version in (1, 2):
        store = PostgresStore(url)
        await store.open(schemas)
        for at, name in enumerate(NAMES):
            for key in (f"{at}", name):
                state = encode(dict.fromkeys(NAMES, f"{at}{key}"))
                await store.commit(batch(write(key, version, state, name)))
            twice = await store.commit(batch(write("another", 1, state, name)))
            assert [one.field for one in twice.refused] == [NAMES[0]]
            for field in fields:
                found = await store.query(Query(name, [Condition(field, "eq", f"{at}{name}")]))
                assert [row.key for row in found] == [name]
            assert await store.expired(name, 1 << 50, 9) != []
        assert await store.actor_types() == dict.fromkeys(NAMES, 2)
        await store.close()


@async_test
async def test_a_view_has_a_column_for_each_field_whatever_its_name() -> None:
    url = fresh_database()
    store = PostgresStore(url)
    await store.open([ActorSchema("cart", fields=NAMES)])
    await store.commit(batch(write("a", 1, encode(dict.fromkeys(NAMES, "x")))))
    connection = await asyncpg.connect(url)
    row = await connection.fetchrow("SELECT * FROM perdure_view_cart")
    assert row is not None
    assert list(row.values())[:-3] == ["a", *["x"] * len(NAMES)]
    await connection.close()
    await store.close()
