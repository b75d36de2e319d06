"""The command line as a whole: options, help texts, and no traceback for a mistake."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.unit.cli.invoking import perdure

COMMANDS = (
    ["run"],
    ["check"],
    ["new"],
    *(["state", name] for name in ("list", "show", "query", "export", "import")),
)


def in_a_process(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-P", "-c", "from perdure.cli import main; main()", *arguments]
    environment = os.environ | {"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "100"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_says_what_it_does_and_gives_an_example(command: list[str]) -> None:
    done = perdure(*command, "--help")
    assert done.exit_code == 0
    text = " ".join(done.output.split())
    assert f"Usage: root {' '.join(command)}" in text or f" {' '.join(command)} " in text
    assert f"Example: perdure {' '.join(command)} " in text


def test_the_version_is_told(tmp_path: Path) -> None:
    done = in_a_process(tmp_path, "--version")
    assert re.fullmatch(r"perdure \d+\.\d+\.\d+\n", done.stdout)


@pytest.mark.parametrize("arguments", [[], ["state"], ["nonsense"], ["run"], ["run", "a", "--no"]])
def test_wrong_use_ends_with_2(tmp_path: Path, arguments: list[str]) -> None:
    done = in_a_process(tmp_path, *arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("options", "exit_code", "message"),
    [
        (["--log-level", "loud"], 2, "use one of: debug, info, warning, error"),
        (["--log-format", "xml"], 2, "use one of: text, json"),
        (["--listen", "here"], 2, "'here' is not HOST:PORT"),
        (["--store", "redis:x"], None, "unknown store 'redis:x'"),
        (["--data", "file"], 66, "file cannot be used: "),
        (["--data", "foreign"], 65, "is damaged or no Perdure store"),
    ],
)
@pytest.mark.parametrize("supervisor", ["--supervisor", "--no-supervisor"])
def test_options_of_run_that_cannot_work_are_told_once(
    tmp_path: Path, options: list[str], exit_code: int | None, message: str, supervisor: str
) -> None:
    (tmp_path / "corner.py").write_text("from perdure import App\napp = App()\n")
    (tmp_path / "file").touch()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "perdure.db").write_text("nonsense" * 1000)
    listen = [] if "--listen" in options else ["--listen", "127.0.0.1:0"]
    done = in_a_process(tmp_path, "run", "corner.py", supervisor, *listen, *options)
    assert exit_code is None or done.returncode == exit_code
    assert done.returncode in {2, 65, 66}
    assert done.stdout == ""
    assert done.stderr.count("perdure: ") == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_an_address_in_use_is_told_before_anything_is_loaded(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        done = in_a_process(tmp_path, "run", "not-there.py", "--listen", address)
    assert done.returncode == 69
    assert "is in use" in done.stderr
    assert len(done.stderr.splitlines()) == 2


def test_a_failure_is_its_message_and_its_hint(tmp_path: Path) -> None:
    done = in_a_process(tmp_path, "state", "list", "--data", "nowhere")
    assert done.returncode == 66
    assert done.stdout == ""
    message, hint = done.stderr.splitlines()
    assert message == "perdure: there is no store in nowhere"
    assert hint.startswith("  hint: ")
