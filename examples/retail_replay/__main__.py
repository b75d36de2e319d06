"""`python -m examples.retail_replay PATH.csv[.gz]`: replay, kill, compare, report.

Ends with 0 when every cart is exactly as the file says, with 1 when one is not.
"""

import asyncio
import random
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from examples.retail_replay.replay import (
    Tally,
    differences,
    kill_moments,
    read_carts,
    send_all,
)
from examples.retail_replay.rules import fold, read_lines
from examples.retail_replay.server import Server
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

_SHOWN_MAX = 20


def main(
    path: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="CSV, or CSV.gz")],
    lines: Annotated[int | None, typer.Option(min=1, help="Stop after so many lines.")] = None,
    kills: Annotated[int, typer.Option(min=0, help="How often the server is killed.")] = 5,
    connections: Annotated[int, typer.Option(min=1, max=1000)] = 32,
    data: Annotated[Path | None, typer.Option(help="Default: a temporary directory.")] = None,
    seed: Annotated[int, typer.Option(help="Of the moments at which it is killed.")] = 1,
) -> None:
    """Send every line of a shop's invoices to a server that is killed all the time."""
    with tempfile.TemporaryDirectory(prefix="retail-replay-") as temporary:
        directory = data or Path(temporary)
        directory.mkdir(parents=True, exist_ok=True)
        wrong = asyncio.run(_run(path, lines, kills, connections, directory, seed))
    raise typer.Exit(1 if wrong else 0)


async def _run(
    path: Path, lines_max: int | None, kills: int, connections: int, data: Path, seed: int
) -> int:
    chance = random.Random(seed)
    count = sum(1 for _ in read_lines(path, lines_max))
    async with Server(data / "store", data / "server.log") as server:
        with _progress() as bar:
            task = bar.add_task("lines", total=count, kills=0)
            tally = await send_all(
                read_lines(path, lines_max),
                server,
                connections=connections,
                kill_at=kill_moments(count, kills - 1, chance) if kills else [],
                chance=chance,
                on_progress=lambda tally: bar.update(
                    task, completed=tally.lines, kills=len(server.killed)
                ),
            )
        if kills:
            await server.kill()  # what is compared is what the disk holds
        expected = fold(read_lines(path, lines_max))
        carts = await read_carts(server, list(expected.carts), connections)
        killed = len(server.killed)
    found = differences(expected, carts, tally.refused, tally.lines)
    _report(tally, killed, found)
    return len(found)


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("killed {task.fields[kills]} times"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )


def _report(tally: Tally, killed: int, found: list[str]) -> None:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column()
    table.add_column(justify="right")
    rows = {
        "lines": f"{tally.lines:,}",
        "carts": f"{tally.carts:,}",
        **{f"refused: {kind}": f"{count:,}" for kind, count in sorted(tally.refused.items())},
        "kills": f"{killed:,}",
        "retries": f"{tally.retries:,}",
        "replays": f"{tally.replays:,}",
        "lines/s": f"{tally.lines / tally.seconds:,.0f}",
        "call p50": f"{tally.percentile_ms(50):.1f} ms",
        "call p99": f"{tally.percentile_ms(99):.1f} ms",
        "differences": f"{len(found):,}",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    console = Console()
    console.print(table)
    for text in found[:_SHOWN_MAX]:
        console.print(text, markup=False, style="red")
    if len(found) > _SHOWN_MAX:
        console.print(f"… and {len(found) - _SHOWN_MAX:,} more", style="red")


if __name__ == "__main__":
    typer.run(main)
