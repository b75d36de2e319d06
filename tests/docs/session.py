"""A reader at a terminal: does what a document says, in a folder of its own, and compares.

What differs from a terminal: port 8000 becomes a free one, there and back; `perdure run` and
`uvicorn` stay in the background until `^C`, the next server, or the end; and curl is told to be as
silent into a pipe as it is at a terminal.
"""

import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from http.client import HTTPConnection
from pathlib import Path

from tests.docs.documents import Block

_COMMAND_S = 60.0
_SERVER_S = 30.0
_SERVERS = ("perdure run ", "uvicorn ")


class Session:
    """One document's folder, its server, and the commands that were given there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = _free_port()
        (folder / ".curlrc").write_text("silent\nshow-error\n")
        self._server: subprocess.Popen[str] | None = None
        self._server_output = ""
        scripts = str(Path(sys.executable).parent)
        self._environment = {
            "PATH": f"{scripts}:{os.environ['PATH']}",
            "HOME": str(folder),
            "NO_COLOR": "1",
            "TERM": "dumb",
            "COLUMNS": "80",
            "LC_ALL": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        }

    def do(self, block: Block) -> None:
        """Write the file, run the program or give the commands. Raises AssertionError."""
        if block.title is not None:
            path = self.folder / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self._with_port(block.text))
            if path.suffix == ".py":
                self._expect(f"python -W error -c 'import runpy; runpy.run_path(\"{path}\")'", "…")
        elif block.language == "python":
            script = self.folder / f"block_{block.line}.py"
            script.write_text(self._with_port(block.text))
            self._expect(f"python -W error {script}", "…")
        else:
            for command, output in commands_of(block.text):
                self._give(command, output)

    def close(self) -> None:
        """End the server."""
        self._stop_server(signal.SIGTERM)

    # -- commands --------------------------------------------------------------------------------

    def _give(self, command: str, output: str) -> None:
        if command == "^C":
            self._interrupt(output)
        elif _program_of(command).startswith(_SERVERS):
            self._start_server(command, output)
        else:
            self._expect(command, output)

    def _expect(self, command: str, output: str) -> None:
        where = self.folder / ".where"
        # a `cd` holds for the commands that follow, as in a terminal
        script = f"{self._with_port(command)}\nstatus=$?\npwd > '{where}'\nexit $status"
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_COMMAND_S,
        )
        said = self._without_port(done.stdout)
        assert matches(output, said), f"$ {command}\nsaid:\n{said}\nthe document says:\n{output}"
        if output == "…":
            assert done.returncode == 0, f"$ {command}\n{said}"
        if where.exists():
            self.folder = Path(where.read_text().strip())
            where.unlink()

    # -- the server ------------------------------------------------------------------------------

    def _start_server(self, command: str, output: str) -> None:
        self._stop_server(signal.SIGTERM)
        command = self._with_port(command)
        program = _program_of(command)
        option = f" --port {self.port}" if program.startswith("uvicorn") else ""
        if program.startswith("perdure") and "--listen" not in command:
            option = f" --listen 127.0.0.1:{self.port}"
        self._server_output = ""
        self._server = subprocess.Popen(
            ["bash", "-c", f"exec env {command}{option}"],
            cwd=self.folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._read_until(lambda said: matches(output + "\n…", said) and self._answers(), output)

    def _interrupt(self, output: str) -> None:
        assert self._server is not None, "^C, but no server runs"
        self._server_output = ""
        self._server.send_signal(signal.SIGINT)
        self._read_until(lambda said: matches("…\n" + output, said), output)
        self._server.communicate(timeout=_SERVER_S)
        assert self._server.returncode == 0
        self._server = None

    def _stop_server(self, number: signal.Signals) -> None:
        if self._server is None:
            return
        self._server.send_signal(number)
        try:
            self._server.communicate(timeout=_SERVER_S)
        finally:
            self._server.kill()
            self._server = None

    def _read_until(self, holds: "object", output: str) -> None:
        assert callable(holds)
        assert self._server is not None
        assert self._server.stdout is not None
        end_s = time.monotonic() + _SERVER_S
        descriptor = self._server.stdout.fileno()
        while not holds(self._without_port(self._server_output)):
            assert time.monotonic() < end_s, (
                f"the server said:\n{self._server_output}\nthe document says:\n{output}"
            )
            if select.select([descriptor], [], [], 0.05)[0]:
                chunk = os.read(descriptor, 65536).decode()
                assert chunk or self._server.poll() is None, self._server_output
                self._server_output += chunk

    def _answers(self) -> bool:
        """Whether a program is behind the port: the supervisor listens before there is one."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=1.0)
        try:
            connection.request("GET", "/-/live")
            return connection.getresponse().status in {200, 404}
        except OSError:
            return False
        finally:
            connection.close()

    def _with_port(self, text: str) -> str:
        return text.replace("8000", str(self.port))

    def _without_port(self, text: str) -> str:
        return text.replace(str(self.port), "8000")


def _program_of(command: str) -> str:
    """A command without the variables that are set for it."""
    return re.sub(r"^(\w+=\S*\s+(\\\n\s*)?)*", "", command)


def commands_of(text: str) -> list[tuple[str, str]]:
    """The commands of a console block, each with the output that follows it."""
    found: list[tuple[str, str]] = []
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith("$ "):
            command = line[2:]
            while command.endswith("\\"):
                command += "\n" + next(lines)
            found.append((command, ""))
        elif line == "^C":
            found.append((line, ""))
        else:
            assert found, f"{line!r} stands before any command"
            command, output = found[-1]
            found[-1] = command, f"{output}\n{line}" if output else line
    return found


def matches(expected: str, said: str) -> bool:
    """Whether the output is the documented one; `…` stands for anything, also for whole lines."""
    pattern = ""
    for line in expected.strip("\n").split("\n"):
        if line.strip() == "…":
            pattern += r"(?:.*\n)*"
        else:
            pattern += re.escape(line.rstrip()).replace("…", ".*") + "\n"
    tidy = "".join(f"{line.rstrip()}\n" for line in said.strip("\n").split("\n"))
    return re.fullmatch(pattern, tidy) is not None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
