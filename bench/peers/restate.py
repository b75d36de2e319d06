"""Restate: a virtual object in Python, called through the ingress of a local server."""

from pathlib import Path

from bench.client import Client
from bench.peers.base import (
    BIN,
    NODE_MODULES,
    ROOT,
    Peer,
    package_versions,
    program,
    program_version,
)  # fmt: skip
from bench.processes import MissingPeerError, Processes, free_port

CONFIGURATION = """
node-name = "bench"
base-dir = "BASE"
disable-telemetry = true
bind-ip = "127.0.0.1"
bind-port = NODE_PORT
advertised-host = "127.0.0.1"
listen-mode = "tcp"
log-filter = "error"

[ingress]
bind-ip = "127.0.0.1"
bind-port = INGRESS_PORT

[admin]
bind-ip = "127.0.0.1"
bind-port = ADMIN_PORT
"""


class Restate(Peer):
    """restate-server and the Python handlers, joined by HTTP/2, on the same core."""

    name = "restate"
    title = "Restate virtual object"
    durability = "the log's RocksDB WAL with fsync (Restate's default)"
    add_path = "/Cart/{key}/add"
    view_path = "/Cart/{key}/view"

    def versions(self) -> dict[str, str]:
        server = program_version(_program()).removeprefix("restate-server ")
        return {"restate-server": server} | package_versions("restate-sdk", "granian")

    def start(self, processes: Processes, directory: Path, port: int) -> None:
        handlers_port, admin_port = free_port(), free_port()
        _start_handlers(processes, handlers_port)
        configuration = directory / "restate.toml"
        configuration.write_text(
            CONFIGURATION.replace("BASE", str(directory / "base"))
            .replace("NODE_PORT", str(free_port()))
            .replace("INGRESS_PORT", str(port))
            .replace("ADMIN_PORT", str(admin_port))
        )
        command = [_program(), "--config-file", configuration, "--no-logo"]
        processes.start("restate", command, directory=directory)
        processes.wait_until(lambda: _register(admin_port, handlers_port), "restate-server")
        processes.wait_until(lambda: self.is_up(port), "the virtual object")


def _start_handlers(processes: Processes, port: int) -> None:
    # Granian, because with it Restate answers twice as many calls as with Hypercorn.
    command = [
        BIN / "python", "-m", "granian", "bench.apps.restate_cart:app",
        "--interface", "asgi", "--http", "2", "--workers", "1", "--workers-kill-timeout", "3",
        "--log-level", "warning",
        "--host", "127.0.0.1", "--port", str(port),
    ]  # fmt: skip
    processes.start("handlers", command, directory=ROOT)


def _register(admin_port: int, handlers_port: int) -> bool:
    """Tell the server where the handlers are; false while one of them is not up."""
    with Client(admin_port) as client:
        arguments = {"uri": f"http://127.0.0.1:{handlers_port}", "force": True}
        status, body = client.post("/deployments", arguments)
    if 400 <= status < 500:
        raise MissingPeerError(f"registration was refused: {status} {body[:200]!r}")
    return status in (200, 201)


def _program() -> Path:
    return program(
        "restate-server", *sorted(NODE_MODULES.glob("@restatedev/restate-server-linux-*/bin"))
    )
