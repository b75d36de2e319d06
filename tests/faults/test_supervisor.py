"""What the supervisor of `perdure run` promises: a dead server is started again, unnoticed."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import pytest
from tests.faults.supervised import APP, WITHIN_S, Supervised, is_alive, until

from perdure.cli import failures

pytestmark = pytest.mark.faults

AGAIN = "server died (SIGKILL), starting again"


def test_a_server_that_is_killed_under_load_is_not_missed(tmp_path: Path) -> None:
    """Not one connection is refused; a call without an answer is sent again under its key."""
    kills, clients = 4, 4
    over = threading.Event()
    with Supervised(tmp_path) as run, ThreadPoolExecutor(clients) as pool:
        pid = run.wait_ready()

        def stream(client: int) -> list[str]:
            sent: list[str] = []
            while not over.is_set():
                name = f"{client}.{len(sent)}"
                _add_until_answered(run, name)
                sent.append(name)
            return sent

        streams = [pool.submit(stream, client) for client in range(clients)]
        try:
            for _ in range(kills):
                before = len(run.ask("GET", "/counter/c/view")[1])
                until(
                    lambda before=before: len(run.ask("GET", "/counter/c/view")[1]) > before + 20,
                    "progress",
                )
                os.kill(pid, signal.SIGKILL)
                pid = run.server(other_than=pid)
                run.wait_ready()
        finally:
            over.set()
        sent = [name for stream in streams for name in stream.result(WITHIN_S)]
        assert len(sent) > kills * 20
        assert sorted(run.ask("GET", "/counter/c/view")[1]) == sorted(sent)
        assert run.log().count(AGAIN) == kills
        assert run.log().count("serving again") == kills
        assert run.log().count("Perdure is serving counter.py on http://127.0.0.1:") == 1


def _add_until_answered(run: Supervised, name: str) -> None:
    end_s = time.monotonic() + WITHIN_S
    while time.monotonic() < end_s:
        try:
            status, _ = run.ask("POST", "/counter/c/add", {"name": name}, {"idempotency-key": name})
        except ConnectionRefusedError:
            raise AssertionError("a connection was refused") from None
        except (OSError, HTTPException):
            continue  # cut off in the midst of it
        assert status == 200
        return
    raise AssertionError("no answer")


def _in_flight(run: Supervised, pool: ThreadPoolExecutor, name: str) -> "tuple[Path, object]":
    """Begin a call that ends once a file appears; returns the file and the call's future."""
    file = run.folder / name
    body = {"name": name, "wait_for": str(file)}
    future = pool.submit(run.ask, "POST", f"/counter/{name}/add", body)
    until(Path(f"{file}.begun").exists, "the call to begin")
    return file, future


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_lets_running_calls_end(tmp_path: Path, number: signal.Signals) -> None:
    with Supervised(tmp_path) as run, ThreadPoolExecutor(1) as pool:
        run.wait_ready()
        file, future = _in_flight(run, pool, "slow")
        run.process.send_signal(number)
        run.wait_for_log("stopping")
        until(lambda: not _accepts(run.port), "the listening socket to close")
        file.touch()
        assert future.result(WITHIN_S) == (200, 1)
        assert run.wait() == 0
        assert "stopped" in run.log()
        assert "Traceback" not in run.log()


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_while_it_stops_it_still_answers_and_says_that_it_is_not_ready(tmp_path: Path) -> None:
    with Supervised(tmp_path) as run:
        run.wait_ready()
        run.process.send_signal(signal.SIGTERM)
        until(lambda: run.ask("GET", "/-/ready")[0] == 503, "readiness to say no")
        assert run.ask("POST", "/counter/c/add", {"name": "late"}) == (200, 1)
        assert run.wait() == 0


