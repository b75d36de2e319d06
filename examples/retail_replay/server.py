"""The server under test: `perdure run` in a process of its own, and the means to kill it.

Only processes that were started here are ever ended: the supervisor, and its children, which are
found below its process id in /proc.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sysconfig
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Self

from examples.retail_replay.client import Connection

PERDURE = Path(sysconfig.get_path("scripts")) / "perdure"
APP = Path(__file__).with_name("app.py")
_START_S = 30.0
_STOP_S = 30.0
_LOOK_EVERY_S = 0.02


class ServerError(Exception):
    """Raised when the server does not start, does not come back, or does not stop."""


class Server:
    """A supervised server on a free port of the loopback address."""

    def __init__(self, data: Path, log: Path) -> None:
        self.host = "127.0.0.1"
        self.port = _free_port()
        self.killed: list[int] = []  # process ids, in order
        self._data = data
        self._log = log
        self._supervisor: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> Self:
        self._start()
        try:
            await self.wait_ready()
        except BaseException:
            self._stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop()

    async def kill(self) -> None:
        """SIGKILL the serving process, and wait until its successor answers."""
        await _until(lambda: _is(self._children()), "a process that serves")
        victims = self._children()
        self.killed += victims
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        await _until(lambda: _is(set(self._children()) - set(victims)), "a successor")
        await self.wait_ready()

    async def wait_ready(self) -> None:
        """Wait until the server answers. Raises ServerError."""
        await _until(self._is_ready, f"an answer of the server (its log is {self._log})")

    async def _is_ready(self) -> bool:
        assert self._supervisor is not None
        if self._supervisor.poll() is not None:
            raise ServerError(f"the supervisor ended; its log is {self._log}")
        connection = Connection(self.host, self.port)
        try:
            return (await connection.request("GET", "/-/ready", timeout_s=5.0)).status == 200
        except (OSError, EOFError, TimeoutError):
            return False
        finally:
            connection.close()

    def _children(self) -> list[int]:
        assert self._supervisor is not None
        tasks = Path(f"/proc/{self._supervisor.pid}/task")
        return [int(pid) for task in tasks.iterdir() for pid in _read(task / "children").split()]

    def _start(self) -> None:
        command: list[str | Path] = [PERDURE, "run", APP, "--data", self._data]
        command += ["--listen", f"{self.host}:{self.port}"]
        with self._log.open("wb") as log:
            self._supervisor = subprocess.Popen(command, stdout=log, stderr=log)

    def _stop(self) -> None:
        assert self._supervisor is not None
        self._supervisor.terminate()
        try:
            self._supervisor.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            left = self._children()
            self._supervisor.kill()
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            raise ServerError(f"the server did not stop within {_STOP_S} s") from None


async def _until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    try:
        async with asyncio.timeout(_START_S):
            while not await condition():  # noqa: ASYNC110  a process sets no event
                await asyncio.sleep(_LOOK_EVERY_S)
    except TimeoutError:
        raise ServerError(f"waited {_START_S} s in vain for {what}") from None


async def _is(value: object) -> bool:
    return bool(value)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""  # the thread ended while we looked


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
