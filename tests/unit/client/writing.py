"""A written client of the App with everything, as a module of this process."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.unit.client.everything import app

from perdure.client.api import api_of
from perdure.client.python_module import python_module
from perdure.client.typescript_module import typescript_module
from perdure.web.app import App


def python_text(of: App = app) -> str:
    return python_module(api_of(of.operations()), of.title)


def typescript_text(of: App = app) -> str:
    return typescript_module(api_of(of.operations()), of.title)


def loaded(text: str, folder: Path, name: str = "written_client") -> ModuleType:
    """The text as an imported module."""
    path = folder / f"{name}.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def check(*command: str | Path, folder: Path) -> str:
    """What a program said, which must have ended well."""
    done: Any = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)
