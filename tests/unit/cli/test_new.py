"""`perdure new`: the project runs, its tests pass, and nothing is overwritten."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.unit.cli.invoking import perdure

from perdure.cli import new

ROOT = Path(__file__).parents[3]
FILES = {"app.py", "test_app.py", "README.md", "requirements.txt"}


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    done = perdure("new", "shop")
    assert done.exit_code == 0
    assert "next: cd shop && perdure run app.py" in done.output
    return tmp_path / "shop"


def test_the_files_are_there_and_filled_in(shop: Path) -> None:
    assert {path.name for path in shop.iterdir()} == FILES
    for path in shop.iterdir():
        assert "{{" not in path.read_text()
    assert (shop / "README.md").read_text().startswith("# shop\n")


def test_its_own_tests_pass(shop: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider"],
        cwd=shop,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


def test_its_app_passes_the_check(shop: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", "from perdure.cli import main; main()", "check", "app.py"],
        cwd=shop,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "/todo-list/{key}/add" in done.stdout


def test_the_readme_names_only_routes_and_files_there_are(shop: Path) -> None:
    readme, app = (shop / "README.md").read_text(), (shop / "app.py").read_text()
    methods = set(re.findall(r"localhost:8000/todo-list/alice/(\w+)", readme))
    assert methods == {"add", "view"}
    assert all(f"async def {method}(" in app for method in methods)
    assert set(re.findall(r"^\| `([a-zA-Z_.]+)`", readme, re.MULTILINE)) == FILES - {"README.md"}


@pytest.mark.parametrize("style", [["ruff", "check"], ["ruff", "format", "--check"], ["mypy"]])
def test_its_code_is_clean(shop: Path, style: list[str]) -> None:
    options = ["--config", str(ROOT / "pyproject.toml")] if style[0] == "ruff" else ["--strict"]
    done = subprocess.run(
        [sys.executable, "-m", *style, *options, "app.py"],
        cwd=shop,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("present", [*sorted(FILES), "anything"])
def test_nothing_is_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, present: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / present).write_text("mine")
    done = perdure("new", "shop")
    assert done.exit_code == 2
    assert "shop is not empty; nothing was written" in done.errors
    assert [path.name for path in (tmp_path / "shop").iterdir()] == [present]
    assert (tmp_path / "shop" / present).read_text() == "mine"


def test_nor_is_a_file_that_appears_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(new, "_check", lambda _folder: None)  # it was not there when looked for
    (tmp_path / "app.py").write_text("mine")
    assert perdure("new", tmp_path).exit_code == 73
    assert (tmp_path / "app.py").read_text() == "mine"


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "deep" / "shop").mkdir(parents=True)
    assert perdure("new", tmp_path / "deep" / "shop").exit_code == 0
    assert (tmp_path / "deep" / "shop" / "README.md").read_text().startswith("# shop\n")


def test_what_cannot_be_a_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = perdure("new", tmp_path / "file")
    assert (done.exit_code, "is a file" in done.errors) == (2, True)
    done = perdure("new", tmp_path / "file" / "shop")
    assert (done.exit_code, "Not a directory" in done.errors) == (73, True)
    assert perdure("new", "").exit_code == 2


def test_an_installation_that_is_not_editable_has_the_templates(tmp_path: Path) -> None:
    pytest.importorskip("setuptools")
    source = tmp_path / "source"
    left_out = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", source / "src", ignore=left_out)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    code = "import setuptools; setuptools.setup(script_args=['build_py', '--build-lib', 'built'])"
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True)
    built = {path.name for path in (source / "built/perdure/cli/templates").iterdir()}
    assert built == {f"{name}.tmpl" for name in FILES}
