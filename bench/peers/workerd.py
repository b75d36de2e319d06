"""workerd, the engine of Cloudflare Workers, with Durable Objects in SQLite on the local disk."""

import shutil
from pathlib import Path

from bench.peers.base import APPS, NODE_MODULES, Peer, program, program_version
from bench.processes import Processes

CONFIGURATION = """
using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [
    (name = "main", worker = .cart),
    (name = "disk", disk = (path = "DISK", writable = true)),
  ],
  sockets = [(name = "http", address = "127.0.0.1:PORT", http = (), service = "main")],
);
const cart :Workerd.Worker = (
  modules = [(name = "worker", esModule = embed "workerd_cart.js")],
  compatibilityDate = "2026-01-01",
  durableObjectNamespaces = [(className = "Cart", uniqueKey = "cart", enableSql = true)],
  durableObjectStorage = (localDisk = "disk"),
  bindings = [(name = "CART", durableObjectNamespace = "Cart")],
);
"""


class Workerd(Peer):
    """One process; each cart is an object with a SQLite file of its own."""

    name = "workerd"
    title = "workerd Durable Objects"
    durability = "one SQLite WAL file for each object; the output gate waits for its commit"

    def versions(self) -> dict[str, str]:
        return {"workerd": program_version(_program()).removeprefix("workerd ")}

    def start(self, processes: Processes, directory: Path, port: int) -> None:
        disk = directory / "objects"
        disk.mkdir()
        shutil.copy(APPS / "workerd_cart.js", directory)
        configuration = directory / "workerd.capnp"
        text = CONFIGURATION.replace("PORT", str(port)).replace("DISK", str(disk))
        configuration.write_text(text)
        processes.start("workerd", [_program(), "serve", configuration], directory=directory)
        processes.wait_until(lambda: self.is_up(port), "workerd")


def _program() -> Path:
    return program("workerd", *sorted(NODE_MODULES.glob("@cloudflare/workerd-linux-*/bin")))
