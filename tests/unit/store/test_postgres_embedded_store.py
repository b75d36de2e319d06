"""The store on an embedded server, by its URL."""

import shutil
import tempfile
from pathlib import Path

import pytest

from perdure.base.errors import StoreError
from perdure.store.api import ActorSchema, IndexedField
from perdure.store.url import store_from_url
from perdure.testing import async_test
from perdure.testing.store_contract import SCHEMAS, batch, write


@async_test
async def test_a_url_names_a_store_whose_server_comes_and_goes_with_it() -> None:
    directory = Path(tempfile.mkdtemp(prefix="perdure-embedded-"))
    directory.chmod(0o711)
    running = directory / "data" / "postgres" / "postmaster.pid"
    for version in (1, 2):
        store = store_from_url(f"postgresql:embedded:{directory}/data")
        await store.open(SCHEMAS)
        assert running.exists()
        await store.commit(batch(write("a", version)))
        await store.close()
        assert not running.exists()
    shared = ActorSchema("cart", 1, ("n",), (IndexedField("n", unique=True),))
    store = store_from_url(f"postgresql:embedded:{directory}/data")
    await store.open([shared])
    await store.commit(batch(write("a", 3, b'{"n":1}')))
    await store.close()
    shutil.rmtree(directory)


def test_a_url_that_only_looks_like_an_embedded_one_is_refused() -> None:
    for url in ("postgresql:embed", "postgresql:embedded2"):
        with pytest.raises(StoreError):
            store_from_url(url)
