"""PgBouncer in front of a database for tests, if this machine has one."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

PGBOUNCER = shutil.which("pgbouncer", path=os.environ.get("PATH", "") + ":/usr/sbin")
_START_S = 10.0


@contextmanager
def pooler(url: str, **settings: str) -> Iterator[str]:
    """Within the block a pooler leads to the server of this URL; gives the URL of its `postgres`.

    In transaction mode, with two connections for each database, unless `settings` say otherwise.
    """
    assert PGBOUNCER is not None
    parts = urlsplit(url)
    [socket_directory] = parse_qs(parts.query)["host"]
    owner = pwd.getpwuid(Path(socket_directory).stat().st_uid)  # nobody else may use the socket
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    directory = Path(tempfile.mkdtemp(prefix="perdure-pooler-"))
    directory.chmod(0o755)
    lines = {
        "listen_addr": "127.0.0.1",
        "listen_port": str(port),
        "unix_socket_dir": "",
        "auth_type": "any",
        "pool_mode": "transaction",
        "default_pool_size": "2",
        "max_client_conn": "500",
        "server_idle_timeout": "1",
        **settings,
    }
    (directory / "pooler.ini").write_text(
        f"[databases]\n* = host={socket_directory} port=5432 user={parts.username}\n[pgbouncer]\n"
        + "".join(f"{name} = {value}\n" for name, value in lines.items())
    )
    as_root = os.geteuid() == 0
    process = subprocess.Popen(
        [PGBOUNCER, "-q", directory / "pooler.ini"],
        stderr=subprocess.DEVNULL,
        user=owner.pw_uid if as_root else None,
        group=owner.pw_gid if as_root else None,
        extra_groups=[] if as_root else None,
    )
    try:
        _wait_for(port, process)
        yield f"postgresql://{parts.username}@127.0.0.1:{port}{parts.path}"
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(directory)


def _wait_for(port: int, process: "subprocess.Popen[bytes]") -> None:
    end_s = time.monotonic() + _START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if time.monotonic() > end_s or process.poll() is not None:
                raise
            time.sleep(0.01)
