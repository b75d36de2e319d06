"""Perdure itself: one process, SQLite on disk, as `perdure run` starts it by default."""

from pathlib import Path

from bench.peers.base import APPS, BIN, ROOT, Peer, package_versions, program
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


def run_command(directory: Path, port: int) -> list[str | Path]:
    """Return the command a user would type, with its data under `directory`."""
    return [
        program("perdure", BIN), "run", APPS / "perdure_cart.py",
        "--data", directory / "data", "--listen", f"127.0.0.1:{port}",
    ]  # fmt: skip


def _sqlite_version() -> str:
    import apsw  # only where Perdure is installed

    return apsw.sqlite_lib_version()
