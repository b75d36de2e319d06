"""Fill a store with many sleeping actors, through the store's own commit, a batch at a time."""

import asyncio
import time
from pathlib import Path

BATCH_SIZE = 2_000


def fill(data: Path, model_key: str, count: int) -> int:
    """Store `count` copies of the actor `model_key` as cart-1, cart-2, …; return its state's size.

    The copies go through `SqliteStore.commit`, so they are exactly what Perdure itself would have
    written, whatever the tables look like. Nobody else may have the data directory open.
    """
    return asyncio.run(_fill(data, model_key, count))


async def _fill(data: Path, model_key: str, count: int) -> int:
    from perdure.store.api import ActorSchema, ActorWrite, Batch
    from perdure.store.sqlite import SqliteStore

    store = SqliteStore(data)
    await store.open([ActorSchema("cart")])
    try:
        model = await store.load("cart", model_key)
        assert model is not None, f"{model_key} was not stored as a cart"
        for start in range(1, count + 1, BATCH_SIZE):
            indexes = range(start, min(start + BATCH_SIZE, count + 1))
            writes = [ActorWrite("cart", f"cart-{index}", model.state, 1) for index in indexes]
            await store.commit(Batch(writes, [], int(time.time() * 1000)))
    finally:
        await store.close()
    return len(model.state)
