"""Clients that are slow on purpose (Debian's slowhttptest), 400 at a time, while others are served.

Said of each: the others get every answer, within a second; the server's memory stays bounded; and
it gets rid of the slow ones by itself, when their time is over.
"""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPConnection
from threading import Event, Thread
from typing import Self

import pytest
from tests.faults.lab import note
from tests.faults.supervised import Supervised, until

PROGRAM = shutil.which("slowhttptest")

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(PROGRAM is None, reason="apt-get install slowhttptest"),
]

CLIENTS = 400
RATE = 400  # new ones in a second
LASTS_S = 20
ANSWER_S_MAX = 1.0
GROWTH_BYTES_MAX = 160 << 20  # 32 MB in answers, and a quarter of a megabyte for each of them
APP = """
from perdure import Actor, App, Limits, expose, read


class Counter(Actor):
    count: int = 0

    @expose
    async def add(self, text: str = "") -> int:
        self.count += 1
        return self.count

    @expose
    @read
    async def long(self) -> str:
        return "x" * 300_000


limits = Limits(header_timeout_s=2, body_timeout_s=3, write_timeout_s=4, idle_timeout_s=4,
                unread_bytes_max=32 << 20)
app = App(Counter, static={"/files": "public"}, limits=limits)
"""
ATTACKS = {
    "slow headers": "-H -i 1 /files/big.bin",
    "slow bodies of calls": "-B -i 1 -s 8192 /counter/a/add",
    "slow reading of a file": "-X -w 10 -y 20 -n 1 -z 32 -k 3 /files/big.bin",
    "slow reading of long answers": "-X -w 10 -y 20 -n 1 -z 32 -k 3 /counter/a/long",
    "many ranges": "-R -a 5 -b 2000 -t GET /files/small.bin",
}


class Others:
    """Somebody else: adds to a counter all the time, now and then on a new connection."""

    def __init__(self, port: int, key: str) -> None:
        self._port = port
        self._path = f"/counter/{key}/add"
        self._is_over = Event()
        self._thread = Thread(target=self._run)
        self.answers_s: list[float] = []
        self.failures: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_over.is_set():
            connection = HTTPConnection("127.0.0.1", self._port, timeout=10)
            for _ in range(10):
                began_s = time.monotonic()
                try:
                    connection.request("POST", self._path, "{}")
                    reply = connection.getresponse()
                    assert json.loads(reply.read()) == len(self.answers_s) + 1
                except Exception as error:
                    self.failures.append(repr(error))
                    break
                self.answers_s.append(time.monotonic() - began_s)
                if self._is_over.wait(0.005):
                    break
            connection.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervised]:
    folder = tmp_path_factory.mktemp("slow")
    (folder / "public").mkdir()
    (folder / "public" / "big.bin").write_bytes(bytes(range(256)) * 40_000)
    (folder / "public" / "small.bin").write_bytes(bytes(range(256)) * 1_000)
    with Supervised(folder, APP) as server:
        server.wait_ready()
        server.ask("GET", "/counter/a/long")
        yield server


def metric(server: Supervised, name: str) -> float:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request("GET", "/-/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    found = re.search(rf"^{name} (.+)$", text, re.MULTILINE)
    assert found, text
    return float(found[1])


@pytest.mark.parametrize("attack", ATTACKS)
def test_slow_clients_are_got_rid_of_and_nobody_else_notices(
    server: Supervised, attack: str
) -> None:
    *options, path = ATTACKS[attack].split()
    command = [str(PROGRAM), *options, "-u", f"http://127.0.0.1:{server.port}{path}"]
    command += ["-c", str(CLIENTS), "-r", str(RATE), "-l", str(LASTS_S), "-p", "3", "-v", "1"]
    before_bytes = metric(server, "process_resident_memory_bytes")
    accepted = metric(server, "perdure_http_connections_accepted_total")
    peak_bytes, is_rid_s = before_bytes, 0.0
    with Others(server.port, attack.replace(" ", "-")) as others:
        began_s = time.monotonic()
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as attacker:

            def came() -> float:
                return metric(server, "perdure_http_connections_accepted_total") - accepted

            until(lambda: came() > CLIENTS, "all of them to come")

            def is_rid() -> bool:
                nonlocal peak_bytes
                now_bytes = metric(server, "process_resident_memory_bytes")
                peak_bytes = max(peak_bytes, now_bytes)
                return metric(server, "perdure_http_connections") < 10

            until(is_rid, "the server to get rid of them", LASTS_S - 5)
            is_rid_s = time.monotonic() - began_s
            with suppress(ProcessLookupError):
                attacker.kill()
    assert others.failures == []
    assert len(others.answers_s) > 50
    slowest_s = max(others.answers_s)
    assert slowest_s < ANSWER_S_MAX, f"{slowest_s:.2f} s"
    grown_bytes = peak_bytes - before_bytes
    assert grown_bytes < GROWTH_BYTES_MAX, f"{grown_bytes / 1e6:.0f} MB"
    note(
        f"slowhttptest: {attack}",
        f"{CLIENTS} connections",
        f"gone after {is_rid_s:.1f} s; meanwhile {len(others.answers_s)} adds of another client, "
        f"the slowest {slowest_s * 1000:.0f} ms; {grown_bytes / 1e6:.0f} MB more memory",
    )
