"""Finding the App: every way to name it, and a clear line for every way to fail."""

import subprocess
import sys
from pathlib import Path

import pytest

GOOD = "from perdure import Actor, App\nclass Cart(Actor):\n    n: int = 0\napp = App(Cart)\n"


def load(folder: Path, target: str) -> "subprocess.CompletedProcess[str]":
    """`perdure check` prints what was loaded; a process of its own keeps the modules apart."""
    command = [sys.executable, "-P", "-c", "from perdure.cli import main; main()", "check", target]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def refused(folder: Path, target: str, exit_code: int) -> str:
    done = load(folder, target)
    assert done.returncode == exit_code, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("perdure: ")
    return done.stderr.removeprefix("perdure: ")


@pytest.mark.parametrize(
    "target",
    ["corner.py", "corner.py:app", "./corner.py", "corner", "corner:app", "package.inner:app"],
)
def test_an_app_is_found_by_file_or_module(tmp_path: Path, target: str) -> None:
    (tmp_path / "corner.py").write_text(GOOD)
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").touch()
    (tmp_path / "package" / "inner.py").write_text(GOOD)
    done = load(tmp_path, target)
    assert done.returncode == 0, done.stderr
    assert "Cart" in done.stdout


def test_a_file_may_import_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "things.py").write_text(GOOD)
    (tmp_path / "inner" / "corner.py").write_text("from things import app")
    assert load(tmp_path, "inner/corner.py").returncode == 0


def test_another_name_is_found_and_hinted_at(tmp_path: Path) -> None:
    (tmp_path / "corner.py").write_text(GOOD.replace("app =", "main_app ="))
    assert load(tmp_path, "corner.py:main_app").returncode == 0
    errors = refused(tmp_path, "corner.py", 78)
    assert "no variable 'app'" in errors
    assert "hint: use corner.py:main_app" in errors


def test_a_file_without_an_app_is_told_what_to_add(tmp_path: Path) -> None:
    (tmp_path / "corner.py").write_text("x = 1\n")
    assert "hint: add `app = App(...)`" in refused(tmp_path, "corner.py", 78)


@pytest.mark.parametrize(("value", "kind"), [("5", "int"), ("None", ""), ("dict", "class")])
def test_something_else_than_an_app_is_named(tmp_path: Path, value: str, kind: str) -> None:
    (tmp_path / "corner.py").write_text(f"app = {value}\n")
    assert kind in refused(tmp_path, "corner.py", 78)


@pytest.mark.parametrize("target", ["corner.py", "no.such.module", "corner", "folder"])
def test_what_is_not_there_is_told(tmp_path: Path, target: str) -> None:
    (tmp_path / "folder").mkdir()
    assert target in refused(tmp_path, target, 66)


def test_a_module_that_is_a_file_is_hinted_at(tmp_path: Path) -> None:
    (tmp_path / "my-shop.py").write_text(GOOD)
    assert "neither a .py file nor a module" in refused(tmp_path, "my-shop", 2)


@pytest.mark.parametrize("target", ["", ":app", ".corner", "a b", "corner..x"])
def test_what_cannot_be_a_name_is_told(tmp_path: Path, target: str) -> None:
    assert len(refused(tmp_path, target, 2).splitlines()) == 2


@pytest.mark.parametrize("target", ["corner.py", "corner"])
def test_a_syntax_error_names_file_and_line(tmp_path: Path, target: str) -> None:
    (tmp_path / "corner.py").write_text("x = 1\n\ndef f(:\n    pass\n")
    assert refused(tmp_path, target, 78).startswith("corner.py:3: invalid syntax")


def test_a_syntax_error_in_an_imported_file_names_that(tmp_path: Path) -> None:
    (tmp_path / "things.py").write_text("x = (\n")
    (tmp_path / "corner.py").write_text("import things\n")
    assert refused(tmp_path, "corner.py", 78).startswith("things.py:1: '(' was never closed")


@pytest.mark.parametrize("text", [b"\xff\xfe", b"x = '\0'"])
def test_a_file_that_is_no_text_is_told(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "corner.py").write_bytes(text)
    assert "corner.py" in refused(tmp_path, "corner.py", 78)


def test_an_exception_shows_the_users_frames_only(tmp_path: Path) -> None:
    (tmp_path / "things.py").write_text("import json\ndef f():\n    json.loads('nonsense')\n")
    (tmp_path / "corner.py").write_text("import things\nthings.f()\n")
    errors = refused(tmp_path, "corner.py", 78)
    assert "corner.py raised while it was imported" in errors
    assert 'File "corner.py", line 2' in errors
    assert 'File "things.py", line 3' in errors
    assert errors.count("File ") == 2  # not ours, not the importer's, not json's
    assert errors.rstrip().splitlines()[-1].startswith("json.decoder.JSONDecodeError: Expecting")


@pytest.mark.parametrize("missing", ["no_such_package", "corn", "corner.inner"])
def test_an_import_that_is_missing_is_named(tmp_path: Path, missing: str) -> None:
    """Not the app itself, although its name may begin like the app's."""
    (tmp_path / "corner.py").write_text(f"import {missing}\n")
    errors = refused(tmp_path, "corner.py", 78)
    assert f"corner.py:1: imports {missing}, which is not installed here" in errors
    errors = refused(tmp_path, "corner", 78)
    assert missing in errors


def test_an_app_that_ends_the_process_is_told(tmp_path: Path) -> None:
    (tmp_path / "corner.py").write_text("import sys\nsys.exit(0)\n")
    assert "ended the process" in refused(tmp_path, "corner.py", 78)


def test_a_file_that_would_hide_a_module_of_python_is_refused(tmp_path: Path) -> None:
    (tmp_path / "http.py").write_text(GOOD)
    assert "give the file another name" in refused(tmp_path, "http.py", 78)
