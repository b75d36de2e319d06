"""Servers behind a balancer that die, leave, freeze and come back, under 2,000 requests a second;
and the balancer itself. PERDURE_BALANCE_S says how long the random faults last."""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import uvloop
from tests.faults.balance_lab import Backend, Balancer, Site, until
from tests.faults.balance_load import REPEATABLE, WORKERS, Load, Outcome, Record
from tests.faults.database import Database
from tests.faults.lab import note, seeded, unhurried

pytestmark = pytest.mark.faults

FAULTS_S = float(os.environ.get("PERDURE_BALANCE_S", "8"))
DYING_S = 0.25  # a killed process still takes connections for a moment
STREAMS = ("events", "websocket")


def on_site(
    directory: Path, body: Callable[[Site, Load], Awaitable[None]], *options: str, **more: object
) -> Record:
    """Runs the body while there is load; returns what became of the requests."""

    async def main() -> Record:
        async with Site(directory, *options, **more) as site:  # type: ignore[arg-type]
            load = Load(site.balancer.port)
            load.start()
            await grown(load.record, 1_000)
            await body(site, load)
            await grown(load.record, 1_000)
            await load.stop()
            load.record.retries = int(await site.balancer.metric("retries_total"))
            return load.record

    record = uvloop.run(main())
    assert all(record.counts()[kind] for kind in (*REPEATABLE, "plain", *STREAMS))
    return record


async def grown(record: Record, more: int) -> None:
    """Wait until so many more requests have ended."""
    wanted = len(record.outcomes) + more
    await until(lambda: len(record.outcomes) >= wanted, f"{more} answers")


def under_way(outcome: Outcome, moments_s: list[float]) -> bool:
    """Whether one of these moments fell into it."""
    return any(outcome.begun_s - DYING_S <= at_s <= outcome.ended_s for at_s in moments_s)


def told(scenario: str, injected: str, record: Record) -> None:
    """Note it for docs/reliability.md."""
    counts = record.counts()
    cut = [one for one in record.failed() if one.had_begun or one.kind in STREAMS]
    whole = [one for one in record.failed() if one not in cut]
    repeatable = [one for one in whole if one.kind in REPEATABLE]
    note(
        f"Balancer: {scenario}",
        injected,
        f"{counts.total():,} requests and streams, {record.retries} sent again; failed: "
        f"{len(repeatable)} that may be repeated, {len(whole) - len(repeatable)} other POSTs, "
        f"{len(cut)} streams and answers broken off",
    )


def assert_only_victims_failed(record: Record, kills_s: list[float]) -> None:
    """Only what was under way at a kill, and may not be repeated or was being answered."""
    repeatable = [one for one in record.failed(REPEATABLE) if not one.had_begun]
    assert not repeatable, repeatable[:5]
    others = [one for one in record.failed() if not under_way(one, kills_s)]
    assert not others, others[:5]


def test_a_kill_costs_nothing_that_may_be_repeated(tmp_path: Path) -> None:
    kills_s: list[float] = []

    async def body(site: Site, load: Load) -> None:
        kills_s.append(time.monotonic())
        site.backends[0].signal(signal.SIGKILL)
        await site.balancer.sees(site.backends[0], "down")

    record = on_site(tmp_path, body)
    told("SIGKILL of one of three servers", "1 kill under 2,000 requests/s", record)
    assert_only_victims_failed(record, kills_s)


def test_a_drain_costs_nothing_at_all(tmp_path: Path) -> None:
    async def body(site: Site, load: Load) -> None:
        site.backends[0].signal(signal.SIGTERM)
        await site.backends[0].ended()

    record = on_site(tmp_path, body)
    told("SIGTERM to one of three servers", "1 drain under 2,000 requests/s", record)
    assert not record.failed(), record.failed()[:5]


def test_a_rolling_restart_costs_nothing_at_all(tmp_path: Path) -> None:
    async def body(site: Site, load: Load) -> None:
        for backend in site.backends:
            await backend.replace(site.balancer)

    record = on_site(tmp_path, body)
    told("rolling restart of all three servers", "3 restarts under 2,000 requests/s", record)
    assert not record.failed(), record.failed()[:5]


@pytest.mark.timeout(FAULTS_S + 120)
def test_kills_and_drains_at_random_cost_no_more(tmp_path: Path) -> None:
    draw, kills_s, drains = seeded(), [], 0

    async def body(site: Site, load: Load) -> None:
        nonlocal drains
        end_s = time.monotonic() + FAULTS_S
        while time.monotonic() < end_s:
            victim = draw.choice(site.backends)
            if draw.random() < 0.5:
                kills_s.append(time.monotonic())
                victim.signal(signal.SIGKILL)
                await victim.ended()
                await asyncio.sleep(draw.random())  # it takes a while to be started again
                victim.start()
                await victim.ready()
                await site.balancer.sees(victim, "up")
            else:
                drains += 1
                await victim.replace(site.balancer)
            await grown(load.record, draw.randrange(1_000))

    record = on_site(tmp_path, body)
    told(
        "kills and drains at random",
        f"{len(kills_s)} kills, {drains} drains in {FAULTS_S:.0f} s",
        record,
    )
    assert_only_victims_failed(record, kills_s)


