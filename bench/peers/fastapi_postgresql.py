"""FastAPI, asyncpg and PostgreSQL with its default durability, which is full."""

import os
import signal
import subprocess
from pathlib import Path

from bench.peers.base import ROOT, Peer, package_versions, program, program_version, uvicorn_command
from bench.processes import MissingPeerError, Processes


class FastApiPostgresql(Peer):
    """uvicorn and a PostgreSQL of its own, joined by a Unix socket, on the same core."""

    name = "fastapi+postgresql"
    title = "FastAPI + PostgreSQL"
    durability = "fsync on, synchronous_commit on"

    def versions(self) -> dict[str, str]:
        return postgresql_version() | package_versions("fastapi", "uvicorn", "asyncpg")

    def start(self, processes: Processes, directory: Path, port: int) -> None:
        environment = {"BENCH_POSTGRESQL_SOCKET": str(start_postgresql(processes, directory))}
        command = uvicorn_command("postgresql_cart", port)
        processes.start("uvicorn", command, environment=environment, directory=ROOT)
        processes.wait_until(lambda: self.is_up(port), "uvicorn")


def postgresql_version() -> dict[str, str]:
    """Return the version of the server that is measured."""
    return {"postgresql": program_version(_server_program("postgres")).split()[2]}


def start_postgresql(processes: Processes, directory: Path) -> Path:
    """Start a server with its default durability; return the directory of its socket."""
    # PostgreSQL refuses to run as root; Debian's package made the user for us.
    user = "postgres" if os.geteuid() == 0 else None
    data = _create_cluster(directory, user)
    command = [_server_program("postgres"), "-D", data, "-k", data, "-h", ""]
    command += ["-c", "fsync=on", "-c", "synchronous_commit=on"]
    processes.start("postgresql", command, user=user, stop_signal=signal.SIGINT)
    asking = [_server_program("pg_isready"), "-q", "-h", data]
    processes.wait_until(lambda: subprocess.run(asking, check=False).returncode == 0, "postgres")
    return data


def _create_cluster(directory: Path, user: str | None) -> Path:
    data = directory / "pg"
    data.mkdir()
    command = ["initdb", "-D", data, "-U", "postgres", "--auth", "trust", "--no-sync"]
    command[0] = _server_program("initdb")
    if user:
        subprocess.run(["chown", user, data], check=True)
        command = ["runuser", "-u", user, "--", *command]
    said = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=60, check=False,
        cwd=directory,
    )  # fmt: skip
    if said.returncode != 0:
        raise MissingPeerError(f"initdb failed: {said.stderr.strip()[-300:]}")
    return data


def _server_program(name: str) -> Path:
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return program(name, *places)