def test_while_it_stops_a_kept_connection_still_gets_its_answer(tmp_path: Path) -> None:
    with Supervised(tmp_path) as run:
        run.wait_ready()
        with closing(HTTPConnection("127.0.0.1", run.port, timeout=WITHIN_S)) as kept:
            assert _view(kept) == (200, None)
            run.process.send_signal(signal.SIGTERM)
            until(lambda: run.ask("GET", "/-/ready")[0] == 503, "readiness to say no")
            assert _view(kept) == (200, "close")  # and is told that it was the last one
        assert run.wait() == 0


def _view(connection: HTTPConnection) -> tuple[int, str | None]:
    connection.request("GET", "/counter/c/view")
    reply = connection.getresponse()
    reply.read()
    return reply.status, reply.getheader("connection")


def test_a_second_signal_kills(tmp_path: Path) -> None:
    with Supervised(tmp_path) as run, ThreadPoolExecutor(1) as pool:
        pid = run.wait_ready()
        _, future = _in_flight(run, pool, "endless")
        run.process.send_signal(signal.SIGINT)
        run.wait_for_log("stopping")
        run.process.send_signal(signal.SIGINT)
        assert run.wait() == 128 + signal.SIGKILL
        assert not is_alive(pid)
        assert isinstance(future.exception(WITHIN_S), OSError | HTTPException)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_before_it_is_ready_is_a_stop(tmp_path: Path, number: signal.Signals) -> None:
    slow = "from pathlib import Path\nPath('begun').touch()\nimport time\ntime.sleep(60)\n"
    with Supervised(tmp_path, slow) as run:
        until((tmp_path / "begun").exists, "the import to begin")
        run.process.send_signal(number)
        assert run.wait() == 0
        assert run.log() == ""


def test_a_mounted_app_that_never_starts_can_be_stopped(tmp_path: Path) -> None:
    hangs = "import asyncio\nfrom pathlib import Path\n"
    hangs += "async def pages(scope, receive, send):\n    Path('begun').touch()\n"
    hangs += "    await asyncio.Event().wait()\n"
    with Supervised(
        tmp_path, hangs + APP.replace("App(Counter)", "App(Counter, mount=pages)")
    ) as run:
        until((tmp_path / "begun").exists, "the lifespan to begin")
        run.process.send_signal(signal.SIGINT)
        assert run.wait() == 0
        assert run.log() == ""


def test_a_server_does_not_outlive_its_supervisor(tmp_path: Path) -> None:
    with Supervised(tmp_path) as run:
        pid = run.wait_ready()
        run.process.kill()
        run.process.wait(WITHIN_S)
        until(lambda: not is_alive(pid), "the server to end")
        assert not _accepts(run.port)


def test_nor_does_a_server_whose_event_loop_is_blocked(tmp_path: Path) -> None:
    with Supervised(tmp_path) as run, ThreadPoolExecutor(1) as pool:
        pid = run.wait_ready()
        begun = tmp_path / "begun"
        pool.submit(run.ask, "POST", "/counter/c/hang", {"begun": str(begun)})
        until(begun.exists, "the loop to be blocked")
        run.process.kill()
        run.process.wait(WITHIN_S)
        until(lambda: not is_alive(pid), "the server to end")


def test_a_second_server_on_the_directory_is_refused_and_not_tried_again(tmp_path: Path) -> None:
    with Supervised(tmp_path) as run:
        pid = run.wait_ready()
        with Supervised(tmp_path) as second:  # writes the same app again, and a log of its own
            assert second.wait() == failures.LOCKED
            assert f"data is in use by process {pid} on" in second.log()
            assert second.log().count("\n") == 1
        assert run.is_ready()


@pytest.mark.parametrize(
    ("app", "line"),
    [
        ("app = 1", "perdure: counter.py:app is a int, not a perdure.App"),
        ("def f(:\n    pass", "perdure: counter.py:1: invalid syntax"),
        ("import no_such_thing", "perdure: counter.py:1: imports no_such_thing, which is not"),
        ("x = 1\n1 / 0", "perdure: counter.py raised while it was imported"),
    ],
)
def test_a_wrong_app_is_not_tried_again(tmp_path: Path, app: str, line: str) -> None:
    with Supervised(tmp_path, app) as run:
        assert run.wait() == failures.BAD_APP
        assert run.log().startswith(line)
        assert "starting again" not in run.log()


