"""A balancer before three servers: real processes that can be killed, frozen and drained."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from http.client import HTTPConnection
from pathlib import Path
from typing import Self

from tests.faults.cluster_lab import KEY
from tests.faults.lab import Died

APP = Path(__file__).with_name("balanced_app.py")
START_S = 30.0
_COMMAND = (sys.executable, "-c", "from perdure.cli import main; main()")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port: int = bound.getsockname()[1]
        return port


class Process:
    """One process of ours that serves at an address."""

    def __init__(self, words: Sequence[str], port: int, directory: Path) -> None:
        self.port = port
        self.address = f"127.0.0.1:{port}"
        self._words = words
        self._errors = directory / f"errors-{port}"
        self.start()

    def start(self) -> None:
        """Start it, or another one after it has ended."""
        with self._errors.open("ab") as errors:
            self.process = subprocess.Popen(
                [*_COMMAND, *self._words],
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env={**os.environ, "PERDURE_CLUSTER_KEY": KEY},
            )

    async def ready(self, path: str = "/-/ready") -> None:
        """Wait until it says that it is."""
        end_s = time.monotonic() + START_S
        while not await asyncio.to_thread(self._says_ok, path):
            if self.process.poll() is not None or time.monotonic() > end_s:
                raise Died(self.errors())
            await asyncio.sleep(0.02)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ended(self, within_s: float = 40.0) -> int:
        return await asyncio.to_thread(self.process.wait, within_s)

    def errors(self) -> str:
        return self._errors.read_text(errors="replace")

    def get(self, path: str, port: int | None = None) -> tuple[int, str]:
        connection = HTTPConnection("127.0.0.1", port or self.port, timeout=5)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def _says_ok(self, path: str) -> bool:
        try:
            return self.get(path)[0] == 200
        except OSError:
            return False

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait(10)


class Backend(Process):
    """A Perdure server with `balanced_app`."""

    def __init__(self, directory: Path, store: str = "memory:") -> None:
        port = free_port()
        words = ["run", str(APP), "--no-supervisor", "--store", store]
        if store.startswith("postgresql:"):
            words += ["--cluster-listen", f"127.0.0.1:{free_port()}"]
        super().__init__([*words, "--listen", f"127.0.0.1:{port}"], port, directory)

    async def replace(self, balancer: "Balancer") -> None:
        """Let it leave in order, and start another in its place."""
        self.signal(signal.SIGTERM)
        await self.ended()
        self.start()
        await self.ready()
        await balancer.sees(self, "up")


class Balancer(Process):
    """`perdure balance`, with its supervisor unless told otherwise."""

    def __init__(self, directory: Path, *options: str) -> None:
        port, self.admin = free_port(), free_port()
        words = ["balance", *options, "--listen", f"127.0.0.1:{port}"]
        super().__init__([*words, "--admin", f"127.0.0.1:{self.admin}"], port, directory)

    def served_by(self, path: str) -> int:
        """The port of the server that answers."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", path)
            return int(connection.getresponse().headers["x-port"])
        finally:
            connection.close()

    def child(self) -> int:
        """The process that balances, below its supervisor; 0 while there is none, or two."""
        found = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return int(found) if len(found.split()) == 1 else 0

    async def metric(self, name: str) -> float:
        """The sum of one metric over its labels."""
        _, text = await asyncio.to_thread(self.get, "/metrics", self.admin)
        found = re.findall(rf"^perdure_balance_{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
        return sum(map(float, found))

    async def sees(self, backend: Process, state: str) -> None:
        """Wait until a backend is in this state."""
        line = f'backend="{backend.address}",state="{state}"}} 1\n'
        end_s = time.monotonic() + START_S
        while line not in (text := (await asyncio.to_thread(self.get, "/metrics", self.admin))[1]):
            assert time.monotonic() < end_s, f"{backend.address} never was {state}: {text}"
            await asyncio.sleep(0.02)


class Site:
    """Three servers and a balancer before them."""

    def __init__(
        self, directory: Path, *options: str, store: str = "memory:", names_all: bool = True
    ) -> None:
        """Starts the servers.

        Args:
            options: of the balancer.
            names_all: whether they are named to it on the command line.
        """
        self.directory = directory
        self._store = store
        self._options = options
        self._names_all = names_all
        self.backends = [Backend(directory, store) for _ in range(3)]
        self._processes: list[Process] = [*self.backends]

    async def __aenter__(self) -> Self:
        try:
            for backend in self.backends:
                await backend.ready()
            self.balancer = await self.add_balancer()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for process in self._processes:
            process.close()

    async def add_balancer(self) -> Balancer:
        """One more, before the same servers."""
        named = [one.address for one in self.backends] if self._names_all else []
        balancer = Balancer(self.directory, *self._options, *named)
        self._processes.append(balancer)
        await balancer.ready("/-/balance/ready")
        return balancer

    async def add_backend(self) -> Backend:
        """One more server."""
        backend = Backend(self.directory, self._store)
        self._processes.append(backend)
        await backend.ready()
        return backend


async def until(condition: Callable[[], object], what: str, within_s: float = START_S) -> None:
    """Wait for a condition that nothing announces."""
    end_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end_s, f"waited {within_s} s in vain for {what}"
        await asyncio.sleep(0.01)
