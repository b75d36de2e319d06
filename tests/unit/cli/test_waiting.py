"""A start while the database is away: who waits, for what, and what is said meanwhile."""

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from perdure.base.errors import StoreError
from perdure.cli import run, supervisor
from perdure.cli.failures import NO_INPUT, Failure
from perdure.cli.options import ServeOptions
from perdure.cli.run import RunOptions, run_app
from perdure.cli.waiting import reach_database
from perdure.testing import async_test
from perdure.testing.postgres import fresh_database


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Refusing:
    """Answers each session with the next of these errors, the last one for ever."""

    def __init__(self, *errors: tuple[str, str]) -> None:
        self.errors = list(errors)
        self.sessions = 0

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = int.from_bytes(await reader.readexactly(4), "big")
        if size == 8:  # a request for TLS
            await reader.readexactly(4)
            writer.write(b"N")
            size = int.from_bytes(await reader.read(4), "big")
        if size:
            await reader.readexactly(size - 4)
            code, text = self.errors[min(self.sessions, len(self.errors) - 1)]
            self.sessions += 1
            fields = f"SFATAL\0VFATAL\0C{code}\0M{text}\0\0".encode()
            writer.write(b"E" + (len(fields) + 4).to_bytes(4, "big") + fields)


@asynccontextmanager
async def listening(take: Callable[..., Coroutine[Any, Any, None]], port: int = 0) -> Any:
    """A server for the time of the block, and for the sessions that were begun."""
    sessions: list[asyncio.Task[None]] = []

    async def session(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, EOFError):
            await take(reader, writer)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    def begin(*both: Any) -> None:
        sessions.append(asyncio.create_task(session(*both)))

    server = await asyncio.start_server(begin, "127.0.0.1", port)
    async with server:
        yield f"postgresql://me@127.0.0.1:{server.sockets[0].getsockname()[1]}/shop"
    await asyncio.gather(*sessions)


async def pass_on(path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Be the server at this socket, for one session."""
    there, back = await asyncio.open_unix_connection(path)

    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while some := await source.read(65_536):
            target.write(some)
        target.close()

    await asyncio.gather(copy(reader, back), copy(there, writer), return_exceptions=True)
    with suppress(OSError):
        await back.wait_closed()


@async_test
async def test_a_database_that_comes_up_late_is_waited_for_and_that_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "perdure.server")
    there = urlsplit(fresh_database())
    [folder] = parse_qs(there.query)["host"]
    [path] = [str(one) for one in Path(folder).glob(".s.PGSQL.*") if one.is_socket()]
    port = free_port()
    user = there.username or parse_qs(there.query)["user"][0]
    url = f"postgresql://{user}:secret@127.0.0.1:{port}{there.path}"
    waiting = asyncio.create_task(reach_database([url], waits=True))
    await asyncio.sleep(0)
    while len(caplog.records) < 1:
        await asyncio.sleep(0.005)
    async with listening(partial(pass_on, path), port):
        await waiting
    first, last = caplog.records
    assert first.getMessage() == "waiting for the database"
    assert vars(first)["error"] == (
        f"PostgreSQL at 127.0.0.1:{port}{there.path} cannot be reached: connection refused"
    )
    assert last.getMessage() == "the database is there"


@async_test
async def test_who_shall_not_wait_ends_at_once_and_gets_a_hint() -> None:
    with pytest.raises(Failure, match="cannot be reached: connection refused") as caught:
        await reach_database([f"postgresql://me@127.0.0.1:{free_port()}/shop"], waits=False)
    assert caught.value.exit_code == NO_INPUT
    assert "postgresql:embedded" in str(caught.value.hint)


FINAL = [
    ("28P01", 'password authentication failed for user "me"'),
    ("28000", "no pg_hba.conf entry for host"),
    ("3D000", 'database "shop" does not exist'),
    ("08P01", "no such database: shop"),  # as PgBouncer says it
]
PASSING = [
    ("57P03", "the database system is starting up"),
    ("53300", "sorry, too many clients already"),
    ("08P01", "server login has been failing, try again later (server_login_retry)"),
]


@pytest.mark.parametrize("error", FINAL)
@async_test
async def test_what_waiting_cannot_cure_ends_with_one_line(error: tuple[str, str]) -> None:
    async with listening(Refusing(error).take) as url:
        with pytest.raises(StoreError) as caught:
            await reach_database([url], waits=True)
    assert error[1] in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", PASSING)
@async_test
async def test_what_passes_is_waited_for(error: tuple[str, str]) -> None:
    refusing = Refusing(error, FINAL[0])
    async with listening(refusing.take) as url:
        with pytest.raises(StoreError, match="password"):
            await reach_database([url], waits=True)
    assert refusing.sessions >= 2


@async_test
async def test_a_server_without_the_tls_that_was_asked_for_is_not_waited_for() -> None:
    async with listening(Refusing(FINAL[0]).take) as url:
        with pytest.raises(StoreError, match="rejected SSL"):
            await reach_database([f"{url}?sslmode=require"], waits=True)


@pytest.mark.parametrize("url", ["memory:", "sqlite:data", "postgresql:embedded"])
@async_test
async def test_stores_without_a_database_of_others_are_there(url: str) -> None:
    assert await reach_database([url], waits=False) is None


@pytest.mark.parametrize(
    ("web", "terminal", "waits"),
    [(None, True, False), (None, False, True), (2, True, True), (2, False, True)],
)
def test_only_one_process_that_a_person_started_does_not_wait(
    monkeypatch: pytest.MonkeyPatch, web: int | None, *, terminal: bool, waits: bool
) -> None:
    asked: list[ServeOptions] = []

    class Supervisor:
        def __init__(self, options: ServeOptions, bound: socket.socket, *_: Any) -> None:
            bound.close()
            asked.append(options)

        def run(self) -> int:
            return 0

    monkeypatch.setattr(run, "has_terminal", lambda: terminal)
    monkeypatch.setattr(supervisor, "Supervisor", Supervisor)
    options = ServeOptions(target="app.py", stores=("postgresql://db/shop",))
    assert run_app(options, RunOptions(listen="127.0.0.1:0", web=web)) == 0
    assert [one.waits for one in asked] == [waits]
