"""The laboratory: a real server process, clients over loopback, and an oracle outside of both.

The oracle knows of every entry whether it was acknowledged, refused or never answered. Whatever
happened to the server, afterwards each acknowledged entry must be there once, each refused one not
at all, and each unanswered one at most once; with an idempotency key, once when it was sent again.
"""

import asyncio
import json
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest

APP = Path(__file__).with_name("ledger.py")
START_S = 20.0
STRACE = ("strace", "-D", "-f", "-qq", "-o", "/dev/null")  # no --seccomp-bpf: it loses signals


def injected(fault: str, calls: str = "fdatasync,fsync") -> tuple[str, ...]:
    """The command that makes system calls of a process fail; -D leaves the server our child.

    strace counts `when` for each thread: the main one starts the store, the writer commits.
    """
    return (*STRACE, "-e", f"trace={calls}", "-e", f"inject={calls}:{fault}")


class Died(Exception):
    """The server ended before it was ready."""


class Server:
    """One server process on one data directory."""

    def __init__(
        self,
        data: Path,
        *,
        app: Path = APP,
        wrapper: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.data = data
        self.port = 0
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        command = [*wrapper, sys.executable, "-c", "from perdure.cli import main; main()"]
        command += ["run", str(app), "--no-supervisor", "--data", str(data)]
        command += ["--listen", "127.0.0.1:0"]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, **(environment or {})},
        )

    def __enter__(self) -> Self:
        try:
            self.wait_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def wait_ready(self) -> None:
        """Wait for the line that names the address; raises Died."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], START_S)
        line = self.process.stdout.readline().decode() if ready else ""
        if "http://127.0.0.1:" not in line:
            raise Died(f"exit {line if line else self.process.wait(START_S)}: {self.errors()}")
        self.port = int(line.partition("http://127.0.0.1:")[2].split()[0])

    def kill(self) -> None:
        """End it as a power cut would, from its point of view."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def wait(self, within_s: float = 15.0) -> int:
        """The exit code, once it has ended by itself."""
        return self.process.wait(within_s)

    def errors(self) -> str:
        """What it wrote to standard error."""
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")

    def close(self) -> None:
        self.kill()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._errors.close()


class Lost(Exception):
    """The connection ended before the answer."""


class Client:
    """One kept-alive connection. Plain sockets, since the load must be cheaper than the server."""

    def __init__(self, port: int, actor: str = "ledger") -> None:
        self._port = port
        self._actor = actor
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def call(self, key: str, method: str, request_id: str = "", **arguments: Any) -> Any:
        """(status, body as JSON). Raises Lost when there is no answer."""
        body = json.dumps(arguments).encode()
        head = f"POST /{self._actor}/{key}/{method} HTTP/1.1\r\nhost: x\r\n"
        head += f"content-length: {len(body)}\r\n"
        head += f"idempotency-key: {request_id}\r\n\r\n" if request_id else "\r\n"
        try:
            async with asyncio.timeout(30):
                if self._streams is None:
                    self._streams = await asyncio.open_connection("127.0.0.1", self._port)
                reader, writer = self._streams
                writer.write(head.encode() + body)
                return await self._answer(reader)
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            self.close()
            raise Lost(str(error)) from None

    async def _answer(self, reader: asyncio.StreamReader) -> Any:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        size = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        body = await reader.readexactly(size)
        if b"connection: close" in head:
            self.close()
        return int(head[9:12]), json.loads(body)

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


