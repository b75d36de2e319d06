"""Several machines on this one, for a document whose commands are given from a laptop.

Each machine is a folder and a loopback address. `ssh`, `scp`, `sudo` and `systemctl` are stand-ins
that know these folders; what they start and how it is told to stop is what the document's unit
says. Everything else is real: PostgreSQL, HAProxy, curl, and Perdure.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.docs.documents import Block
from tests.docs.session import commands_of, matches

_COMMAND_S = 90.0
_STOP_S = 80.0
_MACHINES = ("shop-1", "shop-2", "shop-3", "balancer")

_STAND_INS = {
    "sudo": 'exec "$@"\n',
    "ssh": 'export MACHINE="$LAB/${1#*@}"; shift; cd "$MACHINE"; exec bash -c "$*"\n',
    "scp": 'place="${@: -1}"; machine="${place%%:*}"\n'
    'cp "${@:1:$#-1}" "$LAB/${machine#*@}/${place#*:}"\n',
    "systemctl": 'exec "$PYTHON" "$LAB/bin/systemctl.py" "$@"\n',
}

# Started by `ssh`, as the stand-in for the system's own.
_SYSTEMCTL = """\
import os, shlex, signal, string, subprocess, sys, time
from pathlib import Path

*options, unit = sys.argv[1:]
machine = Path(os.environ["MACHINE"])
pid_file = machine / f"{unit}.pid"

def start():
    environment = dict(os.environ)
    if unit == "haproxy":
        command = ["haproxy", "-db", "-f", str(machine / "etc/haproxy/haproxy.cfg")]
        folder = machine
    else:
        lines = (machine / "etc/systemd/system/shop.service").read_text().replace("\\\\\\n", " ")
        settings = [line.partition("=") for line in lines.splitlines() if "=" in line]
        for name, _, value in settings:
            if name == "EnvironmentFile":
                for line in (machine / value.lstrip("/")).read_text().splitlines():
                    variable, _, told = line.partition("=")
                    environment[variable] = told
        [line] = [value for name, _, value in settings if name == "ExecStart"]
        command = shlex.split(string.Template(line).substitute(environment))
        assert command[0] == "/srv/shop/.venv/bin/perdure"
        command[0] = str(Path(sys.executable).with_name("perdure"))
        folder = machine / "srv/shop"
    with (machine / f"{unit}.log").open("ab") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log,
            stderr=log, start_new_session=True,
        )
    pid_file.write_text(str(process.pid))

verb = options[0]
if verb in ("enable", "restart"):
    start()
elif verb == "reload":
    os.kill(int(pid_file.read_text()), signal.SIGHUP)
elif verb == "stop":
    pid = int(pid_file.read_text())
    os.kill(pid, signal.SIGTERM)
    pid_file.unlink()
    while Path(f"/proc/{pid}/stat").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text():
        time.sleep(0.05)
else:
    sys.exit(f"systemctl {verb} is not known here")
"""


class Machines:
    """A laptop, its folder, and the machines that it reaches."""

    def __init__(self, folder: Path, store: str) -> None:
        self.laptop = folder / "laptop"
        self._lab = folder
        self.laptop.mkdir()
        (self.laptop / ".curlrc").write_text("silent\nshow-error\nmax-time = 30\n")
        for name in _MACHINES:
            for place in ("etc/systemd/system", "etc/haproxy", "srv/shop"):
                (folder / name / place).mkdir(parents=True)
        programs = folder / "bin"
        programs.mkdir()
        (programs / "systemctl.py").write_text(_SYSTEMCTL)
        for name, text in _STAND_INS.items():
            (programs / name).write_text(f"#!/usr/bin/env bash\nset -e\n{text}")
            (programs / name).chmod(0o755)
        port = _free_ports(10)
        self._here = {
            "postgresql://shop@10.0.0.10/shop": f"'{store}'",
            "10.0.0.": "127.0.0.",
            ":8000": f":{port}",
            ":8080": f":{port + 1}",
            ":7000": f":{port + 2}",
        }
        self.balancer = self.here("10.0.0.5:8080")
        self._environment = {
            "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin",
            "PYTHON": sys.executable,
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            "PYTHONDONTWRITEBYTECODE": "1",
            "LAB": str(folder),
            "HOME": str(self.laptop),
            "LC_ALL": "C.UTF-8",
        }

    def here(self, text: str) -> str:
        """A text of the document with the addresses that its machines have here."""
        for there, here in self._here.items():
            text = text.replace(there, here)
        return text

    def do(self, block: Block) -> None:
        """Write the file or give the commands. Raises AssertionError."""
        if block.title is not None:
            (self.laptop / block.title).write_text(self.here(block.text))
            return
        for command, output in commands_of(block.text):
            self._give(command, output)

    def _give(self, command: str, output: str) -> None:
        said_by = self._lab / "said"
        with said_by.open("w") as sink:
            # not into a pipe: what goes on in the background would keep it open
            done = subprocess.run(
                ["bash", "-c", f"set -e; {self.here(command)}"],
                cwd=self.laptop,
                env=self._environment,
                stdout=sink,
                stderr=subprocess.STDOUT,
                timeout=_COMMAND_S,
                check=False,
            )
        said = said_by.read_text()
        assert done.returncode == 0, f"$ {command}\n{said}\n{self.logs()}"
        assert matches(output, said), f"$ {command}\nsaid:\n{said}\nthe document says:\n{output}"

    def logs(self) -> str:
        """The last lines of every machine's log."""
        logs = sorted(self._lab.glob("*/*.log"))
        return "\n".join(f"{log}:\n{log.read_text()[-1500:]}" for log in logs)

    def close(self) -> None:
        """Stop what still runs."""
        pids = [int(path.read_text()) for path in self._lab.glob("*/*.pid")]
        pids = list(filter(_runs, pids))
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
        end_s = time.monotonic() + _STOP_S
        while any(map(_runs, pids)) and time.monotonic() < end_s:
            time.sleep(0.05)
        for pid in filter(_runs, pids):
            os.kill(pid, signal.SIGKILL)


def _runs(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def _free_ports(count: int) -> int:
    """The first of so many ports that are free, one after the other, on all loopback addresses."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            first: int = probe.getsockname()[1]
        if first + count < 65_000 and all(_is_free(first + ahead) for ahead in range(count)):
            return first


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
        return True
