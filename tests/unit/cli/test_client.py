"""`perdure client`: files are written, and none is overwritten that somebody else wrote."""

from pathlib import Path

import pytest
from tests.unit.cli.invoking import perdure

from perdure.cli import failures

APP = "tests.unit.client.everything"


@pytest.mark.parametrize("language", ["python", "typescript"])
def test_a_client_is_written_to_a_file_or_shown(tmp_path: Path, language: str) -> None:
    path = tmp_path / "client"
    shown = perdure("client", language, APP)
    assert shown.exit_code == 0
    for _ in range(2):  # a file of its own is replaced
        assert perdure("client", language, APP, "-o", path).exit_code == 0
        assert path.read_text("utf-8") == shown.output
        path.write_text(path.read_text("utf-8") + "\n\n")


def test_no_other_file_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("precious = True\n")
    done = perdure("client", "python", APP, "-o", path)
    assert done.exit_code == failures.CANNOT_CREATE
    assert "is not a file that `perdure client` wrote" in done.errors
    assert path.read_text() == "precious = True\n"


def test_what_cannot_be_written_or_loaded_is_told_in_a_line(tmp_path: Path) -> None:
    done = perdure("client", "python", APP, "-o", tmp_path / "no" / "such" / "folder.py")
    assert done.exit_code == failures.CANNOT_CREATE
    assert "No such file" in done.errors
    assert perdure("client", "python", APP, "-o", tmp_path).exit_code == failures.CANNOT_CREATE
    done = perdure("client", "typescript", tmp_path / "no_app.py")
    assert done.exit_code == failures.NO_INPUT
    assert perdure("client").exit_code in {0, 2}


VERSIONED = """
from perdure import Actor, App, expose


class Scale(Actor):
    @expose
    async def weigh(self) -> int: ...

    @expose(version=2, route="weigh")
    async def weigh_more(self, unit: str) -> int: ...


app = App(Scale)
"""


@pytest.mark.parametrize("language", ["python", "typescript"])
def test_a_client_speaks_the_version_that_is_asked_for(tmp_path: Path, language: str) -> None:
    app = tmp_path / "scales.py"
    app.write_text(VERSIONED)
    first = perdure("client", language, app)
    second = perdure("client", language, app, "--api-version", "2")
    assert (first.exit_code, second.exit_code) == (0, 0)
    assert "/v2/scale" in second.output
    assert "/v2/scale" not in first.output
    assert "unit" in second.output
    assert "weigh_more" not in second.output
    third = perdure("client", language, app, "--api-version", "3")
    assert third.exit_code == failures.USAGE
    assert "there is no version 3 of this API" in third.errors
