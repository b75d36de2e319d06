"""The store `postgresql:embedded:DIRECTORY`: a PostgreSQL store on a server of its own."""

import asyncio
from collections.abc import Iterable
from pathlib import Path

from perdure.base.clock import Clock
from perdure.store.api import ActorSchema
from perdure.store.postgres import PostgresStore
from perdure.store.postgres_embedded import EmbeddedServer


class EmbeddedPostgresStore(PostgresStore):
    """For development and tests: its server starts and stops with it, see `postgres_embedded`."""

    def __init__(self, directory: Path | str, clock: Clock | None = None) -> None:
        self._embedded = EmbeddedServer(directory, clock)
        super().__init__(self._embedded.url, clock)

    async def open(self, schemas: Iterable[ActorSchema]) -> None:
        await asyncio.to_thread(self._embedded.start)
        try:
            await super().open(schemas)
        except BaseException:
            await asyncio.to_thread(self._embedded.stop)
            raise

    async def close(self) -> None:
        try:
            await super().close()
        finally:
            await asyncio.to_thread(self._embedded.stop)
