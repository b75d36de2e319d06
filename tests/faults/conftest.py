"""A PostgreSQL server for all tests of this folder, with a database of its own for each."""

from collections.abc import Iterator

import pytest
from tests.faults.database import Database


@pytest.fixture(scope="session")
def _server() -> Iterator[Database]:
    with Database() as one:
        yield one


@pytest.fixture
def database(_server: Database) -> Database:
    """An empty database on a server that other tests use, too: not to be killed."""
    _server.use_another()
    return _server
