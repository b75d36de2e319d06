"""`perdure new`: a small project that runs and has passing tests."""

from importlib.resources import files
from pathlib import Path

from perdure import __version__
from perdure.cli.failures import CANNOT_CREATE, Failure

_TEMPLATES = ("app.py", "test_app.py", "README.md", "requirements.txt")


def new_project(name: str) -> list[Path]:
    """Make the folder `name`; returns the files in it. Raises Failure, and never overwrites."""
    folder = Path(name)
    _check(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [_write(folder, template) for template in _TEMPLATES]
    except OSError as error:
        raise Failure(f"cannot make {folder}: {error.strerror}", exit_code=CANNOT_CREATE) from error


def _check(folder: Path) -> None:
    if not folder.name:
        raise Failure(f"{str(folder)!r} is no name for a project", "for example: perdure new shop")
    if not folder.name.isprintable():
        raise Failure(f"the name {folder.name!r} holds characters that cannot be printed")
    if folder.exists() and not folder.is_dir():
        raise Failure(f"{folder} is a file; nothing was written", "choose another name")
    if folder.is_dir() and any(folder.iterdir()):
        raise Failure(f"{folder} is not empty; nothing was written", "choose another name")


def _write(folder: Path, template: str) -> Path:
    text = files("perdure.cli").joinpath("templates", f"{template}.tmpl").read_text("utf-8")
    path = folder / template
    with path.open("x", encoding="utf-8") as file:  # x: even in a race nothing is overwritten
        file.write(text.replace("{{name}}", folder.name).replace("{{version}}", __version__))
    return path