def test_a_frozen_server_keeps_what_may_be_repeated_for_seconds_only(tmp_path: Path) -> None:
    async def body(site: Site, load: Load) -> None:
        frozen = site.backends[0]
        frozen.signal(signal.SIGSTOP)
        await site.balancer.sees(frozen, "down")
        await grown(load.record, 1_000)
        frozen.signal(signal.SIGCONT)
        await site.balancer.sees(frozen, "up")

    record = on_site(tmp_path, body)
    told("a server frozen for some seconds", "1 SIGSTOP, 1 SIGCONT", record)
    assert not record.failed(), record.failed()[:5]  # the others waited until it went on
    assert record.slowest_s() < 10.0
    assert record.retries > 0


def test_the_balancer_is_replaced_without_a_failed_request(tmp_path: Path) -> None:
    async def body(site: Site, load: Load) -> None:
        for _ in range(2):
            gone = {0, site.balancer.child()}
            site.balancer.signal(signal.SIGHUP)
            await until(lambda gone=gone: site.balancer.child() not in gone, "a successor alone")

    record = on_site(tmp_path, body)
    told("SIGHUP to the balancer", "2 replacements under 2,000 requests/s", record)
    assert not record.failed(), record.failed()[:5]


def test_a_balancer_that_is_killed_breaks_only_its_open_connections(tmp_path: Path) -> None:
    kills_s: list[float] = []

    async def body(site: Site, load: Load) -> None:
        before = site.balancer.child()
        kills_s.append(time.monotonic())
        os.kill(before, signal.SIGKILL)
        await until(lambda: site.balancer.child() not in (before, 0), "another one")

    record = on_site(tmp_path, body)
    told("SIGKILL of the balancer below its supervisor", "1 kill", record)
    others = [one for one in record.failed() if not under_way(one, kills_s)]
    assert not others, others[:5]


def test_two_balancers_agree_and_one_does_not_miss_the_other(tmp_path: Path) -> None:
    options = ("--policy", "hash", "--hash", "path:2", "--no-supervisor")

    async def main() -> None:
        async with Site(tmp_path, *options) as site:
            other = await site.add_balancer()
            places = [await asyncio.to_thread(_places, one) for one in (site.balancer, other)]
            assert places[0] == places[1]
            assert set(places[0]) == {one.port for one in site.backends}
            mine = Load(site.balancer.port, per_second=600)
            theirs = Load(other.port, per_second=600)
            for load in (mine, theirs):
                load.start()
            await grown(theirs.record, 500)
            killed_s = time.monotonic()
            other.signal(signal.SIGKILL)
            await grown(mine.record, 500)
            theirs.ports[:] = [site.balancer.port]  # as DNS, or an address that moves, would do
            for caller in theirs.callers:
                caller.close()
            moved_s = time.monotonic()
            await grown(theirs.record, 500)
            for load in (mine, theirs):
                await load.stop()
            assert not mine.record.failed(), mine.record.failed()[:5]
            late = [one for one in theirs.record.failed() if one.begun_s > moved_s]
            early = [one for one in theirs.record.failed() if one.ended_s < killed_s]
            assert not late, late[:5]
            assert not early, early[:5]

    uvloop.run(main())


def _places(balancer: Balancer) -> list[int]:
    """Which server answers, for some keys."""
    return [balancer.served_by(f"/echo/{key}") for key in range(40)]


def test_servers_named_in_a_file_change_under_load(tmp_path: Path) -> None:
    listed = tmp_path / "backends"
    connections: list[float] = []

    def write(*backends: Backend) -> None:
        new = tmp_path / "backends.new"
        new.write_text("".join(f"{backend.address}\n" for backend in backends))
        new.replace(listed)

    async def main() -> Record:
        site = Site(tmp_path, "--file", str(listed), names_all=False)
        write(*site.backends[:2])
        async with site:
            load = Load(site.balancer.port, streams=0)
            load.start()
            await grown(load.record, 500)
            connections.append(await site.balancer.metric("connections_total"))
            write(*site.backends[1:])
            await site.balancer.sees(site.backends[2], "up")
            await grown(load.record, 500)
            site.backends[0].signal(signal.SIGKILL)  # nobody needs it any more
            await grown(load.record, 500)
            connections.append(await site.balancer.metric("connections_total"))
            return await load.stop()

    record = uvloop.run(main())
    assert not record.failed(), record.failed()[:5]
    assert connections[0] == connections[1] >= WORKERS  # no client had to connect anew


def test_servers_announced_in_the_store_come_and_go_under_load(
    tmp_path: Path, database: Database
) -> None:
    async def main() -> Record:
        site = Site(tmp_path, "--store", database.url, store=database.url, names_all=False)
        async with site:
            for backend in site.backends:
                await site.balancer.sees(backend, "up")
            load = Load(site.balancer.port)
            load.start()
            await grown(load.record, 500)
            new = await site.add_backend()
            await site.balancer.sees(new, "up")
            for backend in site.backends[:2]:
                backend.signal(signal.SIGTERM)
                await backend.ended()
            await grown(load.record, 500)
            return await load.stop()

    record = uvloop.run(main())
    assert not record.failed(), record.failed()[:5]


if unhurried:
    pytestmark = [pytestmark, *unhurried]
