"""What commits and renewals cost a PostgreSQL server, measured on the embedded one.

The same statements as in production: batches go through `PostgresStore.commit`, renewals through
`PostgresRegistry.renew`. What a statement costs the server is the CPU time of all its processes but
ours; what goes into the WAL is the difference of its position.
"""

import os
import random
import statistics
import time
from pathlib import Path

import asyncpg

from perdure.store.api import ActorSchema, ActorWrite, Answers, Batch
from perdure.store.postgres import PostgresStore
from perdure.store.postgres_registry import PostgresRegistry
from perdure.testing.postgres import fresh_database

ACTORS = 20_000
STATE_BYTES = 200
ANSWER_BYTES = 40
ROWS = (1, 50, 200)
MEMBERS = 100
LEASE_TTL_S = 3.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


async def measure() -> dict[str, object]:
    """All figures, as they go into sizing.json."""
    url = fresh_database()
    store = PostgresStore(url)
    await store.open([ActorSchema(name="cart", fields=("lines",))])
    try:
        observer = await asyncpg.connect(url)
        writer = _Writer(store)
        await writer.fill()
        commits = [await _commits(writer, observer, rows) for rows in ROWS]
        await observer.execute("CHECKPOINT")
        first = await _commits(writer, observer, 200, count=20)
        registry = await _registry(store, observer)
        version = str(await observer.fetchval("SHOW server_version"))
        await observer.close()
    finally:
        await store.close()
    return {
        "server": version,
        "state_bytes": STATE_BYTES,
        "answer_bytes": ANSWER_BYTES,
        "commits": commits,
        "after_checkpoint_wal_bytes_per_row": first["wal_bytes"] / first["rows"],
        "registry": registry,
    }


class _Writer:
    def __init__(self, store: PostgresStore) -> None:
        self._store = store
        self._versions = [0] * ACTORS
        self._random = random.Random(4)
        self._calls = 0

    async def fill(self) -> None:
        for first in range(0, ACTORS, 500):
            await self._write(range(first, first + 500))

    async def commit(self, rows: int) -> None:
        await self._write(self._random.sample(range(ACTORS), rows))

    async def _write(self, actors: range | list[int]) -> None:
        writes = []
        for number in actors:
            self._versions[number] += 1
            version = self._versions[number]
            text = f'{{"lines":"{version:08}{"x" * (STATE_BYTES - 22)}"}}'
            writes.append(ActorWrite("cart", f"shopper-{number:06}", text.encode(), version))
        answers = Answers(
            "web", self._calls + 1, self._calls + len(writes), b"a" * ANSWER_BYTES * len(writes)
        )
        self._calls += len(writes)
        batch = Batch(writes=writes, requests=(), at_ms=int(time.time() * 1000), answers=[answers])
        await self._store.commit(batch)


async def _commits(
    writer: _Writer, observer: asyncpg.Connection, rows: int, *, count: int = 400
) -> dict[str, float]:
    for _ in range(5):  # the statement is prepared
        await writer.commit(rows)
    taken_s = []
    before_cpu_s, before_wal = _server_cpu_s(), await _wal(observer)
    for _ in range(count):
        began_s = time.perf_counter()
        await writer.commit(rows)
        taken_s.append(time.perf_counter() - began_s)
    return {
        "rows": rows,
        "p50_ms": round(1000 * statistics.median(taken_s), 3),
        "cpu_ms": round(1000 * (_server_cpu_s() - before_cpu_s) / count, 3),
        "wal_bytes": round((await _wal(observer) - before_wal) / count),
    }


async def _registry(store: PostgresStore, observer: asyncpg.Connection) -> dict[str, float]:
    registry = store.registry
    assert isinstance(registry, PostgresRegistry)
    await registry.open()
    members = [
        await registry.join(f"node-{number}", f"tcp:10.0.0.{number}:7000", "1.0", 600.0)
        for number in range(MEMBERS)
    ]
    heirs = {shard: members[shard % MEMBERS] for shard in range(4096)}
    view = await registry.take_over(0, heirs, seen_dead=False)
    assert view is not None
    renew_cpu_ms, renew_wal = await _each(
        lambda: registry.renew(members[7], LEASE_TTL_S, "active", view.version), observer, 300
    )
    look_cpu_ms, _ = await _each(lambda: registry.view(0), observer, 100)
    began_s = time.perf_counter()
    before_wal = await _wal(observer)
    mine = [shard for shard, owner in heirs.items() if owner == members[3]]
    shares = {shard: members[4 + place] for place, shard in enumerate(mine)}
    await registry.hand_over(members[3], shares)
    moved_ms = 1000 * (time.perf_counter() - began_s)
    moved_wal = await _wal(observer) - before_wal
    await registry.close()
    return {
        "members": MEMBERS,
        "renew_cpu_ms": renew_cpu_ms,
        "renew_wal_bytes": renew_wal,
        "whole_view_cpu_ms": look_cpu_ms,
        "moved_shards": len(mine),
        "move_ms": round(moved_ms, 1),
        "move_wal_bytes": moved_wal,
    }


async def _each(call, observer: asyncpg.Connection, count: int) -> tuple[float, int]:
    await call()
    before_cpu_s, before_wal = _server_cpu_s(), await _wal(observer)
    for _ in range(count):
        await call()
    cpu_ms = 1000 * (_server_cpu_s() - before_cpu_s) / count
    return round(cpu_ms, 3), round((await _wal(observer) - before_wal) / count)


async def _wal(observer: asyncpg.Connection) -> int:
    return int(await observer.fetchval("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn"))


def _server_cpu_s() -> float:
    """CPU time of all PostgreSQL processes that this process' server has."""
    parents, ticks = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = stat.read_text().partition("(")[2].rpartition(")")
        except OSError:  # it ended
            continue
        fields = rest.split()
        if name.startswith("postgres"):
            pid = int(stat.parent.name)
            parents[pid], ticks[pid] = int(fields[1]), int(fields[11]) + int(fields[12])
    ours = _postmaster()
    return sum(count for pid, count in ticks.items() if ours in (pid, parents[pid])) / _TICKS_PER_S


def _postmaster() -> int:
    from perdure.testing import postgres

    directory = postgres._server_url().partition("host=")[2]
    from urllib.parse import unquote

    return int((Path(unquote(directory)) / "postmaster.pid").read_text().split()[0])
