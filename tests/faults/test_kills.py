"""SIGKILL at random moments, at every named point, and before every sync."""

import asyncio
import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from tests.faults.lab import (
    Client,
    Died,
    Oracle,
    Server,
    check_after_restart,
    injected,
    kill_under_load,
    load,
    needs_strace,
    note,
    run,
    seeded,
    unhurried,
)

from perdure.base.points import COMMIT_POINTS

pytestmark = [pytest.mark.faults, *unhurried]

KILLS = int(os.environ.get("PERDURE_KILLS", "30"))


def test_kills_at_random_moments_lose_nothing_and_count_nothing_twice(tmp_path: Path) -> None:
    data, oracle, random = tmp_path / "data", Oracle(), seeded()
    keys: set[str] = set()
    begin_s = time.monotonic()

    async def round_trip(server: Server, number: int, keys: set[str]) -> set[str]:
        await oracle.check(server.port, keys)
        return await kill_under_load(oracle, server, f"r{number}", random.uniform(0.005, 0.1))

    for number in range(KILLS):
        with Server(data) as server:
            keys = run(round_trip(server, number, keys))
            assert server.wait() == -9
    took_s = time.monotonic() - begin_s
    check_after_restart(oracle, data)
    assert oracle.count() >= KILLS * 10
    assert oracle.repeated >= KILLS / 2
    [(report,)] = sqlite3.connect(data / "perdure.db").execute("PRAGMA integrity_check").fetchall()
    assert report == "ok"
    note(
        "SIGKILL at random moments under load",
        f"{KILLS} kills, {took_s / KILLS:.2f} s each",
        f"{oracle.count()} acknowledged, none lost; {oracle.repeated} unanswered sent again under "
        f"their key, once each; {oracle.count_unknown()} unanswered without a key, once or never",
    )


@pytest.mark.parametrize("point", COMMIT_POINTS)
def test_a_kill_at_every_point_of_a_commit_is_survived(tmp_path: Path, point: str) -> None:
    oracle = Oracle()
    times = (1, 2, 7)
    for number in times:
        environment = {"PERDURE_FAULT": f"{point}:kill:{number}"}
        with Server(tmp_path, environment=environment) as server:
            run(load(oracle, server.port, f"n{number}"))
            assert server.wait() == -9, "the point was not reached"
    check_after_restart(oracle, tmp_path)
    assert oracle.count_unknown() + oracle.repeated > 0
    note(
        f"SIGKILL at the point `{point}`",
        f"{len(times)} kills",
        f"{oracle.count()} acknowledged, none lost, none counted twice",
    )


async def book_some(oracle: Oracle, port: int, name: str, entries: int) -> None:
    with closing(Client(port)) as client:
        for count in range(entries):
            await oracle.add(client, "k", f"{name}.{count}", keyed=count % 2 == 0)


def _killed_at(number: int, data: Path, oracle: Oracle) -> bool:
    """Kill the server before the sync of that number; returns whether it got so far."""
    server = Server(data, wrapper=injected(f"signal=SIGKILL:when={number}"))
    try:
        server.wait_ready()
        run(book_some(oracle, server.port, str(number), entries=12))
        return oracle.count() < 12
    except Died:
        return True
    finally:
        server.close()


@needs_strace
@pytest.mark.parametrize("store", ["a new store", "an old store"])
def test_a_kill_before_every_sync_is_survived(tmp_path: Path, store: str) -> None:
    """On a new one the first start is killed at each step; on an old one more of the commits."""
    kills = acknowledged = 0
    for number in range(1, 40):
        data, oracle = tmp_path / str(number), Oracle()
        if store == "an old store":
            check_after_restart(oracle, data)
        killed = _killed_at(number, data, oracle)
        check_after_restart(oracle, data)
        acknowledged += oracle.count()
        if not killed:
            break
        kills += 1
    assert not killed, "more syncs than expected"
    assert kills >= 12
    assert acknowledged > kills
    note(
        f"SIGKILL before each fsync and fdatasync of {store}",
        f"{kills} kills",
        f"{acknowledged} acknowledged, none lost; every start after it succeeded",
    )


def test_a_relaxed_method_loses_no_more_than_it_says(tmp_path: Path) -> None:
    """`add_soon` may lose 0.2 s; one second allows for a busy machine."""
    told: list[tuple[float, str]] = []

    async def book(server: Server) -> None:
        with closing(Client(server.port)) as client:
            begin_s = time.monotonic()
            while time.monotonic() - begin_s < 2.0:
                entry = f"e{len(told)}"
                status, _ = await client.call("k", "add_soon", entry=entry, amount=1)
                assert status == 200
                told.append((time.monotonic(), entry))
        server.kill()

    async def read(server: Server) -> tuple[dict[str, int], int]:
        with closing(Client(server.port)) as client:
            return (await client.call("k", "view"))[1]

    with Server(tmp_path) as server:
        run(book(server))
    killed_s = told[-1][0]
    with Server(tmp_path) as server:
        entries, total = run(read(server))
    owed = {entry for told_s, entry in told if told_s < killed_s - 1.0}
    assert len(owed) > 50
    assert owed <= entries.keys()
    assert total == len(entries) == sum(entries.values())
    lost = [told_s for told_s, entry in told if entry not in entries]
    lost_s = killed_s - min(lost, default=killed_s)
    note(
        "SIGKILL under a relaxed method with loss_max_s=0.2",
        "1 kill",
        f"{len(told)} answers, the last {lost_s:.2f} s of them lost, and whole turns only",
    )


def test_a_server_that_is_frozen_and_thawed_answers_once(tmp_path: Path) -> None:
    oracle = Oracle()
    environment = {"PERDURE_FAULT": "before_fsync:stop:3"}
    with Server(tmp_path, environment=environment) as server:

        async def freeze() -> None:
            booking = asyncio.create_task(load(oracle, server.port, "f", entries_max=20))
            while Path(f"/proc/{server.process.pid}/stat").read_text().split()[2] != "T":
                await asyncio.sleep(0.01)
            count = oracle.count()
            await asyncio.sleep(0.3)
            assert oracle.count() == count  # nobody was told anything meanwhile
            server.process.send_signal(18)
            await booking
            await oracle.check(server.port)

        run(freeze())
    assert oracle.count() == 160
    check_after_restart(oracle, tmp_path)
    note("SIGSTOP within a commit, then SIGCONT", "1 freeze", "160 acknowledged, once each")
