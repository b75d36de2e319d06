"""What the benchmark asks of a peer: the same cart behind the same two calls."""

import json
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bench.client import Client
from bench.processes import MissingPeerError, Processes

ROOT = Path(__file__).resolve().parents[2]
APPS = ROOT / "bench" / "apps"
BIN = ROOT / ".venv-bench" / "bin"
NODE_MODULES = ROOT / "bench" / "node_modules"


class Peer:
    """One way to keep carts. Subclasses say how it is started and how durable its answer is.

    Every server answers `POST {add_path}` with `{"sku": …, "qty": …}` by the lines of the cart
    after the addition, as a JSON object, and `GET {view_path}` by the lines as they are.
    """

    name = ""
    title = ""
    durability = ""
    add_path = "/cart/{key}/add"
    view_path: str | None = "/cart/{key}/view"
    is_ceiling = False

    def versions(self) -> dict[str, str]:
        """Return the version of each part; raise MissingPeerError when one is not installed."""
        raise NotImplementedError

    def start(self, processes: Processes, directory: Path, port: int) -> None:
        """Start the server with fresh data under `directory`; return once it can be asked."""
        raise NotImplementedError

    def is_up(self, port: int) -> bool:
        """Say whether the server answers an addition."""
        with Client(port) as client:
            status, _ = client.post(self.add_path.format(key="probe"), {"sku": "tea", "qty": 1})
        return status == 200

    def probe(self, port: int) -> None:
        """Check that two additions answer exactly what the contract says."""
        key = f"probe-{port}"
        with Client(port) as client:
            for expected in ({"tea": 2}, {"tea": 2, "mug": 1}):
                sku = list(expected)[-1]
                arguments = {"sku": sku, "qty": expected[sku]}
                answer = client.post(self.add_path.format(key=key), arguments)
                _demand(answer, expected)
            if self.view_path:
                _demand(client.get(self.view_path.format(key=key)), expected)

    def stored_sum(self, port: int, keys_count: int) -> int:
        """Return the sum of all quantities in the carts that the load adds to."""
        assert self.view_path, f"{self.name} stores nothing"
        total = 0
        with Client(port) as client:
            for index in range(1, keys_count + 1):
                status, body = client.get(self.view_path.format(key=f"cart-{index}"))
                if status != 200:
                    raise RuntimeError(f"view of cart-{index} answered {status}: {body[:200]!r}")
                total += sum(json.loads(body).values())
        return total


def _demand(answer: tuple[int, bytes], expected: dict[str, int]) -> None:
    status, body = answer
    if status != 200 or json.loads(body) != expected:
        raise MissingPeerError(f"wrong answer: {status} {body[:200]!r}, expected {expected}")


def package_versions(*names: str) -> dict[str, str]:
    """Return the versions of Python packages in the benchmark's environment."""
    try:
        return {name: version(name) for name in names}
    except PackageNotFoundError as error:
        raise MissingPeerError(f"the Python package {error} is not installed") from error


def program(name: str, *places: Path) -> Path:
    """Return the path of a program, looked for in `places` and then on the PATH."""
    found = shutil.which(name, path=":".join(map(str, places))) if places else None
    found = found or shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if found is None:
        raise MissingPeerError(f"the program {name} is not installed")
    return Path(found)


def program_version(path: Path, argument: str = "--version") -> str:
    """Return the first line that a program says about its version."""
    said = subprocess.run([path, argument], capture_output=True, text=True, timeout=20, check=False)
    return (said.stdout or said.stderr).strip().splitlines()[0]


def uvicorn_command(application: str, port: int) -> list[str | Path]:
    """Return the command that serves an application of `bench/apps` with uvicorn, one process."""
    return [
        BIN / "python", "-m", "uvicorn", f"bench.apps.{application}:app",
        "--host", "127.0.0.1", "--port", str(port), "--loop", "uvloop", "--http", "httptools",
        "--no-access-log", "--log-level", "warning", "--workers", "1",
    ]  # fmt: skip