def test_an_app_that_dies_before_it_is_ready_is_given_up(tmp_path: Path) -> None:
    dies = "import os\nopen('starts', 'a').write('.')\nos._exit(3)\n"
    with Supervised(tmp_path, dies) as run:
        assert run.wait() == 3
        assert (tmp_path / "starts").read_text() == "." * 5
        assert "server died (exit code 3), giving up after 5 starts" in run.log()


def test_a_failed_disk_ends_the_server_and_the_next_one_recovers(tmp_path: Path) -> None:
    # the third commit of each process fails
    with Supervised(tmp_path, environment={"PERDURE_FAULT": "before_fsync:raise:3"}) as run:
        pid = run.wait_ready()
        answers = [run.ask("POST", "/counter/c/add", {"name": str(n)}) for n in range(3)]
        assert answers[:2] == [(200, 1), (200, 2)]
        status, problem = answers[2]
        assert (status, problem["type"]) == (503, "urn:perdure:problem:store-broken")
        run.server(other_than=pid)
        run.wait_ready()
        assert run.ask("GET", "/counter/c/view") == (200, ["0", "1"])
        assert run.ask("POST", "/counter/c/add", {"name": "after"}) == (200, 3)
        assert run.log().count("the disk failed, ending") == 1
        assert "server died (exit code 74), starting again" in run.log()
        assert "Traceback" not in run.log()


def test_a_visitor_with_the_sqlite3_shell_delays_a_restart_but_does_not_end_it(
    tmp_path: Path,
) -> None:
    with Supervised(tmp_path) as run, closing(_visit(tmp_path / "data" / "perdure.db", run)) as db:
        pid = run.wait_ready()
        assert run.ask("POST", "/counter/c/add", {"name": "one"})[0] == 200
        db.execute("BEGIN")
        db.execute("SELECT * FROM counter").fetchall()
        assert run.ask("POST", "/counter/c/add", {"name": "two"})[0] == 200
        os.kill(pid, signal.SIGKILL)
        run.wait_for_log(f"server died (exit code {failures.LOCKED}), starting again")
        db.execute("COMMIT")
        assert run.ask("GET", "/counter/c/view") == (200, ["one", "two"])


def _visit(file: Path, run: Supervised) -> sqlite3.Connection:
    run.wait_ready()
    return sqlite3.connect(file, isolation_level=None)


def test_what_an_app_starts_does_not_keep_the_port(tmp_path: Path) -> None:
    starts = "import subprocess, sys\nfrom pathlib import Path\n"
    starts += "code = 'import sys; sys.stdin.read()'\n"
    starts += "child = subprocess.Popen([sys.executable, '-c', code], close_fds=False,"
    starts += " stdin=subprocess.PIPE)\nPath('pid').write_text(str(child.pid))\n"
    with Supervised(tmp_path, starts + APP) as run:
        run.wait_ready()
        left = int((tmp_path / "pid").read_text())
        held = {os.readlink(f"/proc/{left}/fd/{name}") for name in os.listdir(f"/proc/{left}/fd")}
        ours = f"socket:[{_inode_of_listener(run.port)}]"
        assert ours not in held
        run.process.terminate()
        assert run.wait() == 0


def _inode_of_listener(port: int) -> str:
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1].endswith(f":{port:04X}") and fields[3] == "0A":
            return fields[9]
    raise AssertionError("nobody listens")


def test_without_a_supervisor_a_death_is_a_death(tmp_path: Path) -> None:
    (tmp_path / "counter.py").write_text(APP)
    command = [sys.executable, "-c", "from perdure.cli import main; main()", "run", "counter.py"]
    command += ["--no-supervisor", "--listen", "127.0.0.1:0"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"Perdure is serving counter.py on http://127")
        process.kill()
        assert process.wait(WITHIN_S) == -signal.SIGKILL
