"""Many seeds in a row: `scripts/simulate --seeds 10000 --jobs 2`.

A failing seed is told in one line with the command that repeats it; the first one of all comes with
its last events.
"""

import argparse
import gc
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import chain

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tests.simulation.play import SCENARIOS, Outcome, play
from tests.simulation.workloads import BY_DEFAULT

_SHOWN = 5  # of what is wrong, for each seed


def main() -> int:
    """Run, show, and say 1 if any seed failed."""
    asked = _arguments()
    console = Console(stderr=True)
    total: Counter[str] = Counter()
    virtual_s, cpu_s, failed, seeds = 0.0, 0.0, 0, 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    scenarios = [asked.scenario] if asked.scenario else list(SCENARIOS)
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        bar = progress.add_task("simulating", total=asked.seeds * len(scenarios))
        for outcome in _outcomes(asked, scenarios):
            progress.advance(bar)
            seeds += 1
            virtual_s += outcome.virtual_s
            cpu_s += outcome.cpu_s
            total.update(outcome.faults)
            total["operations"] += outcome.operations
            if outcome.wrong:
                failed += 1
                _tell(outcome, asked.workloads, history=asked.history if failed == 1 else 0)
                if asked.until_failure:
                    break
    print(
        f"{seeds} seeds, {failed} failed; {virtual_s:,.0f} s simulated in {cpu_s:,.0f} s of CPU",
        end="",
    )
    print(f" ({virtual_s / cpu_s:,.0f} times real time on one core)")
    print(", ".join(f"{count:,} {what}" for what, count in sorted(total.items())))
    return min(failed, 1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/simulate", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--scenario", choices=sorted(SCENARIOS), help="default: all of them")
    parser.add_argument("--workloads", default=BY_DEFAULT, help="their letters")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--until-failure", action="store_true", help="stop at the first")
    parser.add_argument("--history", type=int, default=40, help="events shown of the first failure")
    return parser.parse_args()


def _outcomes(asked: argparse.Namespace, scenarios: list[str]) -> Iterator[Outcome]:
    seeds = range(asked.first_seed, asked.first_seed + asked.seeds)
    gc.collect()
    gc.freeze()  # each run ends with a collection: it need not look at the modules
    if asked.jobs == 1:
        yield from (play(seed, name, asked.workloads) for name in scenarios for seed in seeds)
        return
    with ProcessPoolExecutor(asked.jobs) as pool:
        works = [
            pool.map(partial(play, scenario=name, letters=asked.workloads), seeds, chunksize=5)
            for name in scenarios
        ]
        try:
            yield from chain.from_iterable(works)
        finally:
            pool.shutdown(cancel_futures=True)


def _tell(outcome: Outcome, letters: str, *, history: int) -> None:
    again = f"scripts/simulate --seeds 1 --first-seed {outcome.seed} --scenario {outcome.scenario}"
    if history:
        print("\n".join(outcome.history.splitlines()[-history:]))
    if letters != BY_DEFAULT:
        again += f" --workloads {letters}"
    for wrong in outcome.wrong[:_SHOWN]:
        print(f"  {wrong}")
    print(f"FAILED seed {outcome.seed}: {again}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
