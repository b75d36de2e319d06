"""A process of the release before, started again amid a deploy, leaves the newer one's indexes."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest

from perdure.store.api import ActorSchema, IndexedField, Store
from perdure.store.postgres import PostgresStore
from perdure.store.sqlite import SqliteStore
from perdure.testing import async_test
from perdure.testing.postgres import fresh_database

OLD = ActorSchema("cart", fields=["name"], indexes=[IndexedField("name")])
NEW = ActorSchema(
    "cart",
    fields=["name", "email", "due", "f" * 80],
    indexes=[
        IndexedField("name"),
        IndexedField("email", unique=True),
        IndexedField("due", "time"),
        IndexedField("f" * 80, unique=True),
    ],
)
OTHER = ActorSchema("cart", fields=["name"], indexes=[IndexedField("name", unique=True)])
SQLITE = "SELECT name FROM sqlite_schema WHERE type = 'index' AND tbl_name = 'cart'"
POSTGRES = "SELECT indexname FROM pg_indexes WHERE tablename = 'cart'"


async def _open(make: Callable[[], Store], *schemas: ActorSchema) -> None:
    for schema in schemas:
        store = make()
        await store.open([schema])
        await store.close()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
@async_test
async def test_only_indexes_of_fields_that_the_code_has_are_dropped(
    kind: str, tmp_path: Path
) -> None:
    url = fresh_database() if kind == "postgresql" else ""

    def make() -> Store:
        return PostgresStore(url) if url else SqliteStore(tmp_path)

    async def names() -> set[str]:
        if url:
            connection = await asyncpg.connect(url)
            found = {row[0] for row in await connection.fetch(POSTGRES)}
            await connection.close()
        else:
            file = sqlite3.connect(next(tmp_path.glob("*.db")))
            found = {row[0] for row in file.execute(SQLITE)}
            file.close()
        return {name for name in found if name.startswith(("perdure_ix", "perdure_uq"))}

    await _open(make, OLD)
    before = await names()
    await _open(make, NEW)
    after = await names()
    assert len(after) >= 4
    await _open(make, OLD)
    assert await names() == after
    await _open(make, NEW)
    assert await names() == after
    await _open(make, OTHER)
    declared_otherwise = await names()
    assert not before & declared_otherwise
    assert after - before < declared_otherwise
    await _open(make, NEW)
    assert await names() == after
