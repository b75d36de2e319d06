"""Measure one actor with a big Map: reading and writing one of its entries, through turns.

    python -m bench.big_map [--entries 1000000] [--samples 3000]

In one process, on SQLite in a temporary directory. A sample is one call from Python, from its
beginning to its answer; that of a write comes after its fsync. What a write makes of the log is
the bytes that SQLite's WAL grew by, per commit.
"""

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop

from perdure import Actor, App, Map, read

BATCH = 10_000  # entries that a turn may write


class Shelf(Actor):
    things: Map[int, str] = Map()

    async def fill(self, start: int, end: int) -> None:
        for number in range(start, end):
            self.things[number] = f"thing number {number}"

    @read
    async def get(self, number: int) -> str | None:
        return await self.things.get(number)

    @read
    async def page(self, start: int) -> int:
        return len(await self.things.page(start=start, limit=100))

    @read
    async def count(self) -> int:
        return await self.things.count()

    async def put(self, number: int, value: str) -> None:
        self.things[number] = value


async def timed(
    what: str, samples: int, call: Callable[[], Awaitable[object]], *, warm: int = 100
) -> None:
    """Print the median and the 99th percentile of so many calls, after some to warm up."""
    for _ in range(warm):
        await call()
    taken_ms = []
    for _ in range(samples):
        began_s = time.perf_counter()
        await call()
        taken_ms.append((time.perf_counter() - began_s) * 1000)
    p99 = statistics.quantiles(taken_ms, n=100)[98]
    print(f"{what}: p50 {statistics.median(taken_ms):.3f} ms, p99 {p99:.3f} ms")


async def measure(folder: Path, entries: int, samples: int) -> None:
    async with App(Shelf, store=f"sqlite:{folder}"):
        shelf = Shelf.at("one")
        began_s = time.perf_counter()
        for start in range(0, entries, BATCH):
            await shelf.fill(start, min(start + BATCH, entries))
        taken_s = time.perf_counter() - began_s
        print(f"fill: {entries:,} entries in {taken_s:.1f} s, {entries / taken_s:,.0f} a second")
    async with App(Shelf, store=f"sqlite:{folder}"):  # awake with nothing in memory
        began_s = time.perf_counter()
        await shelf.get(entries // 2)
        print(f"wake and get one: {(time.perf_counter() - began_s) * 1000:.3f} ms")

        def any_number() -> int:
            return random.randrange(entries)

        await timed("get one", samples, lambda: shelf.get(any_number()))
        await timed("page of 100", samples // 10, lambda: shelf.page(any_number()))
        wal = folder / "perdure.db-wal"
        before_bytes = wal.stat().st_size
        await timed("put one", samples // 10, lambda: shelf.put(any_number(), "new"), warm=0)
        grown_bytes = wal.stat().st_size - before_bytes
        print(f"put one: the WAL grew by {grown_bytes / (samples // 10):,.0f} bytes a commit")
        await timed("count", 3, shelf.count, warm=0)
    stored_bytes = (folder / "perdure.db").stat().st_size
    print(f"file: {stored_bytes / entries:.0f} bytes an entry")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--samples", type=int, default=3_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        uvloop.run(measure(Path(folder), options.entries, options.samples))


if __name__ == "__main__":
    main()
