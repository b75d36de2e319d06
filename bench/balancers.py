"""Load balancers side by side: how much one core passes on, and how much later an answer comes.

    load core: wrk, and nginx as three servers with a constant answer
    server core: the balancer alone

So the balancer is what is measured: nginx answers several times what any of them passes on. Rounds
are interleaved, as everywhere here. Beside the rate stands the CPU time of a request, which other
users of a shared machine disturb least.
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from bench.client import Client
from bench.load import drive
from bench.measure import CONNECTIONS
from bench.peers.base import BIN, program, program_version
from bench.processes import LOAD_CORE, MissingPeerError, Processes, free_port

SERVERS = 3
BODY = b'{"tea":2}'
PATH = "/cart/{key}/add"
ROUND_S, ONE_S, WARM_UP_S = 3.0, 2.0, 1.0
ADDED_P50_US_MAX = 150

SERVING = """
daemon off;
worker_processes 1;
pid nginx.pid;
error_log stderr error;
events { worker_connections 4096; }
http {
    access_log off;
    keepalive_requests 1000000000;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    HERE
}
"""
ANSWERING = """server {
        LISTEN
        location / { default_type application/json; return 200 '{"tea":2}'; }
    }"""
PASSING_ON = """upstream servers { SERVERS keepalive 128; keepalive_requests 1000000000; }
    server {
        listen 127.0.0.1:PORT;
        location / {
            proxy_pass http://servers;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
        }
    }"""
HAPROXY = """
global
  maxconn 4096
defaults
  mode MODE
  timeout connect 2s
  timeout client 60s
  timeout server 60s
frontend requests
  bind 127.0.0.1:PORT
  FORWARD
  default_backend web
backend web
  balance roundrobin
  SERVERS
