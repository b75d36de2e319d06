"""What `perdure run` says and does when everything goes well."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

APP = """
from perdure import Actor, App, expose

class Note(Actor):
    text: str = ""

    @expose
    async def write(self, text: str) -> str:
        self.text = text
        return self.text

open_app = App(Note, store="memory:")
app = App(Note, identify=lambda _request: None)
"""
WARNING = "everyone who can reach this address can call every exposed method"


@contextmanager
def served(folder: Path, *options: str) -> Iterator["subprocess.Popen[str]"]:
    """`perdure run` until it has said where it serves; ended by pid afterwards."""
    (folder / "notes.py").write_text(APP)
    command = [sys.executable, "-P", "-c", "from perdure.cli import main; main()", "run", *options]
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=20)


def told(process: "subprocess.Popen[str]") -> tuple[str, str]:
    """All of standard output and error, once it has stopped gracefully."""
    assert process.stdout is not None
    first = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=20)
    assert process.returncode == 0, errors
    return first + output, errors


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ((), r"on http://127\.0\.0\.1:\d+ \(data in \./data\)"),
        (("--data", "kept"), r"on http://127\.0\.0\.1:\d+ \(data in kept\)"),
        (("--store", "memory:"), r"on http://127\.0\.0\.1:\d+ \(data in memory, .*\)"),
        (("--no-supervisor",), r"on http://127\.0\.0\.1:\d+ \(data in \./data\)"),
        (("--listen", "[::1]:0"), r"on http://\[::1\]:\d+ \(data in \./data\)"),
    ],
)
def test_exactly_one_line_says_where_it_serves(
    tmp_path: Path, options: tuple[str, ...], line: str
) -> None:
    if "[::1]:0" in options and not _has_ipv6():
        pytest.skip("no IPv6 here")
    with served(tmp_path, "notes.py", "--listen", "127.0.0.1:0", *options) as process:
        output, errors = told(process)
    assert re.fullmatch(f"Perdure is serving notes.py {line}\n", output)
    assert WARNING not in errors
    assert [line.split()[3] for line in errors.splitlines()] == ["stopping", "stopped"]


def _has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def test_an_open_app_on_an_open_address_is_warned_of(tmp_path: Path) -> None:
    with served(tmp_path, "notes.py:open_app", "--listen", "0.0.0.0:0") as process:
        assert WARNING in told(process)[1]


def test_an_app_that_identifies_its_callers_may_listen_anywhere(tmp_path: Path) -> None:
    with served(tmp_path, "notes.py", "--listen", "0.0.0.0:0") as process:
        assert WARNING not in told(process)[1]


def test_events_are_json_on_demand_those_of_the_supervisor_too(tmp_path: Path) -> None:
    options = ("notes.py", "--listen", "127.0.0.1:0", "--log-format", "json")
    with served(tmp_path, *options) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        output = process.stdout.readline()
        holder = (tmp_path / "data" / "perdure.lock").read_text()
        os.kill(int(holder.split()[1]), signal.SIGKILL)
        events = [json.loads(process.stderr.readline()) for _ in range(2)]
        assert [event["event"] for event in events] == [
            "server died (SIGKILL), starting again",
            "serving again",
        ]
        process.terminate()
        rest, errors = process.communicate(timeout=20)
    assert output.startswith("Perdure is serving")
    assert rest == ""
    assert [json.loads(line)["event"] for line in errors.splitlines()] == ["stopping", "stopped"]


def test_a_folder_with_modules_named_as_pythons_own_does_no_harm(tmp_path: Path) -> None:
    for name in ("logging", "socket", "random", "msgspec"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('not this one')")
    with served(tmp_path, "notes.py", "--listen", "127.0.0.1:0") as process:
        assert told(process)[0].startswith("Perdure is serving")


def test_every_process_tells_its_metrics_at_an_address_of_its_own(tmp_path: Path) -> None:
    options = ["notes.py:open_app", "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"]
    with served(tmp_path, *options, "--web", "1", "--store", f"sqlite:{tmp_path / 'data'}") as run:
        assert run.stdout is not None
        line = run.stdout.readline()
        at = re.search(r"on (http://\S+) .*metrics on http://127.0.0.1:(\d+), (\d+)\)", line)
        assert at is not None, line
        base, state, web = at[1], f"http://127.0.0.1:{at[2]}", f"http://127.0.0.1:{at[3]}"
        httpx.post(f"{base}/note/a/write", json={"text": "x"}).raise_for_status()
        told_by_owner = httpx.get(f"{state}/-/metrics").text
        told_by_web = httpx.get(f"{web}/-/metrics").text
        assert httpx.get(f"{state}/-/ready").status_code == 200
        assert httpx.get(f"{base}/-/metrics").status_code == 404
        assert httpx.get(f"{web}/note/a/write").status_code == 404
    assert re.search(r'perdure_turns_total\{.*type="Note",method="write"\} 1', told_by_owner)
    assert re.search(r"perdure_shards_owned\{.*\} 4096", told_by_owner)
    assert re.search(r'perdure_http_call_duration_seconds_count\{.*"2xx"\} 1', told_by_web)
    assert re.search(r"perdure_forwarded_calls_total\{.*\} 1", told_by_web)
    assert re.search(r'perdure_http_replies_total\{.*status="2xx"\} 1', told_by_web)
