"""The stores that commands about state are tried on."""

from pathlib import Path

import pytest

from perdure.cli.looking import Place
from perdure.testing.postgres import fresh_database

KINDS = ["sqlite", "postgresql"]


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A store of each kind that is not there yet, or has nothing in it."""
    return tmp_path / "data" if request.param == "sqlite" else fresh_database()


@pytest.fixture(params=KINDS)
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Another one, for what comes out of the first."""
    return tmp_path / "target" if request.param == "sqlite" else fresh_database()
