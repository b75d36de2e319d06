"""FastAPI and Redis, made as durable as Perdure: every write is on disk before its answer."""

from pathlib import Path

from bench.peers.base import ROOT, Peer, package_versions, program, program_version, uvicorn_command
from bench.processes import Processes


class FastApiRedis(Peer):
    """uvicorn and redis-server, joined by a Unix socket, on the same core."""

    name = "fastapi+redis"
    title = "FastAPI + Redis"
    durability = "appendonly yes, appendfsync always"

    def versions(self) -> dict[str, str]:
        server = program_version(program("redis-server")).split("v=")[1].split()[0]
        packages = package_versions("fastapi", "uvicorn", "redis", "hiredis")
        return {"redis-server": server} | packages

    def start(self, processes: Processes, directory: Path, port: int) -> None:
        socket = directory / "redis.sock"
        command = [program("redis-server"), "--port", "0", "--unixsocket", socket]
        command += ["--dir", directory, "--save", "", "--daemonize", "no"]
        command += ["--appendonly", "yes", "--appendfsync", "always"]
        processes.start("redis", command)
        processes.wait_until(socket.exists, "redis-server")
        environment = {"BENCH_REDIS_SOCKET": str(socket)}
        command = uvicorn_command("redis_cart", port)
        processes.start("uvicorn", command, environment=environment, directory=ROOT)
        processes.wait_until(lambda: self.is_up(port), "uvicorn")
