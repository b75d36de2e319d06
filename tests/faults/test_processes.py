"""The processes of one machine: several of them, new code in all, and how they end.

What is only the supervisor's part is tested with stand-ins: each process runs a node of its own in
memory, whatever its role, so that nothing depends on how calls travel.
"""

import os
import pty
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Self

import pytest
from tests.faults.database import Database
from tests.faults.supervised import APP, WITHIN_S, Supervised, free_port, is_alive, until

from perdure.cli import failures

pytestmark = pytest.mark.faults

VERSION = "VERSION = 1\n"
VERSIONED = VERSION + APP.replace(
    "    @expose\n    @read\n",
    "    @expose\n    @read\n    async def version(self) -> int:\n        return VERSION\n\n"
    "    @expose\n    @read\n",
    1,
)
STAND_IN = VERSIONED.replace(
    "app = App(Counter)",
    """
class StandIn(App):
    async def start(self, store=None, on_broken=None, place=None):
        with open("places", "a") as places:
            print(os.getpid(), place.role, place.listen, place.state_at, len(place.key),
                  file=places)
        if Path(f"no-{place.role}").exists():
            os._exit(3)
        while Path(f"slow-{place.role}").exists():
            await asyncio.sleep(0.005)
        await super().start("memory:", on_broken)


app = StandIn(Counter)
""",
)
SEVERAL = ("--web", "2", "--store", "memory:")
NOWHERE = "postgresql://nowhere/none"
REPLACED = "all processes are replaced"


def _several_owners(store: str) -> tuple[str, ...]:
    """Options; the stand-in keeps nothing in the store, but it is waited for."""
    return ("--web", "2", "--state", "2", "--store", store)


def _ready(run: Supervised) -> dict[str, int]:
    """Wait until it has greeted; returns the pid of each process by its title."""
    run.wait_for_log("Perdure is serving")
    return {title: pid for pid, title in run.titles().items()}


def _write_version(run: Supervised, app: str, version: int) -> None:
    (run.folder / "counter.py").write_text(app.replace(VERSION, f"VERSION = {version}\n"))


def _roll_out(run: Supervised, done: int) -> None:
    run.process.send_signal(signal.SIGHUP)
    until(lambda: run.log().count(REPLACED) == done, f"the roll-out:\n{run.log()}")


