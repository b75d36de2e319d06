"""The command: measure every peer in interleaved rounds, then Perdure's further figures.

Rounds are interleaved (each round runs every peer under every workload) because a shared machine
drifts: only figures of the same run compare, and the median over rounds drops a bad minute.
"""

import argparse
import os
import shlex
import signal
import sys
from functools import partial
from pathlib import Path

from rich.console import Console

from bench import balancers, figures, machine, report
from bench.measure import WORKLOADS, VerificationError, Workload, measure, save
from bench.peers import PEERS
from bench.processes import MissingPeerError
from bench.quiet import Patience

HERE = Path(__file__).parent
ROUND_S, ROUNDS, WARM_UP_S = 8.0, 3, 2.0
PATIENCE_S, PATIENCE_HELP = 600.0, "seconds to wait, in all, for others to leave the cores alone"
QUICK_ROUND_S, QUICK_ROUNDS, QUICK_WARM_UP_S = 3.0, 1, 1.0
BALANCERS = "balancers"  # among the peers: all load balancers, which are measured by themselves

console = Console(stderr=True, highlight=False, soft_wrap=True)


def parse_options(arguments: list[str]) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round of 3 s, smaller stores")
    names = ", ".join([*PEERS, BALANCERS])
    parser.add_argument("--only", help=f"comma-separated peers, out of {names}")
    parser.add_argument("--rounds", type=int, help=f"rounds (default {ROUNDS})")
    parser.add_argument("--round-s", type=float, help=f"seconds a round (default {ROUND_S:.0f})")
    parser.add_argument("--no-figures", action="store_true", help="leave out the further figures")
    parser.add_argument("--data-root", type=Path, help="where stores are laid (default: temporary)")
    parser.add_argument("--patience-s", type=float, default=PATIENCE_S, help=PATIENCE_HELP)
    parser.add_argument("--nice", type=int, default=0, help="of servers and load; negative: root")
    parser.add_argument("--output", type=Path, default=HERE, help="where the report is written")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    options.round_s = options.round_s or (QUICK_ROUND_S if options.quick else ROUND_S)
    options.warm_up_s = QUICK_WARM_UP_S if options.quick else WARM_UP_S
    os.environ["BENCH_NICE"] = str(options.nice)
    options.patience = Patience(options.patience_s)
    options.peers = options.only.split(",") if options.only else [*PEERS, BALANCERS]
    options.balancers = BALANCERS in options.peers
    options.peers = [name for name in options.peers if name != BALANCERS]
    if unknown := set(options.peers) - set(PEERS):
        parser.error(f"unknown peers: {', '.join(sorted(unknown))}")
    return options


def main(arguments: list[str]) -> int:
    """Measure, print, write; return 1 when a check failed or Perdure could not be run."""
    options = parse_options(arguments)
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background job ignores SIGINT
        signal.signal(number, signal.default_int_handler)
    if options.balancers:
        measure_balancers(options, arguments)
        if not options.peers:
            return 0
    results = {
        **described(options, arguments),
        "versions": {},
        "missing": {},
        "wrong": [],  # a check of what is stored, or a run of Perdure
        "failed": [],  # a run of another peer
        "runs": [],
        "figures": {},
    }
    try:
        find_versions(options, results)
        for round_index in range(options.rounds):
            measure_round(options, results, round_index)
        if "perdure" in results["versions"] and not options.no_figures:
            results["figures"] = figures.measure_all(options, console)
    except KeyboardInterrupt:
        console.print("stopped; nothing is written")
        return 130
    options.output.mkdir(parents=True, exist_ok=True)
    save(results, options.output / "results.json")
    report.write(results, options.output / "RESULTS.md")
    report.show(results, Console(width=None if sys.stdout.isatty() else 160))
    return 1 if results["wrong"] or "perdure" in results["missing"] else 0


def described(options: argparse.Namespace, arguments: list[str]) -> dict:
    """Return what a reader needs to know of a run."""
    return {
        "command": shlex.join(["scripts/bench", *arguments]),
        "machine": machine.describe(options.data_root),
        "settings": {
            "rounds": options.rounds,
            "round_s": options.round_s,
            "patience_s": options.patience_s,
        },
    }


def measure_balancers(options: argparse.Namespace, arguments: list[str]) -> None:
    """Measure the load balancers and write their own report."""
    found = described(options, arguments) | balancers.measure_all(options, console)
    options.output.mkdir(parents=True, exist_ok=True)
    balancers.write(found, options.output)


def find_versions(options: argparse.Namespace, results: dict) -> None:
    """Note the version of every peer, or why it is missing."""
    for name in options.peers:
        try:
            results["versions"][name] = PEERS[name].versions()
        except MissingPeerError as error:
            note_missing(results, name, error)


def measure_round(options: argparse.Namespace, results: dict, round_index: int) -> None:
    """Measure every peer once under every workload, beginning with another peer each round."""
    names = [name for name in options.peers if name not in results["missing"]]
    shift = round_index % max(1, len(names))
    for workload in WORKLOADS:
        for name in names[shift:] + names[:shift]:
            if name in results["missing"]:
                continue
            where = f"round {round_index + 1}/{options.rounds}  {workload.title:12}  {name:18}"
            try:
                run = options.patience.quietest(
                    partial(measure_once, options, name, workload, round_index)
                )
            except MissingPeerError as error:
                note_missing(results, name, error)
            except VerificationError as error:
                results["wrong"].append(str(error))
                console.print(f"{where}  [red]WRONG: {error}")
            except (OSError, RuntimeError) as error:
                kind = "wrong" if name == "perdure" else "failed"
                results[kind].append(f"{name}, {workload.title}: {error}")
                console.print(f"{where}  [red]failed: {error}")
            else:
                results["runs"].append(
                    run | {"peer": name, "workload": workload.name, "round": round_index}
                )
                console.print(
                    f"{where}  {run['per_second']:>9,.0f}/s  p99 {run['p99_ms']:>7.2f} ms"
                    f"  failures {run['failures']}  others {run['foreign_busy']:.0%}"
                )


def measure_once(
    options: argparse.Namespace, name: str, workload: Workload, round_index: int
) -> dict:
    """Measure one peer under one workload."""
    return measure(
        PEERS[name],
        workload,
        round_s=options.round_s,
        warm_up_s=options.warm_up_s,
        seed=round_index,
        data_root=options.data_root,
    )


def note_missing(results: dict, name: str, reason: Exception) -> None:
    """Remember a peer as missing and say why; its other rounds are left out."""
    results["missing"][name] = str(reason)
    console.print(f"[yellow]missing: {name}: {reason}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
