"""Putting whole actors into a SQLite store."""

from pathlib import Path

import pytest

from perdure.store.api import ActorSchema, StoredActor
from perdure.store.sqlite import SqliteStore
from perdure.store.sqlite_import import SqliteImport
from perdure.testing import async_test
from perdure.testing.store_contract import batch, record, write


@async_test
async def test_a_replaced_actor_takes_its_remembered_answers_along(tmp_path: Path) -> None:
    """Else a call that is repeated would be told of an effect which went with the old state."""
    store = SqliteStore(tmp_path)
    await store.open([ActorSchema("cart")])
    await store.commit(batch(write("a", 1), write("b", 1), record("a", "r"), record("b", "r")))
    await store.close()
    importing = SqliteImport(tmp_path)
    with importing.batch():
        importing.put("cart", StoredActor("a", b'{"n":1}', 7, 1, 2), replace=True)
    importing.close()
    await store.open([ActorSchema("cart")])
    assert await store.find_request("cart", "a", "r") is None
    assert await store.find_request("cart", "b", "r") == record("b", "r")
    await store.close()


def test_a_batch_that_fails_leaves_nothing(tmp_path: Path) -> None:
    importing = SqliteImport(tmp_path)
    with pytest.raises(ValueError, match="enough"), importing.batch():
        importing.put("cart", StoredActor("a", b"{}", 1, 1, 1), replace=True)
        raise ValueError("enough")
    with importing.batch():  # the table went with the batch, and is made again
        importing.put("cart", StoredActor("b", b"{}", 1, 1, 1), replace=False)
    importing.close()
