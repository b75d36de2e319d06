"""What the machine is: figures without it compare with nothing."""

import os
import platform
import statistics
import subprocess
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from bench.peers.base import ROOT
from bench.processes import LOAD_CORE, SERVER_CORE


def describe(data_root: Path | None) -> dict[str, str | int | float]:
    """Return what a reader needs to know of the machine and of this run."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _said("git", "-C", str(ROOT), "describe", "--always", "--dirty"),
        "cpu": _field(Path("/proc/cpuinfo"), "model name"),
        "cores": len(os.sched_getaffinity(0)),
        "server_core": SERVER_CORE,
        "load_core": LOAD_CORE,
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30),
        "kernel": f"{platform.system()} {platform.release()}",
        "distribution": platform.freedesktop_os_release()["PRETTY_NAME"],
        "python": platform.python_version(),
        "wrk": _said("wrk", "-v").split(" Copyright")[0],
        "file_system": _said("stat", "-f", "-c", "%T", str(data_root or tempfile.gettempdir())),
        "fdatasync_us": _fdatasync_us(data_root),
        "load_average_before": round(os.getloadavg()[0], 2),
    }


def _fdatasync_us(data_root: Path | None) -> float:
    """Return the median time of a 256-byte append made durable, in microseconds."""
    times_us = []
    with tempfile.TemporaryFile(dir=data_root, buffering=0) as file:
        for _ in range(200):
            start = time.perf_counter()
            file.write(bytes(256))
            os.fdatasync(file.fileno())
            times_us.append((time.perf_counter() - start) * 1e6)
    return round(statistics.median(times_us), 1)


def _said(*command: str) -> str:
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except OSError:
        return "unknown"
    lines = (said.stdout or said.stderr).strip().splitlines()
    return lines[0] if lines else "unknown"


def _field(path: Path, name: str) -> str:
    for line in path.read_text().splitlines():
        if line.startswith(name):
            return line.partition(":")[2].strip()
    return "unknown"
