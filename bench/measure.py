"""One run of one peer: fresh data, start, probe, warm-up, load, check, stop."""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.load import drive
from bench.peers.base import Peer
from bench.processes import Processes, free_port

CONNECTIONS = 64
SETTLE_S = 0.3
SETTLE_LOOKS_MAX = 30


@dataclass(frozen=True)
class Workload:
    """How the additions spread over the carts."""

    name: str
    title: str
    keys_count: int


WORKLOADS = (
    Workload("many", "1,000 carts", 1_000),
    Workload("hot", "one hot cart", 1),
)


class VerificationError(Exception):
    """Raised when a store holds less than was acknowledged, or more than was sent."""


@contextmanager
def running(peer: Peer, data_root: Path | None) -> Iterator[tuple[Processes, int, Path]]:
    """Run `peer` on fresh data; yield its processes, its port and its directory."""
    directory = Path(tempfile.mkdtemp(prefix=f"bench-{peer.name}-", dir=data_root))
    directory.chmod(0o755)  # PostgreSQL runs as another user
    processes = Processes(directory)
    port = free_port()
    try:
        peer.start(processes, directory, port)
        yield processes, port, directory
    finally:
        processes.stop()
        shutil.rmtree(directory, ignore_errors=True)


def measure(
    peer: Peer, workload: Workload, *, round_s: float, warm_up_s: float, seed: int,
    data_root: Path | None,
) -> dict:  # fmt: skip
    """Run `peer` once under `workload` and return the figures of the load and of the check."""
    with running(peer, data_root) as (processes, port, _):
        peer.probe(port)
        load = {"port": port, "path": peer.add_path, "keys_count": workload.keys_count}
        warm = drive(
            processes, **load, connections=CONNECTIONS, duration_s=warm_up_s, seed=seed + 1
        )
        stored_before = _settled_sum(peer, port, workload)
        figures = drive(processes, **load, connections=CONNECTIONS, duration_s=round_s, seed=seed)
        figures["resident_bytes"] = processes.resident_bytes()
        stored_after = _settled_sum(peer, port, workload)
    figures["load_average"] = os.getloadavg()[0]
    if stored_before is not None and stored_after is not None:
        verify("warm-up", stored_before, warm["acknowledged"])
        figures["stored"] = stored_after - stored_before
        verify(peer.name, figures["stored"], figures["acknowledged"])
    return figures


def verify(what: str, stored: int, acknowledged: int) -> None:
    """Check what a store gained against what was acknowledged while it did.

    Every acknowledged addition must be there. Beyond them, only those may be there that were
    under way when the load stopped: one a connection.
    """
    if not acknowledged <= stored <= acknowledged + CONNECTIONS:
        raise VerificationError(
            f"{what}: {acknowledged} additions were acknowledged and {stored} are stored; "
            f"expected {acknowledged} to {acknowledged + CONNECTIONS}"
        )


def _settled_sum(peer: Peer, port: int, workload: Workload) -> int | None:
    """Return the sum of all carts once it stands still, or None when nothing is stored.

    Some servers go on with what they accepted for a while after its callers have left.
    """
    if peer.view_path is None:
        return None
    last = -1
    for _ in range(SETTLE_LOOKS_MAX):
        time.sleep(SETTLE_S)
        total = peer.stored_sum(port, workload.keys_count)
        if total == last:
            return total
        last = total
    raise VerificationError(f"{peer.name}: the sum of the carts still changes without any load")


def save(results: dict, path: Path) -> None:
    """Write the raw results."""
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
