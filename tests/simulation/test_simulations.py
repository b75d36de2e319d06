"""Two hundred seeds in every run of the tests; `scripts/simulate` runs as many as are wanted."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from tests.simulation.planted import PLANTED, hunt
from tests.simulation.play import play

ROOT = Path(__file__).parents[2]
SEEDS = {"single": 100, "cluster": 100}
CPU_MAX_S = {"single": 20.0, "cluster": 45.0}  # the seeds that are left then are left out
SEEN_BY_ALL = {  # or the seeds show less than they seem to
    "single": {"kill", "freeze", "database down", "database stalls", "reply lost", "commit failed"},
    "cluster": {
        "kill",
        "power off",
        "freeze",
        "graceful restart",
        "kill gateway",
        "cut from the database",
        "database down",
        "reply lost",
        "frame twice",
        "frame lost",
        "for ever frozen",
    },
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("scenario", SEEDS)
def test_nothing_is_lost_doubled_or_stuck_whatever_happens(scenario: str) -> None:
    faults: Counter[str] = Counter()
    cpu_s, seeds = 0.0, 0
    for seed in range(SEEDS[scenario]):
        outcome = play(seed, scenario)
        again = f"scripts/simulate --seeds 1 --first-seed {seed} --scenario {scenario}"
        assert not outcome.wrong, "\n".join([again, *outcome.wrong])
        faults.update(outcome.faults)
        cpu_s += outcome.cpu_s
        seeds += 1
        if cpu_s > CPU_MAX_S[scenario]:
            break
    assert seeds >= 10
    assert seeds < SEEDS[scenario] or SEEN_BY_ALL[scenario] <= set(faults)


def _checksums(hash_seed: str) -> str:
    script = (
        "from tests.simulation.play import play\n"
        "print([play(seed, name).checksum for name in ('single', 'cluster') for seed in range(2)])"
    )
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    environment["PYTHONPATH"] = f"{ROOT / 'src'}:{ROOT}"
    command = [sys.executable, "-c", script]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100, check=True
    )
    return done.stdout


def test_a_seed_gives_the_same_run_event_for_event_in_every_process() -> None:
    first = _checksums("1")
    assert len(set(first.strip("[]\n").split(", "))) == 4
    assert _checksums("2") == first


@pytest.mark.faults
@pytest.mark.timeout(1_000)
@pytest.mark.parametrize(
    "bug",
    PLANTED if os.environ.get("PERDURE_PLANTED") == "all" else PLANTED[:2],
    ids=lambda bug: bug.name.replace(" ", "-"),
)
def test_a_planted_bug_is_seen(bug) -> None:
    seeds, seen = hunt(bug)
    assert seeds, seen


def test_every_planted_bug_still_fits_the_source() -> None:
    unfit = [
        bug.name
        for bug in PLANTED
        if (ROOT / "src" / "perdure" / bug.file).read_text().count(bug.old) != 1
    ]
    assert not unfit
    assert len(PLANTED) >= 12
