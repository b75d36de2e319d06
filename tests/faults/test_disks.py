"""Disks that fail, fill up, are slow, or lose their power."""

import asyncio
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from tests.faults.lab import (
    Client,
    Died,
    Lost,
    Oracle,
    Server,
    check_after_restart,
    injected,
    load,
    needs_strace,
    note,
    run,
)

pytestmark = pytest.mark.faults

DISK_FAILED = 74


# -- fsync that fails --------------------------------------------------------------------------


async def _book_until_lost(oracle: Oracle, port: int, entries: int) -> None:
    with closing(Client(port)) as client:
        for count in range(entries):
            if await oracle.add(client, "k", f"e{count}", keyed=count % 2 == 0) != 200:
                break


@needs_strace
@pytest.mark.parametrize("number", [7, 10, 13])
def test_a_failed_sync_is_not_acknowledged_and_ends_the_process(
    tmp_path: Path, number: int
) -> None:
    """The store exists, so its start needs few syncs; the writer thread meets the fault."""
    oracle = Oracle()
    check_after_restart(oracle, tmp_path)
    wrapper = injected(f"error=EIO:when={number}", "fdatasync,fsync")
    with Server(tmp_path, wrapper=wrapper) as server:
        run(_book_until_lost(oracle, server.port, 30))
        assert oracle.count() == number - 1  # each commit is one sync of the writer's
        assert oracle.count_unknown() == 1
        assert server.wait() == DISK_FAILED
        assert "the disk failed under" in server.errors()
    check_after_restart(oracle, tmp_path)
    note(
        "EIO from fdatasync under a commit",
        f"at the writer's sync {number}",
        f"503, exit code 74, {number - 1} acknowledged and there after the restart",
    )


@needs_strace
def test_a_failed_sync_at_the_start_is_named_or_harmless(tmp_path: Path) -> None:
    refused = 0
    for number in range(1, 14):
        data, oracle = tmp_path / str(number), Oracle()
        server = Server(data, wrapper=injected(f"error=EIO:when={number}"))
        try:
            server.wait_ready()
            run(_book_until_lost(oracle, server.port, 3))
        except Died:
            refused += 1
            assert server.wait() == DISK_FAILED
            assert server.errors().startswith("perdure: ")
        finally:
            server.close()
        check_after_restart(oracle, data)
    assert refused >= 5
    note(
        "EIO from each sync of the first start",
        f"13 faults, {refused} of them fatal",
        "a named error and exit code 74; every start after it succeeded",
    )


# -- a full disk -------------------------------------------------------------------------------


@contextmanager
def mounted(where: Path, *options: str) -> Iterator[Path]:
    """A file system there, for as long as the block runs."""
    where.mkdir()
    done = subprocess.run(["mount", *options, str(where)], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"mounting is not possible here: {done.stderr.strip()}")
    try:
        yield where
    finally:
        subprocess.run(["umount", str(where)], check=True)


def test_a_full_disk_refuses_writes_goes_on_reading_and_recovers_by_itself(
    tmp_path: Path,
) -> None:
    oracle = Oracle()
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=2m", "tmpfs") as small:
        ballast = small / "ballast"
        ballast.write_bytes(b"x" * (900 << 10))
        with Server(small / "data") as server:
            run(_fill_the_disk(oracle, server, ballast))
        check_after_restart(oracle, small / "data")
    refused = oracle.statuses["503 store-full"]
    note(
        "A full disk (tmpfs of 2 MB), freed again",
        f"{refused} writes refused with 503 store-full",
        f"reads went on, writes resumed; {oracle.count()} acknowledged, none lost",
    )


async def _fill_the_disk(oracle: Oracle, server: Server, ballast: Path) -> None:
    padding = "x" * 20_000
    with closing(Client(server.port)) as client:

        async def add(entry: str) -> int:
            return await oracle.add(client, "k", entry, keyed=False, padding=padding)

        status, count = 200, 0
        while status == 200 and count < 500:
            count += 1
            status = await add(f"e{count}")
        assert status == 503
        assert oracle.statuses["503 store-full"] == 1
        for number in range(5):
            status, body = await client.call("k", "view")
            assert status == 200
            oracle.compare("k", *body)
            assert await add(f"more{number}") == 503
        ballast.unlink()
        for number in range(10):
            assert await add(f"after{number}") == 200
    await oracle.check(server.port)
    assert server.process.poll() is None


