"""How much PostgreSQL a number of calls/s needs: figures measured here, and a simulation on them.

`scripts/sizing` prints the tables of docs/explanation/sizing.md and draws its picture;
`scripts/sizing --measure` measures anew what a commit costs, into bench/sizing.json.
"""

import argparse
import asyncio
import json
from dataclasses import replace
from pathlib import Path

from bench.sizing_measure import measure
from bench.sizing_model import Seen, Server, is_full, largest, simulate
from bench.sizing_picture import picture

HERE = Path(__file__).parent
FIGURES = HERE / "sizing.json"
PICTURE = HERE.parent / "docs" / "images" / "sizing.svg"
NODES = 100
CHANGING = 0.2
PAGE_BYTES = 8192
LOADS = [20_000 * 2**step for step in range(11)]


def server_of(figures: dict, **options: float) -> Server:
    """The server that costs what was measured: a line through one row and the most rows."""
    one, *_, many = figures["commits"]
    rows = many["rows"] - one["rows"]
    row_cpu_s = (many["cpu_ms"] - one["cpu_ms"]) / rows / 1000
    row_wal = (many["wal_bytes"] - one["wal_bytes"]) / rows
    registry = figures["registry"]
    return Server(
        row_cpu_s=row_cpu_s,
        commit_cpu_s=one["cpu_ms"] / 1000 - row_cpu_s,
        row_wal_bytes=row_wal,
        commit_wal_bytes=one["wal_bytes"] - row_wal,
        background_cores=2 * NODES * registry["renew_cpu_ms"] / 1000,  # renewals, and looks of web
        **options,
    )


def load_table(server: Server) -> list[str]:
    """What one database of this kind has to do, line by line."""
    lines = [
        "| calls/s | rows/s | commits/s | rows in one | WAL MB/s | CPU | p50 ms | p99 ms |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for load in (10_000, 100_000, 300_000, 1_000_000, 3_000_000):
        seen = simulate(server, nodes=NODES, calls_per_s=load, changing=CHANGING)
        assert not is_full(seen, server, CHANGING)
        lines.append(_row(seen))
    return lines


def main() -> None:
    """Print the tables, draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", action="store_true", help="measure anew (a minute)")
    if parser.parse_args().measure:
        FIGURES.write_text(json.dumps(asyncio.run(measure()), indent=1) + "\n")
    figures = json.loads(FIGURES.read_text())
    usual = server_of(figures)
    burst = replace(usual, row_wal_bytes=usual.row_wal_bytes + PAGE_BYTES)
    print(f"a commit: {usual.commit_cpu_s * 1e6:.0f} us + {usual.row_cpu_s * 1e6:.1f} us/row CPU,")
    print(f"          {usual.commit_wal_bytes:.0f} B + {usual.row_wal_bytes:.0f} B/row of WAL")
    print(f"renewals and looks of {NODES} nodes: {usual.background_cores:.2f} cores\n")
    print("\n".join(load_table(usual)))
    print("\n| changing | cores | WAL GB/s | full at calls/s | just after a checkpoint | rows/s |")
    print("|---|---|---|---|---|---|")
    for changing in (1.0, 0.2, 0.05):
        for cores, gigabytes in ((8, 0.25), (32, 1.0), (64, 2.0)):
            sizes = {"cores": cores, "wal_bytes_per_s": gigabytes * 1e9}
            most = largest(replace(usual, **sizes), nodes=NODES, changing=changing)
            after = largest(replace(burst, **sizes), nodes=NODES, changing=changing)
            print(
                f"| {changing:.0%} | {cores} | {gigabytes} | {_round(most.calls_per_s):,} "
                f"| {_round(after.calls_per_s):,} | {_round(most.rows_per_s):,} |"
            )
    curves = {}
    for name, server, cells in (
        ("one database, just after a checkpoint", burst, 1),
        ("one database", usual, 1),
        ("four cells", usual, 4),
    ):
        points = []
        for load in LOADS:
            seen = simulate(
                server, nodes=NODES // cells, calls_per_s=load / cells, changing=CHANGING
            )
            if seen.latencies_s:
                points.append((load, 1000 * seen.latency_s(0.99)))
        curves[name] = points
    PICTURE.write_text(picture(curves))


def _row(seen: Seen) -> str:
    return (
        f"| {seen.calls_per_s:,.0f} | {seen.rows_per_s:,.0f} | {_round(seen.commits_per_s):,} "
        f"| {seen.rows_per_s / seen.commits_per_s:.1f} | {seen.wal_bytes_per_s / 1e6:.0f} "
        f"| {min(seen.cpu, 1):.0%} | {1000 * seen.latency_s(0.5):.1f} "
        f"| {1000 * seen.latency_s(0.99):.1f} |"
    )


def _round(figure: float) -> int:
    return int(float(f"{figure:.2g}"))


if __name__ == "__main__":
    main()
