"""The TypeScript compiler and Node.js, for tests that need them."""

import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "typescript"
COMPILER = FOLDER / "node_modules" / "typescript" / "lib" / "tsc.js"
NODE = shutil.which("node")

needs_typescript = pytest.mark.skipif(
    NODE is None or not COMPILER.exists(),
    reason="no TypeScript compiler: install Node.js 20 and run `npm ci` in tests/typescript",
)


def compile_typescript(folder: Path) -> str:
    """Compile all that is in a folder, strictly, into modules beside it; what was said if not."""
    shutil.copy(FOLDER / "tsconfig.json", folder)
    (folder / "package.json").write_text('{"type": "module"}')
    done = subprocess.run(
        [str(NODE), str(COMPILER), "-p", "."], cwd=folder, capture_output=True, text=True
    )
    return done.stdout


def run_node(folder: Path, module: str, *arguments: str) -> str:
    """What a compiled module writes; it must end well."""
    done = subprocess.run(
        [str(NODE), "--unhandled-rejections=strict", module, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