"""
CADDY = """
{
    admin off
    auto_https off
    persist_config off
}
http://127.0.0.1:PORT {
    reverse_proxy SERVERS
}
"""


@dataclass(frozen=True)
class Balancer:
    """One way to spread requests; `mode` and `engine` say how it is run."""

    name: str
    title: str
    kind: str
    mode: str = "http"
    reference: str = ""  # whose rate its own is compared with

    def start(self, processes: Processes, directory: Path, port: int, servers: list[int]) -> None:
        """Start it; return once it passes requests on."""
        addresses = [f"127.0.0.1:{server}" for server in servers]
        if self.kind == "perdure":
            options = ["--mode", self.mode, "--listen", f"127.0.0.1:{port}", "--health", "/"]
            if self.name == "perdure-haproxy":
                options += ["--engine", "haproxy"]
            command = [BIN / "perdure", "balance", *options, *addresses]
        else:
            command = self._command(directory, port, addresses)
        processes.start(self.name, command, directory=directory)
        processes.wait_until(lambda: is_up(port), self.title)

    def version(self) -> str:
        """Its version; raises MissingPeerError."""
        if self.kind == "perdure":
            return program_version(program("perdure", BIN)).split()[-1]
        if self.kind == "nginx":
            return program_version(program("nginx"), "-v").split("/")[-1]
        if self.kind == "haproxy":
            return program_version(program("haproxy"), "-v").split()[2]
        return program_version(program("caddy", BIN), "version").split()[0]

    def _command(self, directory: Path, port: int, addresses: list[str]) -> list[str | Path]:
        file = directory / self.name
        if self.kind == "caddy":
            text = CADDY.replace("SERVERS", " ".join(addresses))
            file.write_text(text.replace("PORT", str(port)))
            return [program("caddy", BIN), "run", "--adapter", "caddyfile", "--config", file]
        if self.kind == "haproxy":
            named = [f"server s{at} {address}" for at, address in enumerate(addresses)]
            text = HAPROXY.replace("SERVERS", "\n  ".join(named)).replace("MODE", self.mode)
            forward = "option forwardfor" if self.mode == "http" else ""
            file.write_text(text.replace("FORWARD", forward).replace("PORT", str(port)))
            return [program("haproxy"), "-db", "-f", file]
        named = [f"server {address};" for address in addresses]
        here = PASSING_ON.replace("SERVERS", " ".join(named)).replace("PORT", str(port))
        file.write_text(SERVING.replace("HERE", here))
        return [program("nginx"), "-p", f"{directory}/", "-c", file]


BALANCERS = (
    Balancer("caddy", "Caddy", "caddy"),
    Balancer("nginx", "nginx", "nginx"),
    Balancer("haproxy", "HAProxy, HTTP", "haproxy"),
    Balancer("haproxy-tcp", "HAProxy, TCP", "haproxy", "tcp"),
    Balancer("perdure", "Perdure, HTTP", "perdure", reference="caddy"),
    Balancer("perdure-tcp", "Perdure, TCP", "perdure", "tcp", reference="haproxy-tcp"),
    Balancer("perdure-haproxy", "Perdure, HAProxy as its engine", "perdure", reference="haproxy"),
)
LEAST = {"perdure": 1.0, "perdure-tcp": 0.5, "perdure-haproxy": 0.95}
DIRECT = "direct"


def is_up(port: int) -> bool:
    """Say whether an answer comes, and is the right one."""
    with Client(port) as client:
        return client.post(PATH.format(key="probe"), {"sku": "tea", "qty": 1}) == (200, BODY)


def measure_all(options: argparse.Namespace, console: Console) -> dict:
    """Measure each balancer in interleaved rounds; return all that `write` needs."""
    results: dict = {"runs": [], "versions": {}, "missing": {}}
    for balancer in BALANCERS:
        try:
            results["versions"][balancer.name] = balancer.version()
        except MissingPeerError as error:
            results["missing"][balancer.name] = str(error)
    with _servers(options.data_root) as servers:
        for round_index in range(options.rounds):
            options.patience.wait_until_quiet()
            run = {"balancer": DIRECT, "round": round_index}
            results["runs"].append(run | _load(Processes(Path()), servers[0], options, round_index))
            for balancer in BALANCERS:
                if balancer.name not in results["missing"]:
                    _measure(balancer, servers, options, round_index, results, console)
    return results


def _measure(
    balancer: Balancer, servers: list[int], options: argparse.Namespace, round_index: int,
    results: dict, console: Console,
) -> None:  # fmt: skip
    with _directory(balancer.name, options.data_root) as directory:
        processes, port = Processes(directory), free_port()
        try:
            balancer.start(processes, directory, port, servers)
            found = _load(processes, port, options, round_index)
        except (MissingPeerError, OSError, RuntimeError) as error:
            results["missing"][balancer.name] = str(error)
            console.print(f"[red]{balancer.title}: {error}")
            return
        finally:
            processes.stop()
    results["runs"].append({"balancer": balancer.name, "round": round_index} | found)
    console.print(
        f"round {round_index + 1}  {balancer.title:32}  {found['per_second']:>9,.0f}/s  "
        f"{found['cpu_us']:5.1f} µs CPU  p50 {found['one_p50_ms'] * 1000:5.0f} µs for one"
    )


def _load(processes: Processes, port: int, options: argparse.Namespace, seed: int) -> dict:
    load = {"port": port, "path": PATH, "keys_count": 100, "seed": seed}
    scale = options.round_s / 8.0
    drive(processes, **load, connections=CONNECTIONS, duration_s=WARM_UP_S)
    before = processes.cpu_ticks()
    many = drive(processes, **load, connections=CONNECTIONS, duration_s=ROUND_S * scale)
    ticks = processes.cpu_ticks() - before
    one = drive(processes, **load, connections=1, duration_s=ONE_S * scale)
    cpu_s = ticks / os.sysconf("SC_CLK_TCK")
    return {
        "per_second": many["per_second"],
        "p50_ms": many["p50_ms"],
        "p99_ms": many["p99_ms"],
        "failures": many["failures"] + one["failures"],
        "cpu_us": cpu_s / max(1, many["acknowledged"]) * 1e6,
        "one_p50_ms": one["p50_ms"],
        "server_core_busy": many["server_core_busy"],
        "load_core_busy": many["load_core_busy"],
    }


@contextmanager
def _servers(data_root: Path | None) -> Iterator[list[int]]:
    """Run the servers on the load core; yield their ports."""
    with _directory("servers", data_root) as directory:
        ports = [free_port() for _ in range(SERVERS)]
        listen = " ".join(f"listen 127.0.0.1:{port};" for port in ports)
        file = directory / "nginx.conf"
        file.write_text(SERVING.replace("HERE", ANSWERING.replace("LISTEN", listen)))
        processes = Processes(directory)
        try:
            command = [program("nginx"), "-p", f"{directory}/", "-c", file]
            processes.start("servers", command, core=LOAD_CORE, directory=directory)
            processes.wait_until(lambda: all(map(is_up, ports)), "nginx")
            yield ports
        finally:
            processes.stop()


@contextmanager
def _directory(name: str, data_root: Path | None) -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix=f"bench-{name}-", dir=data_root))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


# -- the report ------------------------------------------------------------------------------------


HEADINGS = (
    "balancer", "requests/s", "spread", "× reference", "CPU a request", "p50, p99 of 64",
    "added p50, one connection", "added p50, 64", "failures", "its core", "load core",
)  # fmt: skip
NOTES = """“Reference” is Caddy for Perdure's HTTP mode, HAProxy's TCP mode for its TCP mode, and
HAProxy configured by hand, which only adds `X-Forwarded-For`, for `--engine haproxy`. “Added” is
the median of the answers less that of nginx asked directly. With 64 connections, of which each
sends its next request at once, every server is as slow as 64 over its rate: there the added time
says the same as the rate. Where the load core is near 100 %, the balancer could do more than shown;
the CPU time of a request says how much. Perdure checks each server's health twice a second."""


