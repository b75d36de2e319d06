"""Starts the other servers with their own defaults, each with the same application."""

import contextlib
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
APP = "tests.hostile.app:app"

# nginx passes what it accepts on to itself: so it reads every body to its end, as the others do.
NGINX = """
daemon off; worker_processes 1; pid nginx.pid; error_log stderr crit;
events { worker_connections 512; }
http {
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    server { listen 127.0.0.1:PORT; location / { proxy_pass http://unix:DIR/up.sock; } }
    server {
        listen unix:DIR/up.sock;
        location = /204 { return 204; }
        location = /304 { return 304; }
        location / { return 200 "ok"; }
    }
}
"""
PERDURE = """
import asyncio, socket, uvloop
from perdure.web.server import Server
from tests.hostile.app import app

class Nothing:
    def match(self, method, path): return None
    def handle(self, route, exchange): raise AssertionError
    def subscriber(self, route): return None

async def main():
    await Server(Nothing(), app).start([socket.create_server(("127.0.0.1", PORT))])
    await asyncio.Event().wait()

uvloop.run(main())
"""


def commands(python: Path, port: int, directory: Path) -> dict[str, list[str]]:
    """How each server is started; `python` is the one that has the peers."""
    here = [str(python), "-m"]
    uvicorn = [*here, "uvicorn", APP, "--port", str(port), "--log-level", "critical"]
    configuration = NGINX.replace("PORT", str(port)).replace("DIR", str(directory))
    (directory / "nginx.conf").write_text(configuration)
    return {
        "Perdure": [sys.executable, "-c", PERDURE.replace("PORT", str(port))],
        "uvicorn (httptools)": [*uvicorn, "--http", "httptools"],
        "uvicorn (h11)": [*uvicorn, "--http", "h11"],
        "Granian": [*here, "granian", "--interface", "asgi", "--port", str(port), "--no-log", APP],
        "Hypercorn": [*here, "hypercorn", "--bind", f"127.0.0.1:{port}", APP],
        "nginx": ["nginx", "-p", f"{directory}/", "-c", str(directory / "nginx.conf")],
    }


def versions(python: Path) -> dict[str, str]:
    """The version of each peer."""
    code = (
        "from importlib.metadata import version as v;"
        "print(*[v(n) for n in ('uvicorn', 'granian', 'hypercorn')])"
    )
    said = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout
    uvicorn, granian, hypercorn = said.split()
    nginx = subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=True).stderr
    return {
        "uvicorn": uvicorn,
        "Granian": granian,
        "Hypercorn": hypercorn,
        "nginx": nginx.strip().rpartition("/")[2],
    }


@contextlib.contextmanager
def served_by(name: str, python: Path) -> Iterator[int]:
    """Runs one server; gives the port."""
    with tempfile.TemporaryDirectory() as directory, socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        free.close()
        Path(directory).chmod(0o711)  # nginx, started by root, reaches itself as another user
        command = commands(python, port, Path(directory))[name]
        environment = {"PATH": "/usr/sbin:/usr/bin:/bin", "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"}
        with subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            try:
                _wait_for(port, process)
                yield port
            finally:
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline_s = time.monotonic() + 20
    while process.poll() is None and time.monotonic() < deadline_s:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        time.sleep(0.05)
    raise RuntimeError("the server did not start")
