"""nginx answering a constant: the ceiling of what one core serves over HTTP."""

from pathlib import Path

from bench.peers.base import Peer, program, program_version
from bench.processes import Processes

CONFIGURATION = """
daemon off;
worker_processes 1;
pid nginx.pid;
error_log stderr error;
events { worker_connections 1024; }
http {
    access_log off;
    keepalive_requests 1000000000;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    server {
        listen 127.0.0.1:PORT;
        location / { default_type application/json; return 200 '{"tea":2}'; }
    }
}
"""


class Nginx(Peer):
    """Stores nothing and computes nothing; it only parses the request and answers."""

    name = "nginx"
    title = "nginx `return 200` (ceiling)"
    durability = "stores nothing"
    view_path = None
    is_ceiling = True

    def versions(self) -> dict[str, str]:
        return {"nginx": program_version(program("nginx"), "-v").split("/")[-1]}

    def start(self, processes: Processes, directory: Path, port: int) -> None:
        configuration = directory / "nginx.conf"
        configuration.write_text(CONFIGURATION.replace("PORT", str(port)))
        command = [program("nginx"), "-p", f"{directory}/", "-c", configuration]
        processes.start("nginx", command, directory=directory)
        processes.wait_until(lambda: self.is_up(port), "nginx")

    def probe(self, port: int) -> None:
        """Nothing to check beyond the constant answer, which `start` has seen."""