class Load:
    """Clients that ask all the time, each on new connections or on one that it keeps."""

    def __init__(self, run: Supervised, clients: int) -> None:
        self.errors: list[str] = []
        self.answers = 0
        self._run = run
        self._over = threading.Event()
        self._pool = ThreadPoolExecutor(clients)
        self._streams = [self._pool.submit(self._ask, number % 2 == 0) for number in range(clients)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._pool.shutdown()

    def wait_for_more(self, answers: int) -> None:
        """Wait for so many answers more than there are now."""
        wanted = self.answers + answers
        until(lambda: self.answers >= wanted, "answers")

    def end(self) -> None:
        """Let all clients end; raises what went wrong in them."""
        self._over.set()
        for stream in self._streams:
            stream.result(WITHIN_S)

    def _ask(self, keeps: bool) -> None:
        connection = HTTPConnection("127.0.0.1", self._run.port, timeout=WITHIN_S)
        while not self._over.is_set():
            try:
                connection.request("POST", "/counter/c/add", '{"name": "x"}')
                reply = connection.getresponse()
                reply.read()
            except (OSError, HTTPException) as error:
                self.errors.append(repr(error))
                connection.close()
                continue
            if reply.status != 200:
                self.errors.append(str(reply.status))
            self.answers += 1
            if not keeps:
                connection.close()
        connection.close()


def test_several_processes_say_in_one_line_what_runs(tmp_path: Path) -> None:
    with Supervised(tmp_path, STAND_IN, options=SEVERAL) as run:
        assert sorted(_ready(run)) == ["state-1", "web-1", "web-2"]
        line = f"Perdure is serving counter.py on http://127.0.0.1:{run.port} "
        line += "(2 web, 1 state; data in memory, gone when it stops)\n"
        assert run.log() == line
        places = [line.split() for line in (tmp_path / "places").read_text().splitlines()]
        assert [place[1] for place in places] == ["state", "web", "web"]
        assert {place[4] for place in places} == {"32"}
        listen = places[0][2]
        assert listen.startswith("unix:/")
        assert [place[2:4] for place in places[1:]] == [["None", listen]] * 2
        directory = Path(listen.removeprefix("unix:")).parent
        assert directory.stat().st_mode & 0o777 == 0o700
        run.process.terminate()
        assert run.wait() == 0
        assert not directory.exists()


def test_web_processes_start_once_there_is_an_owner(tmp_path: Path) -> None:
    (tmp_path / "slow-state").touch()
    with Supervised(tmp_path, STAND_IN, options=SEVERAL) as run:
        until((tmp_path / "places").exists, "the owner to start")
        assert list(run.titles().values()) == ["state-1"]
        (tmp_path / "slow-state").unlink()
        assert sorted(_ready(run)) == ["state-1", "web-1", "web-2"]


def test_neither_the_key_nor_the_store_can_be_read_from_outside(
    database: Database, tmp_path: Path
) -> None:
    key = "k" * 40
    options = ("--web", "1", "--store", database.url.replace("@", ":pass-word@"))
    with Supervised(tmp_path, STAND_IN, {"PERDURE_CLUSTER_KEY": key}, options) as run:
        pids = _ready(run)
        for pid in pids.values():
            for name in ("cmdline", "environ"):
                text = Path(f"/proc/{pid}/{name}").read_bytes()
                assert key.encode() not in text
                assert name == "environ" or b"pass-word" not in text
        assert "pass-word" not in run.log()
        assert "1 web, 1 state; data in PostgreSQL at 127.0.0.1/" in run.log()
        assert (tmp_path / "places").read_text().splitlines()[0].endswith(" 40")


@pytest.mark.parametrize("title", ["state-1", "web-2"])
def test_a_process_that_died_is_started_again_and_the_others_stay(
    tmp_path: Path, title: str
) -> None:
    with Supervised(tmp_path, STAND_IN, options=SEVERAL) as run:
        before = _ready(run)
        os.kill(before[title], signal.SIGKILL)
        again = run.pid_of(title, other_than=before[title])
        run.wait_for_log(f"serving again pid={again}")
        assert f"{title.replace('-', ' ')} died (SIGKILL), starting again" in run.log()
        after = {found: pid for pid, found in run.titles().items()}
        assert after == before | {title: again}


@pytest.mark.parametrize("title", ["state-1", "web-2"])
def test_a_process_that_is_ended_by_itself_is_started_again(tmp_path: Path, title: str) -> None:
    with Supervised(tmp_path, STAND_IN, options=SEVERAL) as run:
        before = _ready(run)
        os.kill(before[title], signal.SIGTERM)
        again = run.pid_of(title, other_than=before[title])
        run.wait_for_log(f"serving again pid={again}")
        assert "pause_s" not in run.log()


def test_a_web_process_that_cannot_start_again_does_not_end_the_others(tmp_path: Path) -> None:
    with Supervised(tmp_path, STAND_IN, options=SEVERAL) as run:
        before = _ready(run)
        (tmp_path / "counter.py").write_text("app = 1")
        os.kill(before["web-1"], signal.SIGKILL)
        run.wait_for_log(f"web 1 died (exit code {failures.BAD_APP}), starting again pause_s=5.0")
        assert run.ask("GET", "/counter/c/view") == (200, [])
        os.kill(before["web-2"], signal.SIGKILL)
        assert run.wait() == failures.BAD_APP, "nobody is left who serves"


def test_a_supervisor_without_descriptors_waits_for_better_times(tmp_path: Path) -> None:
    with Supervised(tmp_path, STAND_IN, options=SEVERAL) as run:
        before = _ready(run)
        held = max(int(name) for name in os.listdir(f"/proc/{run.process.pid}/fd")) + 1
        limits = resource.prlimit(run.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(run.process.pid, resource.RLIMIT_NOFILE, (held - 1, limits[1]))
        os.kill(before["web-1"], signal.SIGKILL)
        run.wait_for_log("web 1 cannot be started (Too many open files) pause_s=5.0")
        assert run.ask("GET", "/counter/c/view") == (200, [])
        resource.prlimit(run.process.pid, resource.RLIMIT_NOFILE, limits)
        run.pid_of("web-1", other_than=before["web-1"])
        run.wait_for_log("serving again")


def test_an_owner_that_cannot_start_ends_all(tmp_path: Path) -> None:
    (tmp_path / "no-state").touch()
    with Supervised(tmp_path, STAND_IN, options=SEVERAL) as run:
        assert run.wait() == 3
        assert "state 1 died (exit code 3), giving up after 5 starts" in run.log()
        assert "Perdure is" not in run.log()


def test_an_app_that_cannot_be_loaded_says_so_once(tmp_path: Path) -> None:
    counts = "import time\nfrom pathlib import Path\nopen('imports', 'a').write('.')\n"
    counts += "end_s = time.monotonic() + 0.3\n"  # for others that may have been started as well
    counts += "while Path('imports').read_text() == '.' and time.monotonic() < end_s: pass\napp = 1"
    with Supervised(tmp_path, counts, options=_several_owners(NOWHERE)) as run:
        assert run.wait() == failures.BAD_APP
        assert (tmp_path / "imports").read_text() == "."
        assert run.log() == "perdure: counter.py:app is a int, not a perdure.App\n"


def test_a_stop_ends_web_processes_before_the_owners(tmp_path: Path) -> None:
    with Supervised(tmp_path, STAND_IN, options=SEVERAL) as run, ThreadPoolExecutor(1) as pool:
        owner = _ready(run)["state-1"]
        file = tmp_path / "slow"
        body = {"name": "slow", "wait_for": str(file)}
        future = pool.submit(run.ask, "POST", "/counter/c/add", body)
        until(Path(f"{file}.begun").exists, "the call to begin")
        run.process.terminate()
        until(lambda: len(run.titles()) == 2, "the idle web process to leave")
        assert "state-1" in run.titles().values()
        assert is_alive(owner)
        file.touch()
        assert future.result(WITHIN_S) == (200, 1)
        assert run.wait() == 0
        assert run.log().count("stopped") == 3


def test_a_second_signal_kills_all(tmp_path: Path) -> None:
    with Supervised(tmp_path, STAND_IN, options=SEVERAL) as run, ThreadPoolExecutor(1) as pool:
        pids = _ready(run)
        begun = tmp_path / "begun"
        future = pool.submit(run.ask, "POST", "/counter/c/hang", {"begun": str(begun)})
        until(begun.exists, "a loop to be blocked")
        run.process.send_signal(signal.SIGINT)
        until(lambda: len(run.titles()) == 2, "the other web process to leave")
        run.process.send_signal(signal.SIGINT)
        assert run.wait() == 128 + signal.SIGKILL
        assert not any(is_alive(pid) for pid in pids.values())
        assert isinstance(future.exception(WITHIN_S), OSError | HTTPException)


def test_no_process_outlives_its_supervisor(tmp_path: Path) -> None:
    with Supervised(tmp_path, STAND_IN, options=SEVERAL) as run:
        pids = _ready(run)
        run.process.kill()
        run.process.wait(WITHIN_S)
        until(lambda: not any(is_alive(pid) for pid in pids.values()), "all to end")


# -- calls between processes ---------------------------------------------------------------------

REAL = ("--web", "2")


def test_an_owner_that_is_killed_under_load_is_not_noticed_but_for_the_time(tmp_path: Path) -> None:
    with Supervised(tmp_path, options=REAL) as run:
        pid = _ready(run)["state-1"]
        with Load(run, clients=4) as load:
            for _ in range(3):
                load.wait_for_more(20)
                os.kill(pid, signal.SIGKILL)
                pid = run.pid_of("state-1", other_than=pid)
                run.wait_for_log(f"serving again pid={pid}")
            load.wait_for_more(20)
            load.end()
        assert load.errors == []
        assert len(run.ask("GET", "/counter/c/view")[1]) == load.answers, "each once"
        assert "web" not in run.log().partition("(2 web")[2]


def test_a_web_process_that_is_killed_takes_only_its_own_connections_along(tmp_path: Path) -> None:
    with Supervised(tmp_path, PIDS, options=REAL) as run, ExitStack() as stack:
        before = _ready(run)
        kept: dict[int, list[HTTPConnection]] = {before["web-1"]: [], before["web-2"]: []}
        while not all(kept.values()):
            connection = HTTPConnection("127.0.0.1", run.port, timeout=WITHIN_S)
            stack.enter_context(closing(connection))
            kept[_pid_behind(connection)].append(connection)
        os.kill(before["web-1"], signal.SIGKILL)
        for connection in kept[before["web-2"]]:
            assert _pid_behind(connection) == before["web-2"]
        for connection in kept[before["web-1"]]:
            with pytest.raises((OSError, HTTPException)):
                _pid_behind(connection)
        run.wait_for_log("web 1 died (SIGKILL), starting again")
        assert run.ask("POST", "/counter/c/add", {"name": "x"}) == (200, 1)


def test_a_live_view_stays_open_while_owners_die_and_are_replaced(tmp_path: Path) -> None:
    watched = APP.replace("seen: list[str] = []", "seen: Annotated[list[str], live] = []")
    watched = "from typing import Annotated\nfrom perdure import live\n" + watched
    with Supervised(tmp_path, watched, options=REAL) as run:
        pid = _ready(run)["state-1"]
        with socket.create_connection(("127.0.0.1", run.port), timeout=WITHIN_S) as stream:
            stream.sendall(b"GET /counter/c/live HTTP/1.1\r\nhost: here\r\n\r\n")
            _read_until(stream, b'"seen":[]')
            os.kill(pid, signal.SIGKILL)
            assert run.ask("POST", "/counter/c/add", {"name": "one"}) == (200, 1)
            _read_until(stream, b'"seen":["one"]')
            run.process.send_signal(signal.SIGHUP)
            until(lambda: run.log().count("serving again") == 2, "the owner's successor")
            assert run.ask("POST", "/counter/c/add", {"name": "two"}) == (200, 2)
            _read_until(stream, b'"seen":["one","two"]')


def _read_until(stream: socket.socket, text: bytes) -> None:
    said = b""
    while text not in said:
        chunk = stream.recv(65_536)
        assert chunk, f"the stream ended after {said!r}"
        said += chunk


def test_an_owner_whose_disk_failed_is_followed_by_one_that_recovers(tmp_path: Path) -> None:
    # the third commit of each process fails
    fault = {"PERDURE_FAULT": "before_fsync:raise:3"}
    with Supervised(tmp_path, environment=fault, options=REAL) as run:
        _ready(run)
        answers = [run.ask("POST", "/counter/c/add", {"name": str(n)})[0] for n in range(4)]
        assert answers == [200, 200, 503, 200]
        assert run.ask("GET", "/counter/c/view") == (200, ["0", "1", "3"])
        assert f"state 1 died (exit code {failures.DISK_FAILED}), starting again" in run.log()


# the mounted app runs where requests are taken
PIDS = APP.replace(
    "app = App(Counter)",
    """
async def pages(scope, receive, send):
    if scope["type"] == "lifespan":
        Path(f"lifespan-{os.getpid()}").touch()
        while True:
            await send({"type": (await receive())["type"] + ".complete"})
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(os.getpid()).encode()})


app = App(Counter, mount=pages)
""",
)


def _pid_behind(connection: HTTPConnection) -> int:
    if connection.sock is None:
        connection.connect()
    connection.auto_open = 0
    connection.request("GET", "/")
    return int(connection.getresponse().read())


def test_the_mounted_app_lives_in_every_web_process_and_in_no_owner(tmp_path: Path) -> None:
    with Supervised(tmp_path, PIDS, options=REAL) as run:
        pids = _ready(run)
        begun = {path.name for path in tmp_path.glob("lifespan-*")}
        assert begun == {f"lifespan-{pids[title]}" for title in ("web-1", "web-2")}


def test_a_roll_out_of_web_processes_and_their_owner_fails_not_one_request(tmp_path: Path) -> None:
    with Supervised(tmp_path, VERSIONED, options=REAL) as run:
        before = _ready(run)
        with Load(run, clients=4) as load:
            load.wait_for_more(20)
            _write_version(run, VERSIONED, 2)
            _roll_out(run, done=1)
            assert run.ask("GET", "/counter/c/version") == (200, 2)
            load.wait_for_more(20)
            load.end()
        assert load.errors == []
        assert len(run.ask("GET", "/counter/c/view")[1]) == load.answers
        assert not set(run.titles()) & set(before.values())


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that PostgreSQL can get to as well, which does not run as root."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def test_with_postgresql_owners_die_and_are_replaced_without_an_error(open_folder: Path) -> None:
    options = ("--web", "1", "--state", "2", "--store", "postgresql:embedded")
    with Supervised(open_folder, VERSIONED, options=options) as run:
        pid = _ready(run)["state-2"]
        assert "(1 web, 2 state; data in ./data, an embedded PostgreSQL)" in run.log()
        with Load(run, clients=4) as load:
            load.wait_for_more(20)
            os.kill(pid, signal.SIGKILL)
            again = run.pid_of("state-2", other_than=pid)
            run.wait_for_log(f"serving again pid={again}")
            load.wait_for_more(20)
            _write_version(run, VERSIONED, 2)
            _roll_out(run, done=1)
            assert run.ask("GET", "/counter/c/version") == (200, 2)
            load.end()
        assert load.errors == []
        assert len(run.ask("GET", "/counter/c/view")[1]) == load.answers
        run.process.terminate()
        assert run.wait() == 0


# -- new code ------------------------------------------------------------------------------------


def test_a_roll_out_under_load_on_sqlite_fails_not_one_request(tmp_path: Path) -> None:
    with Supervised(tmp_path, VERSIONED) as run:
        old = run.wait_ready()
        with Load(run, clients=6) as load:
            for version in (2, 3):
                _write_version(run, VERSIONED, version)
                _roll_out(run, done=version - 1)
                assert run.ask("GET", "/counter/c/version") == (200, version)
            load.end()
        assert load.errors == []
        assert load.answers > 100
        assert len(run.ask("GET", "/counter/c/view")[1]) == load.answers
        assert run.server() != old
        run.process.terminate()
        assert run.wait() == 0


def test_a_roll_out_replaces_several_owners_as_well(database: Database, tmp_path: Path) -> None:
    with Supervised(tmp_path, STAND_IN, options=_several_owners(database.url)) as run:
        before = _ready(run)
        with Load(run, clients=4) as load:
            _write_version(run, STAND_IN, 2)
            _roll_out(run, done=1)
            assert run.ask("GET", "/counter/c/version") == (200, 2)
            load.end()
        assert load.errors == []
        after = {title: pid for pid, title in run.titles().items()}
        assert sorted(after) == sorted(before)
        assert not set(after.values()) & set(before.values())
        assert run.log().count("stopped") == len(before)


def test_readiness_says_yes_throughout_a_roll_out(tmp_path: Path) -> None:
    with Supervised(tmp_path, VERSIONED) as run:
        run.wait_ready()
        run.process.send_signal(signal.SIGHUP)
        statuses = set()
        while REPLACED not in run.log():
            statuses.add(run.ask("GET", "/-/ready")[0])
        assert statuses == {200}


@pytest.mark.parametrize("app", [VERSIONED, STAND_IN], ids=["one process", "several"])
def test_new_code_that_cannot_be_loaded_leaves_the_old_in_place(
    database: Database, tmp_path: Path, app: str
) -> None:
    options = _several_owners(database.url) if app == STAND_IN else ()
    with Supervised(tmp_path, app, options=options) as run:
        _ready(run)
        before = run.titles()
        (tmp_path / "counter.py").write_text("import no_such_thing")
        run.process.send_signal(signal.SIGHUP)
        name = "state 1" if options else "server"
        run.wait_for_log(
            f"the roll-out ended: {name} did not start (exit code {failures.BAD_APP}); "
            "what was not replaced stays"
        )
        assert run.log().count("imports no_such_thing, which is not installed here") == 1
        assert run.ask("GET", "/counter/c/version") == (200, 1)
        assert run.titles() == before
        _write_version(run, app, 2)
        _roll_out(run, done=1)
        assert run.ask("GET", "/counter/c/version") == (200, 2)


def test_signals_during_a_roll_out_mean_one_more(tmp_path: Path) -> None:
    slow = "from pathlib import Path\nimport time\nwhile Path('slow').exists(): time.sleep(0.005)\n"
    with Supervised(tmp_path, slow + VERSIONED) as run:
        run.wait_ready()
        (tmp_path / "slow").touch()
        run.process.send_signal(signal.SIGHUP)
        run.wait_for_log("replacing all processes")
        until(lambda: len(run.titles()) == 2, "the successor")
        for _ in range(3):
            run.process.send_signal(signal.SIGHUP)
        (tmp_path / "slow").unlink()
        until(lambda: run.log().count(REPLACED) == 2, f"two roll-outs:\n{run.log()}")
        run.process.terminate()
        assert run.wait() == 0
        assert run.log().count("replacing all processes") == 2


def test_a_process_that_is_killed_while_its_successor_stands_by_is_succeeded(
    tmp_path: Path,
) -> None:
    slow = "from pathlib import Path\nimport time\nwhile Path('slow').exists(): time.sleep(0.005)\n"
    with Supervised(tmp_path, slow + VERSIONED) as run:
        old = run.wait_ready()
        assert run.ask("POST", "/counter/c/add", {"name": "one"}) == (200, 1)
        (tmp_path / "slow").touch()
        run.process.send_signal(signal.SIGHUP)
        new = run.server(other_than=old)
        os.kill(old, signal.SIGKILL)
        run.wait_for_log("server died (SIGKILL), starting again")
        (tmp_path / "slow").unlink()
        run.wait_for_log(REPLACED)
        assert run.ask("GET", "/counter/c/view") == (200, ["one"])
        assert list(run.titles()) == [new]


def test_a_stop_during_a_roll_out_ends_all(tmp_path: Path) -> None:
    slow = "from pathlib import Path\nimport time\nwhile Path('slow').exists(): time.sleep(0.005)\n"
    with Supervised(tmp_path, slow + VERSIONED) as run:
        run.wait_ready()
        (tmp_path / "slow").touch()
        run.process.send_signal(signal.SIGHUP)
        until(lambda: len(run.titles()) == 2, "the successor")
        pids = list(run.titles())
        run.process.terminate()
        assert run.wait() == 0
        assert not any(is_alive(pid) for pid in pids)


def test_a_terminal_that_is_closed_ends_it(tmp_path: Path) -> None:
    (tmp_path / "counter.py").write_text(APP)
    listen = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-c", "from perdure.cli import main; main()", "run", "counter.py"]
    log = tmp_path / "log.txt"
    output = log.open("wb")
    pid, terminal = pty.fork()
    if pid == 0:  # a session of its own, with this terminal
        os.chdir(tmp_path)
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        os.execv(sys.executable, [*command, "--listen", listen])
    output.close()
    try:
        until(lambda: "Perdure is serving" in log.read_text(), "the greeting")
        os.close(terminal)
        _, status = until(lambda: _waited(pid), "the end")
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    assert os.waitstatus_to_exitcode(status) == 0
    assert "replacing" not in log.read_text()
    assert "stopped" in log.read_text()


def _waited(pid: int) -> "tuple[int, int] | None":
    found = os.waitpid(pid, os.WNOHANG)
    return found if found[0] else None


def test_without_a_supervisor_there_can_only_be_one_process(tmp_path: Path) -> None:
    (tmp_path / "counter.py").write_text(APP)
    command = [sys.executable, "-c", "from perdure.cli import main; main()", "run", "counter.py"]
    done = subprocess.run(
        [*command, "--no-supervisor", "--web", "2"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == failures.USAGE
    assert "several processes need their supervisor" in done.stderr