def write(results: dict, directory: Path) -> None:
    """Write BALANCERS.md, and all figures as JSON."""
    text = json.dumps(results, indent=1, ensure_ascii=False)
    (directory / "balancers.json").write_text(text + "\n")
    (directory / "BALANCERS.md").write_text(_report(results))


def _report(results: dict) -> str:
    found = {name: _medians(results, name) for name in (DIRECT, *(one.name for one in BALANCERS))}
    rows = [_row(one, found) for one in BALANCERS if found[one.name]]
    versions = [f"{name} {version}" for name, version in results["versions"].items()]
    parts = [
        "# Balancers",
        _head(results["machine"], results["settings"], results["command"]),
        "\n".join(["| target | measured | |", "|---|---|---|", *_targets(found)]),
        "\n".join([f"| {' | '.join(HEADINGS)} |", "|---" * len(HEADINGS) + "|", *rows]),
        NOTES,
        f"Versions: {', '.join(versions)}.",
        *[f"Missing: {name}: {why}" for name, why in results["missing"].items()],
    ]
    return "\n\n".join(parts) + "\n"


def _head(machine: dict, settings: dict, command: str) -> str:
    return (
        f"Measured {machine['date']} by `{command}`: {settings['rounds']} interleaved round(s), "
        f"{CONNECTIONS} connections and then one, on one machine ({machine['cpu']}). The balancer "
        f"had core {machine['server_core']} to itself; wrk and nginx as {SERVERS} servers, which "
        f"answer `{BODY.decode()}`, shared core {machine['load_core']}. Ratios within one run are "
        "what to compare."
    )


def _medians(results: dict, name: str) -> dict:
    runs = [run for run in results["runs"] if run["balancer"] == name]
    if not runs:
        return {}
    figures = {key: statistics.median(run[key] for run in runs) for key in runs[0] if key not in
               ("balancer", "round", "failures")}  # fmt: skip
    rates = [run["per_second"] for run in runs]
    failures = sum(run["failures"] for run in runs)
    return figures | {"spread": (min(rates), max(rates)), "failures": failures}


def _targets(found: dict) -> list[str]:
    lines = []
    for balancer in BALANCERS:
        own, other = found[balancer.name], found.get(balancer.reference)
        if not own or not other:
            continue
        ratio, least = own["per_second"] / other["per_second"], LEAST[balancer.name]
        title = next(one.title for one in BALANCERS if one.name == balancer.reference)
        met = "met" if ratio >= least else "MISSED"
        lines.append(f"| {balancer.title}: at least {least:g} × {title} | {ratio:.2f} × | {met} |")
    if found["perdure"] and found[DIRECT]:
        added_us = _added_us(found, "perdure", "one_p50_ms")
        met = "met" if added_us < ADDED_P50_US_MAX else "MISSED"
        text = f"Perdure, HTTP: added p50 under {ADDED_P50_US_MAX} µs, one connection"
        lines.append(f"| {text} | {added_us:.0f} µs | {met} |")
    return lines


def _row(balancer: Balancer, found: dict) -> str:
    own, other = found[balancer.name], found.get(balancer.reference)
    ratio = f"{own['per_second'] / other['per_second']:.2f}" if other else "–"
    low, high = own["spread"]
    return (
        f"| {balancer.title} | {own['per_second']:,.0f} | {low:,.0f}–{high:,.0f} | {ratio} "
        f"| {own['cpu_us']:.1f} µs | {own['p50_ms']:.2f}, {own['p99_ms']:.2f} ms "
        f"| {_added_us(found, balancer.name, 'one_p50_ms'):.0f} µs "
        f"| {_added_us(found, balancer.name, 'p50_ms'):.0f} µs | {own['failures']} "
        f"| {own['server_core_busy']:.0%} | {own['load_core_busy']:.0%} |"
    )


def _added_us(found: dict, name: str, key: str) -> float:
    return (found[name][key] - found[DIRECT][key]) * 1000
