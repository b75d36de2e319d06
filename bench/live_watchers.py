"""Measure live views: many watchers of one actor, and how soon the last one hears of a change.

    python -m bench.live_watchers [--watchers 10000] [--changes 10]

One server process (`perdure run`, SQLite) and this one, which watches over raw sockets on the
loopback interface and makes a change each second. A change is timed from the moment its call is
sent to the moment its last byte is with every watcher; p99 is over all watchers and changes.
"""

import argparse
import asyncio
import contextlib
import os
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import uvloop

APP = """
from perdure import Actor, App, Limits, expose, live

class Board(Actor):
    moves: int = 0
    lines: dict[str, int] = {}

    @expose
    async def move(self) -> int:
        self.moves += 1
        self.lines["item-7"] = self.moves
        return self.moves

    @expose
    @live
    async def view(self) -> dict[str, int]:
        return {f"item-{n}": n for n in range(20)} | self.lines

app = App(Board, limits=Limits(connections_max=100_000, live_subscribers_max=100_000))
"""
CONNECTING = 200  # connections that are made at the same time
ROUND_S = 1.0
WAIT_S = 60.0


class Watcher(asyncio.Protocol):
    """One client of the event stream; counts the events it got."""

    def __init__(self, bench: "Bench") -> None:
        self.bench = bench
        self.tail = b""

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        transport.write(b"GET /board/home/view/live HTTP/1.1\r\nhost: bench\r\n\r\n")

    def data_received(self, data: bytes) -> None:
        text = self.tail + data
        *whole, self.tail = text.split(b"\n\n")
        events = sum(1 for event in whole if b"\ndata: " in event)
        if events:
            self.bench.heard(events)

    def connection_lost(self, error: Exception | None) -> None:
        self.bench.lost += 1


class Bench:
    """All watchers and what they heard."""

    def __init__(self, watchers: int) -> None:
        self.watchers = watchers
        self.lost = 0
        self.events = 0
        self.sent_s = 0.0
        self.latencies_s: list[float] = []
        self.complete = asyncio.Event()

    def heard(self, events: int) -> None:
        self.events += events
        self.latencies_s.append(time.perf_counter() - self.sent_s)
        if self.events >= self.watchers:
            self.complete.set()

    def expect(self) -> None:
        self.events = 0
        self.complete.clear()

    async def connect(self, port: int) -> None:
        """Connect all watchers, and wait for the snapshot of each."""
        loop = asyncio.get_running_loop()
        for start in range(0, self.watchers, CONNECTING):
            count = min(CONNECTING, self.watchers - start)
            # one address has too few ports for very many
            local = (f"127.0.0.{1 + start // 20_000}", 0)
            await asyncio.gather(
                *(
                    loop.create_connection(
                        lambda: Watcher(self), "127.0.0.1", port, local_addr=local
                    )
                    for _ in range(count)
                )
            )
        await asyncio.wait_for(self.complete.wait(), WAIT_S)


async def measure(port: int, watchers: int, changes: int) -> None:
    bench = Bench(watchers)
    began_s = time.perf_counter()
    await bench.connect(port)
    connected_s = time.perf_counter() - began_s
    bench.latencies_s.clear()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    last_bytes_s, acknowledged_s = [], []
    for _ in range(changes):
        await asyncio.sleep(ROUND_S)
        bench.expect()
        bench.sent_s = time.perf_counter()
        writer.write(b"POST /board/home/move HTTP/1.1\r\nhost: bench\r\ncontent-length: 0\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        acknowledged_s.append(time.perf_counter() - bench.sent_s)
        await asyncio.wait_for(bench.complete.wait(), WAIT_S)
        last_bytes_s.append(time.perf_counter() - bench.sent_s)
    spread = statistics.quantiles(bench.latencies_s, n=100)
    print(f"watchers                {watchers:>8} (lost {bench.lost})")
    print(f"all connected in        {connected_s:>8.2f} s")
    print(f"events heard            {len(bench.latencies_s):>8}")
    print(f"change to watcher, p50  {spread[49] * 1000:>8.1f} ms")
    print(f"change to watcher, p99  {spread[98] * 1000:>8.1f} ms")
    print(f"change to last watcher  {statistics.median(last_bytes_s) * 1000:>8.1f} ms (median)")
    print(f"change to last watcher  {max(last_bytes_s) * 1000:>8.1f} ms (worst)")
    print(f"change to its answer    {max(acknowledged_s) * 1000:>8.1f} ms (worst)")


@contextlib.contextmanager
def serving():
    """The server, on a free port."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "app.py").write_text(APP)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [sys.executable, "-c", "from perdure.cli import main; main()", "run", "app.py"]
        command += ["--listen", f"127.0.0.1:{port}", "--no-supervisor"]
        server = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
        try:
            _wait_for(port)
            yield port, server.pid
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(WAIT_S)


def _wait_for(port: int) -> None:
    end_s = time.monotonic() + WAIT_S
    while time.monotonic() < end_s:
        # not just a connection: the socket listens before the app is loaded
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=1).close()
            return
        time.sleep(0.05)
    raise SystemExit("the server does not answer")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--watchers", type=int, default=10_000)
    parser.add_argument("--changes", type=int, default=10)
    options = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # the server inherits it
    if 0 < hard < options.watchers + 100:
        raise SystemExit(f"ulimit -n is at most {hard}; too few for {options.watchers} watchers")
    with serving() as (port, pid):
        uvloop.run(measure(port, options.watchers, options.changes))
        memory = Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2].split()[0]
        print(f"memory of the server    {int(memory) / 1024:>8.0f} MB ({os.cpu_count()} cores)")


if __name__ == "__main__":
    main()
