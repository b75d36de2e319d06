"""The reference and the code say the same."""

import inspect
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from tests.docs.documents import DOCUMENTS, ROOT, name_of

import perdure
from perdure import Limits, PerdureError, testing
from perdure.cli import failures
from perdure.store import sqlite_file, sqlite_tables
from perdure.web import problems, request_head

REFERENCE = ROOT / "docs" / "reference"
ERRORS = [
    value
    for name in perdure.__all__
    if isinstance(value := getattr(perdure, name), type) and issubclass(value, PerdureError)
]


def rows_of(document: str) -> list[list[str]]:
    """The cells of every table row, without backticks."""
    lines = (REFERENCE / document).read_text().splitlines()
    rows = [line.strip("|").split(" | ") for line in lines if line.startswith("| ")]
    return [[cell.strip(" |`") for cell in row] for row in rows]


def test_the_error_table_is_the_code() -> None:
    told = {row[0]: (int(row[1]), row[2]) for row in rows_of("errors.md") if row[0] != "error"}
    assert told == {error.__name__: (error.status, error.kind) for error in ERRORS}


def test_the_limits_table_is_the_code() -> None:
    def value(cell: str) -> float:
        return float(cell.replace(",", ""))

    told = {row[0]: value(row[1]) for row in rows_of("limits.md") if row[0] != "field"}
    assert told == msgspec.structs.asdict(Limits())


def test_every_public_name_is_in_the_reference() -> None:
    text = "".join(path.read_text() for path in REFERENCE.glob("*.md"))
    missing = [name for name in perdure.__all__ if not re.search(rf"`[^`]*\b{name}\b[^`]*`", text)]
    assert not missing


def test_every_public_name_for_tests_is_in_the_reference() -> None:
    text = (REFERENCE / "testing.md").read_text()
    functions = [
        name
        for name, value in vars(testing).items()
        if inspect.isfunction(value) and value.__module__ == testing.__name__
    ]
    assert functions
    assert [name for name in functions if not re.search(rf"`[^`]*\b{name}\b", text)] == []


def test_every_problem_of_the_web_server_is_in_the_reference() -> None:
    told = {(int(row[0]), row[1]) for row in rows_of("http.md") if row[0].isdigit()}
    made = {(status, kind) for status, (kind, _) in request_head._TITLES.items()}
    for path in sorted(Path(problems.__file__).parent.glob("*.py")):
        found = re.findall(r"\bproblem\((\d+), \"([a-z-]+)\"", path.read_text())
        made |= {(int(status), kind) for status, kind in found}
    assert told == made


def test_the_store_format_is_the_code() -> None:
    text = (REFERENCE / "store.md").read_text()
    database = sqlite3.connect(":memory:")
    database.executescript(sqlite_tables.actor_table_sql("cart") + ";" + sqlite_tables._COMMON)
    sections = {"cart": "## A table for each", "perdure_request": "## `perdure_request`"}
    for table, heading in sections.items():
        section = text.partition(heading)[2].partition("\n## ")[0]
        for _, column, *_ in database.execute(f"PRAGMA table_info({table})"):
            assert f"`{column}`" in section
    assert f"{sqlite_file.APPLICATION_ID:#x}" in text
    assert f"`user_version` {sqlite_tables.FORMAT}" in text


def help_of(*command: str) -> str:
    program = Path(sys.executable).with_name("perdure")
    environment = {"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "200", "LC_ALL": "C.UTF-8"}
    environment["PYTHONPATH"] = os.environ.get("PYTHONPATH", "")
    return subprocess.run(
        [program, *command, "--help"], capture_output=True, text=True, check=True, env=environment
    ).stdout


def _options(told: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", told)) - {"--help"}


def commands() -> list[tuple[str, ...]]:
    """Every command, and every command below one, as `--help` lists them."""
    found: list[tuple[str, ...]] = []
    groups: list[tuple[str, ...]] = [()]
    while groups:
        group = groups.pop()
        told, listed, names = help_of(*group).partition("Commands")
        if group and (not listed or _options(told)):
            found.append(group)
        for name in re.findall(r"^[│ ] {0,2}([a-z][a-z-]*) {2,}", names, re.MULTILINE):
            groups.append((*group, name))
    return found


def test_every_command_and_option_is_in_the_reference() -> None:
    text = (REFERENCE / "command-line.md").read_text()
    listed = commands()
    assert len(listed) == 17
    for command in listed:
        heading = f"## `perdure {' '.join(command)}"
        assert heading in text
        section = text.partition(heading)[2].partition("\n## ")[0]
        options = _options(help_of(*command))
        told = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", section))
        assert options <= told, f"{command}: {options - told} are not told"
        assert not {option for option in told - options if f"`{option}" in section}


def test_every_exit_code_is_in_the_reference() -> None:
    told = {int(row[0]) for row in rows_of("command-line.md") if row[0].isdigit()}
    codes = {
        value for name, value in vars(failures).items() if name.isupper() and type(value) is int
    }
    assert told == codes | {0}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_link_between_documents_leads_somewhere(document: Path) -> None:
    broken = []
    for target in re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", document.read_text()):
        if not (document.parent / target).exists():
            broken.append(target)
    assert not broken


def test_every_document_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    folder = ROOT / "docs"
    names = [
        str(path.relative_to(folder)) for path in folder.rglob("*.md") if path.parent != folder
    ]
    assert [name for name in [*names, "tutorial.md"] if f"({name})" not in index] == []
