"""The load: wrk with one thread on the load core, and what it measured.

wrk is a closed loop: each connection sends its next request when the last one is answered, so
percentiles are those of a server kept exactly as busy as it can be. An answer of 400 or more, a
broken socket and a timeout are failures; `Peer.probe` demands an exact 200 before and after.
"""

import json
import os
import resource
import subprocess
from pathlib import Path

from bench.processes import LOAD_CORE, SERVER_CORE, Processes, favour, pinned

SCRIPT = Path(__file__).with_name("load.lua")
GRACE_S = 30.0


def drive(
    processes: Processes,
    *,
    port: int,
    path: str,
    keys_count: int,
    connections: int,
    duration_s: float,
    seed: int,
) -> dict:
    """Run wrk for `duration_s` against `processes`; return rates a second and latencies in ms."""
    command = [*pinned(LOAD_CORE), "wrk"]
    command += ["--threads", "1", "--connections", str(connections), "--timeout", "15s"]
    command += ["--duration", f"{max(1, round(duration_s))}s", "--script", str(SCRIPT)]
    command += [f"http://127.0.0.1:{port}/", "--", path, str(keys_count), str(seed)]
    favour(processes.pids())
    before, own_before = busy_and_total(), _own_ticks(processes)
    said = _run_wrk(command, duration_s + GRACE_S)
    after, own = busy_and_total(), _own_ticks(processes)
    raw = json.loads(said.strip().splitlines()[-1])
    acknowledged = raw["requests"] - raw["status_errors"]
    return {
        "acknowledged": acknowledged,
        "per_second": acknowledged / (raw["duration_us"] / 1e6),
        "failures": raw["status_errors"] + raw["socket_errors"],
        "p50_ms": raw["p50_us"] / 1000,
        "p90_ms": raw["p90_us"] / 1000,
        "p99_ms": raw["p99_us"] / 1000,
        "max_ms": raw["max_us"] / 1000,
        "server_core_busy": _share(before, after, SERVER_CORE),
        "load_core_busy": _share(before, after, LOAD_CORE),
        "foreign_busy": _foreign_share(before, after, own - own_before),
    }


def _run_wrk(command: list[str], timeout_s: float) -> str:
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as wrk:
        try:
            favour([wrk.pid])
            said, complaint = wrk.communicate(timeout=timeout_s)
        finally:
            wrk.kill()
    if wrk.returncode != 0:
        raise RuntimeError(f"wrk failed: {complaint or said}")
    return said


def _own_ticks(processes: Processes) -> int:
    """Return the CPU time of the servers and of wrk so far, in ticks."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    wrk_s = children.ru_utime + children.ru_stime
    return processes.cpu_ticks() + round(wrk_s * os.sysconf("SC_CLK_TCK"))


def _foreign_share(before: dict, after: dict, own_ticks: int) -> float:
    """Return the share of the two cores that was spent on neither servers nor load."""
    busy = total = 0
    for core in (f"cpu{SERVER_CORE}", f"cpu{LOAD_CORE}"):
        busy += after[core][0] - before[core][0]
        total += after[core][1] - before[core][1]
    return max(0.0, (busy - own_ticks) / max(1, total))


def busy_and_total() -> dict[str, tuple[int, int]]:
    """Return, for each core, its busy and its total time in ticks."""
    cores = {}
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name.startswith("cpu"):
            ticks = list(map(int, fields[:8]))
            cores[name] = (sum(ticks) - ticks[3] - ticks[4], sum(ticks))
    return cores


def _share(before: dict, after: dict, core: int) -> float:
    (busy_before, total_before), (busy, total) = before[f"cpu{core}"], after[f"cpu{core}"]
    return (busy - busy_before) / max(1, total - total_before)
