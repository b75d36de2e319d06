"""Finds the App that a command is about: `shop.py`, `shop.py:app`, `package.module:app`."""

import importlib
import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType

from perdure.base.errors import DefinitionError
from perdure.cli.failures import APP_BROKEN, BAD_APP, NO_INPUT, Failure, failure_of
from perdure.web.app import App


def load_app(target: str) -> App:
    """Import the file or module and return its App; raises Failure with what is wrong."""
    name, _, variable = target.partition(":")
    module = _import(name)
    variable = variable or "app"
    app = getattr(module, variable, None)
    if isinstance(app, App):
        return app
    others = [key for key, value in vars(module).items() if isinstance(value, App)]
    if app is None:
        hint = f"use {name}:{others[0]}" if others else f"add `{variable} = App(...)` to it"
        raise Failure(f"{name} has no variable {variable!r}", hint, exit_code=BAD_APP)
    raise Failure(
        f"{name}:{variable} is a {type(app).__name__}, not a perdure.App", exit_code=BAD_APP
    )


def _import(name: str) -> ModuleType:
    try:
        if name.endswith(".py") or "/" in name:
            return _import_file(Path(name))
        sys.path.insert(0, str(Path.cwd()))
        return importlib.import_module(name)
    except DefinitionError as error:
        raise failure_of(error) from error
    except ModuleNotFoundError as error:
        if error.name and name.startswith(error.name):
            hint = f"for a file, write {name}.py" if Path(f"{name}.py").exists() else None
            raise Failure(f"there is no module {name}", hint, exit_code=NO_INPUT) from error
        raise Failure(
            f"{name} imports {error.name}, which is not installed", exit_code=APP_BROKEN
        ) from error
    except SyntaxError as error:
        place = f"{error.filename}:{error.lineno}"
        raise Failure(f"{place}: {error.msg}", exit_code=BAD_APP) from error
    except Failure:
        raise
    except Exception as error:
        raise Failure(
            f"{name} raised while it was imported\n{_own_part(error)}", exit_code=BAD_APP
        ) from error


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise Failure(f"there is no file {path}", "give a .py file or a module", exit_code=NO_INPUT)
    if (path.parent / "__init__.py").is_file():
        return _import_from_package(path.resolve())
    sys.path.insert(0, str(path.resolve().parent))
    spec = importlib.util.spec_from_file_location(path.stem, path.resolve())
    if spec is None or spec.loader is None:
        raise Failure(f"{path} is not a Python file", exit_code=NO_INPUT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # as an import would: dataclasses and typing look there
    spec.loader.exec_module(module)
    return module


def _import_from_package(path: Path) -> ModuleType:
    """Import a file that is part of a package as that, so that its relative imports work."""
    names, directory = [path.stem], path.parent
    while (directory / "__init__.py").is_file():
        names.append(directory.name)
        directory = directory.parent
    sys.path.insert(0, str(directory))
    return importlib.import_module(".".join(reversed(names)))


def _own_part(error: Exception) -> str:
    """The traceback without our and the importer's frames: the user's code only."""
    ours = str(Path(__file__).parent)
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((ours, "<frozen")) and "importlib" not in frame.filename
    ]
    lines = traceback.format_list(frames) + traceback.format_exception_only(error)
    return "".join(lines).rstrip()
