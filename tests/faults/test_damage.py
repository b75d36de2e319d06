"""Files that were cut, zeroed, overwritten or swapped: an error with a name, or the whole truth."""

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path
from random import Random

import apsw
import pytest
from tests.faults.lab import Client, Died, Oracle, Server, load, note, run, seeded

from perdure.store.sqlite_file import PAGE_BYTES as PAGE

pytestmark = pytest.mark.faults

DATA_DAMAGED = 65
FILES = int(os.environ.get("PERDURE_DAMAGES", "6"))


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Oracle]:
    """The files of a killed server, with much in the database and much in the WAL."""
    data, oracle = tmp_path_factory.mktemp("damage") / "data", Oracle()
    for name in ("a", "b"):  # what `a` booked is folded into the database when `b` starts
        with Server(data) as server:
            run(load(oracle, server.port, name, entries_max=12))
            server.kill()
    assert oracle.count() == 192
    return data, oracle


def _zero(content: bytes, at: int, random: Random) -> bytes:
    size = random.choice([1, 64, PAGE])
    return content[:at] + b"\0" * min(size, len(content) - at) + content[at + size :]


def _garbage(content: bytes, at: int, random: Random) -> bytes:
    size = min(random.choice([1, 64, PAGE]), len(content) - at)
    first = bytes([content[at] ^ random.randrange(1, 256)])  # a byte that differs in any case
    return content[:at] + first + random.randbytes(size - 1) + content[at + size :]


def _flip(content: bytes, at: int, random: Random) -> bytes:
    flipped = content[at] ^ (1 << random.randrange(8))
    return content[:at] + bytes([flipped]) + content[at + 1 :]


def _cut(content: bytes, at: int, _random: Random) -> bytes:
    return content[:at]


def _verdict(data: Path, oracle: Oracle, *, prefix_is_fine: bool) -> str:
    """What became of a damaged store; AssertionError when it told something false."""
    server = Server(data)
    try:
        server.wait_ready()
        return run(_read_all(server.port, oracle, prefix_is_fine=prefix_is_fine))
    except Died:
        assert server.wait() == DATA_DAMAGED, server.errors()
        assert server.errors().startswith("perdure: ")
        return "refused to start"
    finally:
        server.close()


async def _read_all(port: int, oracle: Oracle, *, prefix_is_fine: bool) -> str:
    verdict = "all there"
    with closing(Client(port)) as client:
        for key in sorted(oracle.acknowledged):
            status, body = await client.call(key, "view")
            if status != 200:
                assert body["type"] == "urn:perdure:problem:store-corrupt", body
                verdict = "a row refused"
                continue
            entries, total = body
            known = oracle.acknowledged[key] | oracle.unknown.get(key, {}).keys()
            assert total == len(entries), "half a turn"
            assert entries.keys() <= known, "entries that were never sent"
            if oracle.acknowledged[key] <= entries.keys():
                continue
            assert prefix_is_fine, f"acknowledged entries of {key} are gone, without an error"
            verdict = "an earlier state"
    return verdict


@pytest.mark.parametrize(
    "damage", [_zero, _garbage, _flip, _cut], ids=["zeroed", "overwritten", "flipped", "cut"]
)
def test_a_damaged_database_never_tells_a_lie(
    tmp_path: Path, crashed: tuple[Path, Oracle], damage: object
) -> None:
    source, oracle = crashed
    random, verdicts = seeded(), Counter[str]()
    with Server(shutil.copytree(source, tmp_path / "folded")) as server:  # the WAL is folded in
        server.kill()
    folded = (tmp_path / "folded" / "perdure.db").read_bytes()
    for number in range(FILES):
        data = tmp_path / str(number)
        shutil.copytree(tmp_path / "folded", data)
        content = folded
        # the first is hit in the newest state of an actor; the others anywhere, which may be a page
        # that nothing uses
        places = _newest_state(data, folded) if number == 0 else [random.randrange(len(folded))]
        for at in reversed(places):
            content = damage(content, at, random)  # type: ignore[operator]
        (data / "perdure.db").write_bytes(content)
        # the start itself writes the header's page to the WAL, which may mend it
        verdicts[_verdict(data, oracle, prefix_is_fine=False)] += 1
    assert verdicts["all there"] < FILES
    name = damage.__name__.strip("_")  # type: ignore[attr-defined]
    note(f"Damage to the database: {name}", f"{FILES} files", _told(verdicts))


