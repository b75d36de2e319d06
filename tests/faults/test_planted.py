"""The test of the tests: each planted bug makes the test that is meant for it fail."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.faults.lab import note
from tests.faults.planted import PLANTED, Planted
from tests.faults.planted_cluster import PLANTED_IN_CLUSTER
from tests.faults.planted_edge import PLANTED_AT_THE_EDGE

pytestmark = pytest.mark.faults

ROOT = Path(__file__).parents[2]
ALL = PLANTED + PLANTED_IN_CLUSTER + PLANTED_AT_THE_EDGE
CHOSEN = ALL if os.environ.get("PERDURE_PLANTED") == "all" else PLANTED[:3]
# The short forms, and what the long forms are told by; with enough of each that a bug cannot hide.
SHORT = {"PERDURE_KILLS": "12", "PERDURE_DEATHS": "3", "PERDURE_ANSWERS": "900"}
LONG = ("FAILOVERS", "FREEZES", "CUTS", "RESTARTS", "ROUNDS", "HERD", "PAUSES")
TESTS_FAILED = 1


def _copy_with(bug: Planted, directory: Path) -> Path:
    copy = directory / "patched"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "src" / "perdure", copy / "perdure", ignore=ignored)
    file = copy / "perdure" / bug.file
    text = file.read_text()
    assert text.count(bug.old) == 1, f"the source has changed; renew the planted bug: {bug.name}"
    file.write_text(text.replace(bug.old, bug.new))
    return copy


@pytest.mark.parametrize("bug", CHOSEN, ids=lambda bug: bug.name.replace(" ", "-"))
def test_a_planted_bug_is_caught(tmp_path: Path, bug: Planted) -> None:
    copy = _copy_with(bug, tmp_path)
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", bug.test]
    command += ["--timeout=40"]  # a bug may well make its test hang
    environment = {**os.environ, "PYTHONPATH": str(copy), **SHORT}
    for name in ("FAULTS_RECORD", *LONG):
        environment.pop(f"PERDURE_{name}", None)
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == TESTS_FAILED, done.stdout[-2000:] + done.stderr[-2000:]
    assert f"FAILED {bug.test.partition('[')[0]}" in done.stdout, done.stdout[-2000:]
    note(f"Planted bug: {bug.name}", "1 change to the source", f"caught by `{bug.test}`")


def test_every_planted_bug_still_fits_the_source(tmp_path: Path) -> None:
    unfit = [
        bug.name
        for bug in ALL
        if (ROOT / "src" / "perdure" / bug.file).read_text().count(bug.old) != 1
    ]
    assert not unfit
    assert len(PLANTED) >= 12