# -- a slow disk -------------------------------------------------------------------------------


@needs_strace
def test_a_slow_disk_keeps_every_bound(tmp_path: Path) -> None:
    """Each sync takes 0.2 s. What does not fit into the bounds is refused at once."""
    oracle = Oracle()
    check_after_restart(oracle, tmp_path)
    environment = {"LEDGER_UNCOMMITTED_MAX": "20"}
    wrapper = injected("delay_enter=200000")
    with Server(tmp_path, wrapper=wrapper, environment=environment) as server:
        slowest_s = run(_crowd(oracle, server.port, clients=120))
        run(oracle.check(server.port))
    assert oracle.statuses["503 overloaded"] >= 40
    assert oracle.count() >= 20
    assert slowest_s < 1.0
    check_after_restart(oracle, tmp_path)
    note(
        "A slow disk (0.2 s a sync), 120 clients, room for 20 uncommitted turns",
        f"{oracle.statuses['503 overloaded']} refused, the slowest after {slowest_s:.2f} s",
        f"{oracle.count()} acknowledged, none lost; refused ones have no effect",
    )


async def _crowd(oracle: Oracle, port: int, clients: int) -> float:
    """All at once, twice; returns the longest time that a refusal took."""
    slowest_s = 0.0

    async def book(number: int) -> None:
        nonlocal slowest_s
        with closing(Client(port)) as client:
            await client.call("warm", "view")
            for count in range(2):
                begin_s, key = time.monotonic(), f"k{number % 3}"
                status = await oracle.add(client, key, f"e{number}.{count}", keyed=False)
                if status == 503:
                    slowest_s = max(slowest_s, time.monotonic() - begin_s)

    await asyncio.gather(*[book(number) for number in range(clients)])
    return slowest_s


# -- power cuts --------------------------------------------------------------------------------


@contextmanager
def _disk(image: Path, where: Path) -> Iterator[Path]:
    with mounted(where, "-o", "loop", str(image)) as disk:
        yield disk


def _acknowledged_before_the_cut(tmp_path: Path, environment: dict[str, str]) -> Oracle:
    """Book entries on a disk of its own, kill the server, and copy the disk as it is: what was
    only in the page cache is not on it. Leaves the copy as `cut.img`."""
    oracle, image = Oracle(), tmp_path / "disk.img"
    with image.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    with _disk(image, tmp_path / "disk") as disk:
        with Server(disk / "data", environment=environment) as server:
            run(load(oracle, server.port, "p", entries_max=15))
            server.kill()
        shutil.copyfile(image, tmp_path / "cut.img")
    assert oracle.count() == 120
    return oracle


def test_a_power_cut_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    if os.geteuid() != 0 or shutil.which("mkfs.ext4") is None:
        pytest.skip("mounting a disk image needs root and mkfs.ext4")
    oracle = _acknowledged_before_the_cut(tmp_path, {})
    with _disk(tmp_path / "cut.img", tmp_path / "after") as disk:
        check_after_restart(oracle, disk / "data")
    note(
        "Power cut (copy of an ext4 image after SIGKILL)",
        "1 cut",
        f"{oracle.count()} acknowledged, all there",
    )


def test_the_power_cut_would_see_a_store_that_does_not_sync(tmp_path: Path) -> None:
    """The same cut with `synchronous=NORMAL`: unless that loses, the test above shows nothing."""
    if os.geteuid() != 0 or shutil.which("mkfs.ext4") is None:
        pytest.skip("mounting a disk image needs root and mkfs.ext4")
    patched = tmp_path / "patched"
    shutil.copytree(Path(__file__).parents[2] / "src" / "perdure", patched / "perdure")
    module = patched / "perdure" / "store" / "sqlite_file.py"
    text = module.read_text()
    assert "PRAGMA synchronous = FULL" in text
    module.write_text(text.replace("PRAGMA synchronous = FULL", "PRAGMA synchronous = NORMAL"))
    oracle = _acknowledged_before_the_cut(tmp_path, {"PYTHONPATH": str(patched)})
    with (
        _disk(tmp_path / "cut.img", tmp_path / "after") as disk,
        pytest.raises((AssertionError, Died, Lost)) as caught,
    ):
        check_after_restart(oracle, disk / "data")
    note(
        "The same power cut with synchronous=NORMAL",
        "1 cut",
        f"loses, as it should, so the test can see: {type(caught.value).__name__}",
    )
