"""`perdure run` with its supervisor, for tests: started, looked into, and ended by pid."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Self

WITHIN_S = 20.0

APP = """
import asyncio
import os
from pathlib import Path

from perdure import Actor, App, expose, read


class Counter(Actor):
    seen: list[str] = []

    @expose
    async def add(self, name: str, wait_for: str = "") -> int:
        if wait_for:
            Path(wait_for + ".begun").touch()
        while wait_for and not Path(wait_for).exists():
            await asyncio.sleep(0.005)
        self.seen.append(name)
        return len(self.seen)

    @expose
    async def hang(self, begun: str) -> None:
        Path(begun).touch()
        while True:
            pass

    @expose
    @read
    async def view(self) -> list[str]:
        return self.seen


app = App(Counter)
"""


def until(condition: Callable[[], Any], what: str, within_s: float = WITHIN_S) -> Any:
    """Wait for a condition that nothing announces; returns what it gave."""
    end_s = time.monotonic() + within_s
    while not (value := condition()):
        assert time.monotonic() < end_s, f"waited {within_s} s in vain for {what}"
        time.sleep(0.005)
    return value


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that is dead and not yet reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Supervised:
    """One supervisor, and the server below it, in a folder of their own."""

    def __init__(
        self,
        folder: Path,
        app: str = APP,
        environment: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
        *,
        host: str = "127.0.0.1",
        wrapper: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.host = host
        self.options = list(options)
        self.port = free_port()
        self._log = folder / "log.txt"
        (folder / "counter.py").write_text(app)
        command = [*wrapper, sys.executable, "-c", "from perdure.cli import main; main()"]
        command += ["run", "counter.py", "--listen", f"{host}:{self.port}", *options]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                cwd=folder,
                env={**os.environ, **(environment or {})},
            )
        self._servers: set[int] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pid in {*self.servers(), *self._servers}:
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(WITHIN_S)

    def log(self) -> str:
        return self._log.read_text()

    def wait_for_log(self, text: str) -> None:
        until(lambda: text in self.log(), f"{text!r} in the log:\n{self.log()}")

    def servers(self) -> list[int]:
        """The pids of the supervisor's children."""
        try:
            path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
            found = [int(pid) for pid in path.read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            return []
        if hasattr(self, "_servers"):
            self._servers.update(found)
        return found

    def titles(self) -> dict[int, str]:
        """What `ps` shows of each of the supervisor's children: `web-2`, by pid."""
        found = {}
        for pid in self.servers():
            with suppress(FileNotFoundError, ProcessLookupError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                if b"perdure.cli.serve" in words:
                    found[pid] = words[words.index(b"perdure.cli.serve") + 1].decode()
        return found

    def pid_of(self, title: str, other_than: int = 0) -> int:
        """The pid of the process with this title, once there is one."""

        def find() -> int:
            pids = (pid for pid, found in self.titles().items() if found == title)
            return next((pid for pid in pids if pid != other_than), 0)

        return until(find, f"a process {title}; the log:\n{self.log()}")

    def server(self, other_than: int = 0) -> int:
        """The pid of the server, once there is one."""
        return until(
            lambda: next((pid for pid in self.servers() if pid != other_than), 0), "a server"
        )

    def wait_ready(self) -> int:
        """Wait until the server answers; returns its pid."""
        until(self.is_ready, f"an answer; the log:\n{self.log()}")
        return self.server()

    def is_ready(self) -> bool:
        try:
            return self.ask("GET", "/-/ready")[0] == 200
        except OSError:
            return False

    def ask(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any]:
        """One request on a connection of its own; raises OSError."""
        connection = HTTPConnection(self.host, self.port, timeout=WITHIN_S)
        try:
            connection.request(method, path, json.dumps(body) if body else None, headers or {})
            reply = connection.getresponse()
            return reply.status, json.loads(reply.read())
        finally:
            connection.close()

    def wait(self) -> int:
        """The supervisor's exit code, once it has ended."""
        return self.process.wait(WITHIN_S)
