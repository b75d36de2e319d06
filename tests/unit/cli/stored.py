"""Stores for the commands about classes that change."""

import asyncio

from tests.unit.cli.invoking import store_at

from perdure.cli.looking import Place, looking
from perdure.store.api import ActorSchema, ActorWrite, Batch, StoredActor


def write(place: Place, schema: ActorSchema, states: dict[str, str], at_ms: int = 1_000) -> None:
    """Commit states as a release with this schema would; on top of what is there."""

    async def body() -> None:
        store = store_at(place)
        await store.open([schema])
        writes = []
        for key, state in states.items():
            row = await store.load(schema.name, key)
            version = row.version + 1 if row else 1
            writes.append(ActorWrite(schema.name, key, state.encode(), version))
        for start in range(0, len(writes), 500):
            await store.commit(Batch(writes[start : start + 500], [], at_ms))
        await store.close()

    asyncio.run(body())


def rows(place: Place, name: str) -> dict[str, StoredActor]:
    """Every row of a type by key."""
    with looking(place) as reader:
        return {row.key: row for row in reader.scan(name, "", 100_000)}