@dataclass
class Oracle:
    """What the outside world knows, by key and entry. Amounts are one per entry."""

    acknowledged: dict[str, set[str]] = field(default_factory=dict)
    refused: dict[str, set[str]] = field(default_factory=dict)
    unknown: dict[str, dict[str, str]] = field(default_factory=dict)  # entry → request id or ""
    statuses: dict[str, int] = field(default_factory=dict)
    repeated: int = 0  # unanswered keyed entries that were sent again

    def count(self) -> int:
        """Acknowledged entries."""
        return sum(map(len, self.acknowledged.values()))

    def count_unknown(self) -> int:
        return sum(map(len, self.unknown.values()))

    async def add(self, client: Client, key: str, entry: str, keyed: bool, **more: Any) -> int:
        """Book one entry; returns the status, 0 when there was no answer."""
        request_id = f"id-{entry}" if keyed else ""
        status, body = 0, None
        try:
            status, body = await client.call(key, "add", request_id, entry=entry, amount=1, **more)
        except Lost:
            self.unknown.setdefault(key, {})[entry] = request_id
            return 0
        finally:
            kind = str(body.get("type", "")).rpartition(":")[2] if isinstance(body, dict) else ""
            label = f"{status} {kind}".strip()
            self.statuses[label] = self.statuses.get(label, 0) + 1
        if status == 200:
            self.acknowledged.setdefault(key, set()).add(entry)
        elif kind in {"store-broken", "store-unavailable", "deadline"}:
            self.unknown.setdefault(key, {})[entry] = request_id
        else:
            self.refused.setdefault(key, set()).add(entry)
        return status

    async def check(self, port: int, keys: Iterable[str] | None = None) -> None:
        """Compare the server with all that is known; sends unanswered keyed entries again."""
        with closing(Client(port)) as client:
            for key in sorted(set(keys) if keys is not None else self._keys()):
                await self._repeat(client, key)
                status, body = await client.call(key, "view")
                assert status == 200, body
                self.compare(key, *body)

    def compare(self, key: str, entries: dict[str, int], total: int) -> None:
        """Raise AssertionError when the state of one actor cannot be right."""
        acknowledged = self.acknowledged.get(key, set())
        lost = acknowledged - entries.keys()
        assert not lost, f"{key}: acknowledged and lost: {sorted(lost)[:5]}"
        twice = {entry for entry, times in entries.items() if times != 1}
        assert not twice, f"{key}: booked more than once: {sorted(twice)[:5]}"
        strange = entries.keys() - acknowledged - self.unknown.get(key, {}).keys()
        assert not strange, f"{key}: refused, or never sent, and there: {sorted(strange)[:5]}"
        assert total == len(entries), f"{key}: half a turn: {total} of {len(entries)}"

    async def _repeat(self, client: Client, key: str) -> None:
        for entry, request_id in list(self.unknown.get(key, {}).items()):
            if request_id:
                status, _ = await client.call(key, "add", request_id, entry=entry, amount=1)
                assert status == 200
                self.repeated += 1
                del self.unknown[key][entry]
                self.acknowledged.setdefault(key, set()).add(entry)

    def _keys(self) -> set[str]:
        return {*self.acknowledged, *self.refused, *self.unknown}


async def load(
    oracle: Oracle,
    port: int,
    name: str,
    *,
    connections: int = 8,
    entries_max: int = 10_000,
) -> set[str]:
    """Book entries over several connections until the server is gone; returns the keys used."""
    keys = {f"{name}-{number % 3}" for number in range(connections)}

    async def book(number: int) -> None:
        with closing(Client(port)) as client:
            for count in range(entries_max):
                entry = f"{name}.{number}.{count}"
                keyed = (number + count) % 2 == 0
                if not await oracle.add(client, f"{name}-{number % 3}", entry, keyed):
                    break

    await asyncio.gather(*[book(number) for number in range(connections)])
    return keys


async def kill_under_load(oracle: Oracle, server: Server, name: str, after_s: float) -> set[str]:
    """Load, and a SIGKILL in the midst of it."""
    asyncio.get_running_loop().call_later(after_s, server.process.send_signal, signal.SIGKILL)
    return await load(oracle, server.port, name)


def run(work: Awaitable[Any], within_s: float = 120.0) -> Any:
    """Run asynchronous work with a deadline."""

    async def bounded() -> Any:
        async with asyncio.timeout(within_s):
            return await work

    return asyncio.run(bounded())


def check_after_restart(oracle: Oracle, data: Path) -> None:
    """Start a server on what is left, and compare."""
    with Server(data) as server:
        run(oracle.check(server.port))


def note(scenario: str, injected: str, checked: str) -> None:
    """Say what was done; the long form of these tests collects it for docs/reliability.md."""
    print(f"{scenario}: {injected}; {checked}")
    if record := os.environ.get("PERDURE_FAULTS_RECORD"):
        line = {"scenario": scenario, "injected": injected, "checked": checked}
        with Path(record).open("a") as file:
            file.write(json.dumps(line) + "\n")


def seeded() -> random.Random:
    """Random choices that can be repeated: the seed is printed with a failing test."""
    seed = int(os.environ.get("PERDURE_FAULTS_SEED", str(time.time_ns() % 1_000_000)))
    print(f"PERDURE_FAULTS_SEED={seed}")
    return random.Random(seed)


IS_LONG = "PERDURE_FAULTS_RECORD" in os.environ  # by `scripts/faults`, not with the other tests
unhurried = [pytest.mark.timeout(3600)] if IS_LONG else []

needs_strace = pytest.mark.skipif(
    subprocess.run(["which", "strace"], capture_output=True).returncode != 0,
    reason="strace is not installed (apt-get install strace)",
)
