"""Processes that the benchmark starts: pinned to one core, ended by their id whatever happens.

Every child leads a process group of its own, which is killed with it. Should the benchmark itself
be killed, the kernel asks its children to end (`setpriv --pdeathsig TERM`), and they ask theirs.
"""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

STOP_TIMEOUT_S = 10.0
READY_TIMEOUT_S = 60.0


class MissingPeerError(Exception):
    """Raised when a peer cannot be installed or started; its message is the reason reported."""


def server_and_load_cores() -> tuple[int, int]:
    """Return the two cores used: the first for every server, the second for the load."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("the benchmark needs two cores: one for the server, one for the load")
    return cores[0], cores[1]


SERVER_CORE, LOAD_CORE = server_and_load_cores()


def pinned(core: int, user: str | None = None) -> list[str]:
    """Return the words before a command that pin it to `core` and end it with the benchmark.

    BENCH_NICE (negative: root only) gives servers and load alike more of cores that are shared.
    """
    words = ["nice", "-n", os.environ.get("BENCH_NICE", "0"), "setpriv", "--pdeathsig", "TERM"]
    if user:
        words += ["--reuid", user, "--regid", user, "--init-groups"]
    return [*words, "taskset", "-c", str(core)]


def favour(pids: list[int]) -> None:
    """Give the sessions of these processes the niceness of BENCH_NICE.

    Linux shares cores among sessions first (autogroups), so a process's own niceness says nothing
    against the processes of other sessions.
    """
    for pid in pids:
        with contextlib.suppress(OSError):
            Path(f"/proc/{pid}/autogroup").write_text(os.environ.get("BENCH_NICE", "0"))


def free_port() -> int:
    """Return a TCP port of the loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Processes:
    """The processes of one server, stopped together and in the opposite order of their start."""

    def __init__(self, log_directory: Path) -> None:
        self._log_directory = log_directory
        self._children: list[tuple[subprocess.Popen, Path]] = []

    def start(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        core: int = SERVER_CORE,
        environment: dict[str, str] | None = None,
        directory: Path | None = None,
        user: str | None = None,
        stop_signal: int = signal.SIGTERM,
    ) -> subprocess.Popen:
        """Start one process on `core`; its output goes to a file shown when it fails."""
        log_path = self._log_directory / f"{name}.log"
        with log_path.open("wb") as log:
            child = subprocess.Popen(
                [*pinned(core, user), *map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=directory,
                env=os.environ | (environment or {}),
                start_new_session=True,
            )
        child.stop_signal = stop_signal  # type: ignore[attr-defined]
        self._children.append((child, log_path))
        return child

    def wait_until(self, ready: Callable[[], bool], what: str) -> None:
        """Wait until `ready()` is true; raise MissingPeerError when a child ends or time is up."""
        deadline = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline:
            for child, log_path in self._children:
                if child.poll() is not None:
                    raise MissingPeerError(f"{what} ended at once: {_last_line(log_path)}")
            try:
                if ready():
                    return
            except OSError:
                pass
            time.sleep(0.02)
        raise MissingPeerError(f"{what} was not ready within {READY_TIMEOUT_S:.0f} s")

    def resident_bytes(self) -> int:
        """Return the resident memory of all processes and their descendants."""
        return sum(_resident_bytes(pid) for pid in self.pids())

    def cpu_ticks(self) -> int:
        """Return the CPU time of all processes and their descendants so far, in ticks."""
        return sum(_cpu_ticks(pid) for pid in self.pids())

    def pids(self) -> list[int]:
        """Return the ids of all processes and their descendants."""
        found = [child.pid for child, _ in self._children]
        for pid in found:  # grows while it is walked
            found.extend(_children_of(pid))
        return found

    def stop(self) -> None:
        """End all processes: politely, then by SIGKILL to each group after a limited wait."""
        while self._children:
            child, _ = self._children.pop()
            if child.poll() is None:
                child.send_signal(child.stop_signal)  # type: ignore[attr-defined]
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(STOP_TIMEOUT_S)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait(STOP_TIMEOUT_S)


def _children_of(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found.extend(map(int, task.read_text().split()))
        except OSError:
            continue
    return found


def _resident_bytes(pid: int) -> int:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _cpu_ticks(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])  # in user and in kernel mode


def _last_line(log_path: Path) -> str:
    lines = log_path.read_text(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "(it said nothing)"
