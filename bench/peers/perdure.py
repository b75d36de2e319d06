"""Perdure itself: one process, SQLite on disk, as `perdure run` starts it by default."""

from pathlib import Path
from urllib.parse import quote

from bench.peers.base import APPS, BIN, ROOT, Peer, package_versions, program
from bench.peers.fastapi_postgresql import postgresql_version, start_postgresql
from bench.processes import MissingPeerError, Processes


class Perdure(Peer):
    """A plain class; the web server, the actors and the store share one process."""

    name = "perdure"
    title = "Perdure"
    durability = "SQLite WAL, synchronous=FULL; the answer leaves after the group commit's fsync"

    def versions(self) -> dict[str, str]:
        if not (BIN / "perdure").exists():
            raise MissingPeerError("the command `perdure` is not installed yet")
        found = package_versions("perdure", "apsw", "httptools", "msgspec", "uvloop")
        return found | {"SQLite": _sqlite_version()}

    def start(self, processes: Processes, directory: Path, port: int) -> None:
        processes.start("perdure", run_command(directory, port), directory=ROOT)
        processes.wait_until(lambda: self.is_up(port), "perdure run")


class PerdureApart(Perdure):
    """The same with its web server in a process of its own, on the same core."""

    name = "perdure apart"
    title = "Perdure, web and state apart"

    def start(self, processes: Processes, directory: Path, port: int) -> None:
        command = [*run_command(directory, port), "--web", "1"]
        processes.start("perdure", command, directory=ROOT)
        processes.wait_until(lambda: self.is_up(port), "perdure run --web 1")


class PerdurePostgresql(Perdure):
    """One process, and a PostgreSQL of its own on the same core, joined by a Unix socket."""

    name = "perdure+postgresql"
    title = "Perdure + PostgreSQL"
    durability = "fsync on, synchronous_commit on; the answer leaves after the group commit"

    def versions(self) -> dict[str, str]:
        return package_versions("perdure", "asyncpg") | postgresql_version()

    def start(self, processes: Processes, directory: Path, port: int) -> None:
        data = start_postgresql(processes, directory)
        command = [
            program("perdure", BIN), "run", APPS / "perdure_cart.py",
            "--store", f"postgresql://postgres@/postgres?host={quote(str(data))}",
            "--listen", f"127.0.0.1:{port}",
        ]  # fmt: skip
        processes.start("perdure", command, directory=ROOT)
        processes.wait_until(lambda: self.is_up(port), "perdure run --store postgresql://…")


def run_command(directory: Path, port: int) -> list[str | Path]:
    """Return the command a user would type, with its data under `directory`."""
    return [
        program("perdure", BIN), "run", APPS / "perdure_cart.py",
        "--data", directory / "data", "--listen", f"127.0.0.1:{port}",
    ]  # fmt: skip


def _sqlite_version() -> str:
    import apsw  # only where Perdure is installed

    return apsw.sqlite_lib_version()
