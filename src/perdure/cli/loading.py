"""Finds the App that a command is about: `shop.py`, `shop.py:app`, `package.module:app`."""

import importlib
import importlib.util
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType

import perdure
from perdure.base.errors import DefinitionError
from perdure.cli.failures import BAD_APP, NO_INPUT, Failure, failure_of
from perdure.web.app import App

_NOT_THE_USERS = (
    str(Path(perdure.__file__).parent) + os.sep,
    str(Path(os.__file__).parent) + os.sep,  # Python's own
    "<frozen",
)


def load_app(target: str) -> App:
    """Import the file or module and return its App; raises Failure with what is wrong."""
    name, _, variable = target.partition(":")
    module = _import(name)
    variable = variable or "app"
    app = getattr(module, variable, None)
    if isinstance(app, App):
        try:
            app.check()
        except DefinitionError as error:
            raise failure_of(error) from error
        return app
    others = [key for key, value in vars(module).items() if isinstance(value, App)]
    if app is None:
        hint = f"use {name}:{others[0]}" if others else f"add `{variable} = App(...)` to it"
        if module.__file__ is None:  # Python takes any folder for a package
            _refuse_folder(Path(name))
        raise Failure(f"{name} has no variable {variable!r}", hint, exit_code=BAD_APP)
    kind = "class" if isinstance(app, type) else type(app).__name__
    raise Failure(f"{name}:{variable} is a {kind}, not a perdure.App", exit_code=BAD_APP)


def _import(name: str) -> ModuleType:
    try:
        if name.endswith(".py") or "/" in name:
            return _import_file(Path(name))
        return _import_module(name)
    except Failure:
        raise
    except DefinitionError as error:
        message, hint = f"{_place(error)}{error}", None
    except ModuleNotFoundError as error:
        message = f"{_place(error)}imports {error.name}, which is not installed here"
        hint = f"install it beside perdure: {sys.executable} -m pip install …"
    except SyntaxError as error:
        message, hint = _what_does_not_parse(name, error), None
    except SystemExit as error:
        message = f"{_place(error)}{name} ended the process while it was imported"
        hint = 'put what shall only run as a script below `if __name__ == "__main__":`'
    except Exception as error:
        message, hint = f"{name} raised while it was imported\n{_own_part(error)}", None
    raise Failure(message, hint, exit_code=BAD_APP)


# -- importing -----------------------------------------------------------------------------------


def _import_module(name: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise Failure(f"{name!r} is neither a .py file nor a module", "for example: app.py")
    sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # it is there, but imports something that is not
        is_file = Path(f"{name}.py").is_file()
        hint = f"for a file, write {name}.py" if is_file else "give a .py file or a module"
        raise Failure(f"there is no module {name}", hint, exit_code=NO_INPUT) from error


def _import_file(path: Path) -> ModuleType:
    _refuse_folder(path)
    if not path.is_file():
        raise Failure(f"there is no file {path}", "give a .py file or a module", exit_code=NO_INPUT)
    if (path.parent / "__init__.py").is_file():
        return _import_from_package(path.resolve())
    if path.stem == "perdure" or path.stem in sys.stdlib_module_names:
        raise Failure(
            f"{path} would take the place of the module {path.stem!r}",
            "give the file another name",
            exit_code=BAD_APP,
        )
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


def _refuse_folder(path: Path) -> None:
    if path.is_dir():
        app = path / "app.py"
        hint = f"use {app}" if app.is_file() else "give a .py file or a module"
        raise Failure(f"{path} is a folder", hint, exit_code=NO_INPUT)


# -- what went wrong -----------------------------------------------------------------------------


def _what_does_not_parse(name: str, error: SyntaxError) -> str:
    place = f"{_short(error.filename)}:{error.lineno}" if error.filename else name
    line = f"\n    {error.text.strip()}" if error.text else ""
    return f"{place}: {error.msg}{line}"


def _own_part(error: BaseException) -> str:
    """The traceback without our, Python's and libraries' frames: the user's code only."""
    lines = traceback.format_list(_own_frames(error)) + traceback.format_exception_only(error)
    return "".join(lines).rstrip()


def _place(error: BaseException) -> str:
    """`shop.py:12: `, the last line of the user's own that led to the error."""
    frames = _own_frames(error)
    return f"{frames[-1].filename}:{frames[-1].lineno}: " if frames else ""


def _own_frames(error: BaseException) -> list[traceback.FrameSummary]:
    own = []
    for frame in traceback.extract_tb(error.__traceback__):
        is_others = "site-packages" in frame.filename or frame.filename.startswith(_NOT_THE_USERS)
        if not is_others:
            frame.filename = _short(frame.filename)
            own.append(frame)
    return own


def _short(filename: str) -> str:
    path = Path(filename)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else filename
