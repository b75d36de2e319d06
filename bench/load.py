"""The load: wrk with one thread on the load core, and what it measured.

wrk is a closed loop: each connection sends its next request when the last one is answered, so
percentiles are those of a server kept exactly as busy as it can be. An answer of 400 or more, a
broken socket and a timeout are failures; `Peer.probe` demands an exact 200 before and after.
"""

import json
import subprocess
from pathlib import Path

from bench.processes import LOAD_CORE, SERVER_CORE

SCRIPT = Path(__file__).with_name("load.lua")
GRACE_S = 30.0


def drive(
    *, port: int, path: str, keys_count: int, connections: int, duration_s: float, seed: int
) -> dict:
    """Run wrk for `duration_s` and return its figures, rates a second and latencies in ms."""
    command = ["setpriv", "--pdeathsig", "KILL", "taskset", "-c", str(LOAD_CORE), "wrk"]
    command += ["--threads", "1", "--connections", str(connections), "--timeout", "15s"]
    command += ["--duration", f"{max(1, round(duration_s))}s", "--script", str(SCRIPT)]
    command += [f"http://127.0.0.1:{port}/", "--", path, str(keys_count), str(seed)]
    before = _busy_and_total()
    finished = subprocess.run(
        command, capture_output=True, text=True, timeout=duration_s + GRACE_S, check=False
    )
    after = _busy_and_total()
    if finished.returncode != 0:
        raise RuntimeError(f"wrk failed: {finished.stderr or finished.stdout}")
    raw = json.loads(finished.stdout.strip().splitlines()[-1])
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
    }


def _busy_and_total() -> dict[str, tuple[int, int]]:
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