def _newest_state(data: Path, content: bytes) -> list[int]:
    """Where the file has the end of one actor's state, which no older version shares: in its row,
    and perhaps in space that the row has left behind."""
    with closing(apsw.Connection(str(data / "perdure.db"))) as database:
        [(state,)] = database.execute("SELECT state FROM ledger LIMIT 1").fetchall()
    places = [match.start() for match in re.finditer(re.escape(state[-30:].encode()), content)]
    assert places
    return places


@pytest.mark.parametrize(
    "damage", [_zero, _garbage, _flip, _cut], ids=["zeroed", "overwritten", "flipped", "cut"]
)
def test_a_damaged_wal_is_named_or_gives_an_earlier_state(
    tmp_path: Path, crashed: tuple[Path, Oracle], damage: object
) -> None:
    """In the last transaction damage looks like a crash, and a cut always does. So it does in the
    one before, if what is hit is the mark that ends it."""
    source, oracle = crashed
    random, verdicts = seeded(), Counter[str]()
    wal = (source / "perdure.db-wal").read_bytes()
    last = _begin_of_last_two(wal)
    for number in range(FILES):
        data = tmp_path / str(number)
        shutil.copytree(source, data)
        (data / "perdure.db-shm").unlink(missing_ok=True)
        at = random.randrange(len(wal))
        (data / "perdure.db-wal").write_bytes(damage(wal, at, random))  # type: ignore[operator]
        fine = damage is _cut or at + PAGE > last
        verdicts[_verdict(data, oracle, prefix_is_fine=fine)] += 1
    name = damage.__name__.strip("_")  # type: ignore[attr-defined]
    note(f"Damage to the WAL: {name}", f"{FILES} files", _told(verdicts))
    assert sum(verdicts.values()) == FILES


def _begin_of_last_two(wal: bytes) -> int:
    """Where the last two transactions begin; a frame that ends one names the database's size."""
    frames = range(32, len(wal), PAGE + 24)
    ends = [at for at in frames if wal[at + 4 : at + 8] != b"\0\0\0\0"]
    assert len(ends) > 10
    return ends[-3] + PAGE + 24


def _told(verdicts: "Counter[str]") -> str:
    return ", ".join(f"{verdict}: {count}" for verdict, count in sorted(verdicts.items()))


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("PRAGMA user_version = 99", "upgrade Perdure"),
        ("PRAGMA application_id = 7", "not a Perdure store"),
    ],
)
def test_a_foreign_or_newer_store_is_refused_by_name(
    tmp_path: Path, crashed: tuple[Path, Oracle], statement: str, told: str
) -> None:
    data = tmp_path / "data"
    shutil.copytree(crashed[0], data)
    change = f"import sqlite3; sqlite3.connect({str(data / 'perdure.db')!r}).execute({statement!r})"
    subprocess.run([sys.executable, "-c", change], check=True)
    with closing(Server(data)) as server:
        with pytest.raises(Died):
            server.wait_ready()
        assert server.wait() == DATA_DAMAGED
        assert told in server.errors()


def test_a_second_server_on_the_same_directory_is_refused(tmp_path: Path) -> None:
    with Server(tmp_path) as first, closing(Server(tmp_path)) as second:
        with pytest.raises(Died):
            second.wait_ready()
        assert second.wait() == 75
        assert f"in use by process {first.process.pid}" in second.errors()
