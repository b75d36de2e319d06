"""Perdure's further figures: start, import, latency of one caller, memory, cost of waking."""

import argparse
import statistics
import subprocess
import time
from pathlib import Path

from rich.console import Console

from bench.client import Client
from bench.fill import fill
from bench.load import drive
from bench.measure import running
from bench.peers import PEERS
from bench.peers.base import BIN
from bench.peers.perdure import run_command
from bench.processes import SERVER_CORE, MissingPeerError, Processes, free_port, pinned

PERDURE = PEERS["perdure"]
STORED, AWAKE, WOKEN_ALONE = 1_000_000, 50_000, 10_000
QUICK_STORED, QUICK_AWAKE, QUICK_WOKEN_ALONE = 100_000, 20_000, 5_000
MEMORY_POINTS = 5
CLIENTS = 64
STARTS, IMPORTS = 5, 10


def measure_all(options: argparse.Namespace, console: Console) -> dict:
    """Return every figure; one that cannot be taken is left out and said to be."""
    found: dict = {}
    for take in (import_time, time_to_first_answer, latency_of_one_caller, memory_and_waking):
        console.print(f"figures  {take.__name__.replace('_', ' ')}")
        options.patience.wait_until_quiet()
        try:
            found |= take(options)
        except (MissingPeerError, OSError, RuntimeError) as error:
            found.setdefault("failed", {})[take.__name__] = str(error)
            console.print(f"[red]failed: {take.__name__}: {error}")
    return found


def import_time(options: argparse.Namespace) -> dict:
    """The wall time of a Python that imports, less that of one that does not; medians."""
    bare_ms = _python_ms("pass")
    return {
        "import_perdure_ms": _python_ms("import perdure") - bare_ms,
        "import_app_ms": _python_ms("from perdure import App") - bare_ms,
        "bare_python_ms": bare_ms,
    }


def _python_ms(statement: str) -> float:
    command = [*pinned(SERVER_CORE), str(BIN / "python"), "-c", statement]
    times_ms = []
    for _ in range(IMPORTS + 1):  # the first one may compile
        start = time.perf_counter()
        said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if said.returncode != 0:
            raise RuntimeError(f"`{statement}`: {said.stderr.strip().splitlines()[-1]}")
        times_ms.append((time.perf_counter() - start) * 1000)
    return statistics.median(times_ms[1:])


def time_to_first_answer(options: argparse.Namespace) -> dict:
    """From the start of the process to its first durable 200, on an empty data directory."""
    times_s = []
    for _ in range(STARTS):
        start = time.perf_counter()
        with running(PERDURE, options.data_root):
            times_s.append(time.perf_counter() - start)
    return {"first_answer_s": statistics.median(times_s)}


def latency_of_one_caller(options: argparse.Namespace) -> dict:
    """A durable addition with a single connection: nobody to share the fsync with."""
    with running(PERDURE, options.data_root) as (processes, port, _):
        load = {"port": port, "path": PERDURE.add_path, "keys_count": 1_000, "connections": 1}
        drive(processes, **load, duration_s=options.warm_up_s, seed=1)
        figures = drive(processes, **load, duration_s=options.round_s, seed=2)
    return {f"one_caller_{name}": figures[name] for name in ("per_second", "p50_ms", "p99_ms")}


def memory_and_waking(options: argparse.Namespace) -> dict:
    """One large store: how fast it starts, what waking costs, what an awake actor weighs."""
    full, quick = (STORED, AWAKE, WOKEN_ALONE), (QUICK_STORED, QUICK_AWAKE, QUICK_WOKEN_ALONE)
    stored, awake, woken_alone = quick if options.quick else full
    with running(PERDURE, options.data_root) as (processes, port, directory):
        with Client(port) as client:
            for sku in ("tea", "mug", "pot"):
                client.post(PERDURE.add_path.format(key="model"), {"sku": sku, "qty": 2})
        processes.stop()
        state_bytes = fill(directory / "data", "model", stored)
        again = Processes(directory)
        try:
            found = _measure_large_store(again, directory, awake, woken_alone)
        finally:
            again.stop()
    return found | {"stored": stored, "awake": awake, "state_bytes": state_bytes}


def _measure_large_store(
    processes: Processes, directory: Path, awake: int, woken_alone: int
) -> dict:
    port = free_port()
    start = time.perf_counter()
    processes.start("perdure", run_command(directory, port))
    processes.wait_until(lambda: PERDURE.is_up(port), "perdure run")
    found = {"first_answer_large_s": time.perf_counter() - start}
    resident = [(1, processes.resident_bytes())]
    keys = [f"cart-{index}" for index in range(1, awake + 1)]
    found |= _view_alone(port, keys[:woken_alone], "waking")
    found |= _view_alone(port, keys[:woken_alone], "awake_view")
    resident.append((woken_alone, processes.resident_bytes()))
    clients = [Client(port) for _ in range(CLIENTS)]
    step = (awake - woken_alone) // MEMORY_POINTS
    for end in range(woken_alone + step, awake + 1, step):
        _call_together(clients, keys[end - step : end], None)
        resident.append((end, processes.resident_bytes()))
    written = [(0, processes.resident_bytes())]
    step = awake // MEMORY_POINTS
    for end in range(step, awake + 1, step):
        _call_together(clients, keys[end - step : end], {"sku": "tea", "qty": 1})
        written.append((end, processes.resident_bytes()))
    for client in clients:
        client.close()
    return found | {
        "resident_by_awake": resident,
        "resident_by_written": written,
        "resident_all_awake_bytes": resident[-1][1],
        "resident_all_written_bytes": written[-1][1],
        "awake_actor_bytes": _slope(resident),
        "written_actor_bytes": _slope(resident) + max(0.0, _slope(written)),
    }


def _slope(points: list[tuple[int, int]]) -> float:
    """Return the bytes for each actor, without the first step: in it, caches of all fill up."""
    return statistics.linear_regression(*zip(*points[1:], strict=True)).slope


def _view_alone(port: int, keys: list[str], name: str) -> dict:
    """View each key with one connection and return the percentiles of the answers."""
    times_ms = []
    with Client(port) as client:
        for key in keys:
            start = time.perf_counter()
            status, _ = client.get(f"/cart/{key}/view")
            times_ms.append((time.perf_counter() - start) * 1000)
            if status != 200:
                raise RuntimeError(f"view of {key} answered {status}")
    percentiles = statistics.quantiles(times_ms, n=100)
    return {f"{name}_p50_ms": percentiles[49], f"{name}_p99_ms": percentiles[98]}


def _call_together(clients: list[Client], keys: list[str], addition: dict | None) -> None:
    """View each key, or add to it, with as many calls under way as there are clients."""
    for start in range(0, len(keys), len(clients)):
        pairs = list(zip(clients, keys[start : start + len(clients)], strict=False))
        for client, key in pairs:
            if addition:
                client.send_post(PERDURE.add_path.format(key=key), addition)
            else:
                client.send_get(f"/cart/{key}/view")
        for client, key in pairs:
            status, _ = client.receive()
            if status != 200:
                raise RuntimeError(f"{key} answered {status}")
