"""The rules of STYLE.md that a machine can check and no linter does."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
TREES = {path: ast.parse(path.read_text()) for path in SOURCES}


def _functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def _is_overload(node: ast.stmt) -> bool:
    return any(
        isinstance(decorator, ast.Name) and decorator.id == "overload"
        for decorator in getattr(node, "decorator_list", ())
    )


def _imported(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def test_no_file_is_longer_than_600_lines() -> None:
    assert SOURCES
    long = {str(p): n for p in SOURCES if (n := len(p.read_text().splitlines())) > 600}
    assert not long


def test_no_function_is_longer_than_70_lines() -> None:
    long = {
        f"{path.name}:{function.name}": function.end_lineno - function.lineno
        for path, tree in TREES.items()
        for function in _functions(tree)
        if function.end_lineno and function.end_lineno - function.lineno > 70
    }
    assert not long


@pytest.mark.parametrize("banned", ["pickle", "marshal", "shelve"])
def test_nothing_imports_an_unsafe_format(banned: str) -> None:
    assert not [path for path, tree in TREES.items() if banned in _imported(tree)]


def test_time_and_randomness_come_from_base_only() -> None:
    """`time` for measuring is the web server's and the command line's too; turns never see it."""
    below = [p for p in SOURCES if p.parent.name in {"store", "actor", "runtime"}]
    assert below
    guilty = [p for p in below if _imported(TREES[p]) & {"time", "random", "secrets", "uuid"}]
    assert not guilty


def test_actors_do_no_input_or_output() -> None:
    guilty = [
        p
        for p in SOURCES
        if p.parent.name == "actor"
        and _imported(TREES[p]) & {"socket", "os", "pathlib", "apsw", "threading", "subprocess"}
    ]
    assert not guilty


def test_every_module_says_what_it_is() -> None:
    assert not [path for path, tree in TREES.items() if tree.body and not ast.get_docstring(tree)]


def test_every_public_class_and_function_has_a_docstring() -> None:
    silent = []
    for path, tree in TREES.items():
        for node in tree.body:
            public = isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            if not public or node.name.startswith("_") or _is_overload(node):
                continue
            if not ast.get_docstring(node):
                silent.append(f"{path.name}:{node.name}")
    assert not silent


def test_every_public_name_of_the_package_exists() -> None:
    import perdure

    assert all(getattr(perdure, name) is not None for name in perdure.__all__)
    assert sorted(perdure.__all__) == perdure.__all__


def test_every_error_is_public_and_has_a_kind_of_its_own() -> None:
    import perdure
    from perdure.base import errors

    classes = [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, errors.PerdureError)
    ]
    assert {cls.__name__ for cls in classes} <= set(perdure.__all__)
    kinds = [cls.kind for cls in classes if cls not in {errors.PerdureError, errors.DomainError}]
    assert len(set(kinds)) == len(kinds)


def test_every_test_that_defends_a_promise_exists() -> None:
    defended = re.findall(r"`(tests/\S+\.py)::(\w+)`", (ROOT / "PROMISES.md").read_text())
    assert len(defended) > 15
    missing = [name for path, name in defended if f"def {name}(" not in (ROOT / path).read_text()]
    assert not missing


def test_layers_point_one_way() -> None:
    lint = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_no_text_names_a_download_address() -> None:
    """Lock files pin versions and hashes; where packages come from is the installer's business."""
    files = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    pattern = re.compile(r"https?://[^ \"]+\.(whl|tar\.gz|tgz|deb)|index" + "-url")
    guilty = []
    for name in filter(None, files):
        path = ROOT / name
        if (
            path.is_file()
            and path.suffix not in {".png", ".gz"}
            and pattern.search(path.read_text(errors="ignore"))
        ):
            guilty.append(name)
    assert not guilty
