"""Bugs on purpose, for the simulator to find: each is one small change to the source.

`python -m tests.simulation.planted` plants them one by one, and prints how many seeds it took to
see each. `--only TEXT` chooses those whose name holds it.

Seeds that it took when they were last hunted, of the scenario that each names:

    the fence is not asked                                              23
    answers leave before the commit                                      3
    a call that is sent again is run again                               1
    what calls were answered is not committed                            1
    reads do not ask for the lease                                      20
    the shard map is never put right                                     1
    a message is applied without being taken                             2
    a shard is handed over before its turns have ended                   6
    a shard that is closing takes calls                                  2
    a shard that is being given away takes calls of turns that run      41
    a transaction does not rest on those who lent                        2
    a watch stays with the former owner                                 12
    an actor that is used again while it expires goes                   14
    expired actors are told to go, and stay                              4
    lost shards keep their activations                                  25
    a timer is fired by whoever has it in its heap                      21
    timers of gained shards are not looked for                           4
    an unknown outcome is guessed to be a failure                       25
    answers to idempotency keys are not committed                        1

Not seen in the 60 seeds, or 25, that they were given: the two of the lease's length, "who begins to
follow a live view may get what is no longer so", "frames that come twice are taken twice" and "who
has lost a commit with the database goes on". Those that are not named here were not
hunted again. "A borrowed actor is let go before the borrower has committed" was not seen in a
hundred: versions of states, and the rule that such a write yields, catch most of it.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SEEDS_MAX = 2_000


@dataclass(frozen=True)
class Planted:
    """Replace `old`, which must occur once in `file`, by `new`; then some seed must fail."""

    name: str
    file: str
    old: str
    new: str
    scenario: str = "cluster"


_ACTIVATION, _COMMITTER, _GATE = "actor/activation.py", "runtime/committer.py", "actor/gate.py"
_NODE, _TERRITORY = "runtime/cluster_node.py", "runtime/territory.py"
_STANDING, _OUTBOX, _RECEPTION = "cluster/standing.py", "runtime/outbox.py", "runtime/reception.py"

PLANTED = (
    Planted(
        "the fence is not asked",
        "store/memory_registry.py",
        "        return incarnation not in self._members",
        "        return False",
    ),
    Planted(
        "answers leave before the commit",
        _COMMITTER,
        "            committed = await self._put(commit)",
        "            commit.open()\n            committed = await self._put(commit)",
    ),
    Planted(
        "a call that is sent again is run again",
        _RECEPTION,
        "        if call.is_again and not method.read and call.request_id is None:",
        "        if False:",
    ),
    Planted(
        "what calls were answered is not committed",
        _GATE,
        "        answers = answers_of(self.origins, groups) if self.origins else ()",
        "        answers = ()",
    ),
    Planted(
        "the lease counts from the answer to its renewal",
        _STANDING,
        "            self.lease_until_s = asked.sent_at_s + self._ttl_s * (1 - _MARGIN)",
        "            self.lease_until_s = self._clock.monotonic_s() + self._ttl_s * (1 - _MARGIN)",
    ),
    Planted("the lease has no margin", _STANDING, "\n_MARGIN = 0.1", "\n_MARGIN = 0.0"),
    Planted(
        "reads do not ask for the lease",
        _ACTIVATION,
        "        if lease_until_s != math.inf and self._host.now_s() >= lease_until_s:",
        "        if False:",
    ),
    Planted(
        "the shard map is never put right",
        "cluster/shard_map.py",
        "        if view.version < self.version:",
        "        if self.members:",
    ),
    Planted(
        "a message is applied without being taken",
        _ACTIVATION,
        "            commit.taken.append((self, effects.taken))",
        "            pass",
    ),
    Planted(
        "a shard is handed over before its turns have ended",
        _NODE,
        "    return activation.is_idle\n",
        "    return True\n",
    ),
    Planted(
        "a shard that is closing takes calls",
        _TERRITORY,
        "        return state == _OPEN or (state == _CLOSING and turn.is_inner)",
        "        return state != _ELSEWHERE",
    ),
    Planted(
        "a shard that is being given away takes calls of turns that run",
        _NODE,
        "        self._territory.seal(closing - busy)\n",
        "",
    ),
    Planted(
        "a borrowed actor is let go before the borrower has committed",
        "runtime/loans.py",
        "            self._lender.spawn(self._decide(loan))",
        "            loan.release()",
    ),
    Planted(
        "a transaction does not rest on those who lent",
        "actor/gate.py",
        "        standing = [Standing(owner, groups[one]) for one, owner in owners if owner]",
        "        standing: list[Standing] = []",
    ),
    Planted(
        "a watch stays with the former owner",
        "runtime/watches.py",
        "(actor_type.name, key))\n        watched.watcher.changed()",
        "(actor_type.name, key))",
    ),
    Planted(
        "who begins to follow a live view may get what is no longer so",
        "runtime/live.py",
        "        if not self._hub.hears_at_once:",
        "        if False:",
    ),
    Planted(
        "an actor that is used again while it expires goes",
        "runtime/expiry.py",
        "        if activation.commit is not None or activation.updated_at_ms >= self.before_ms:",
        "        if False:",
        scenario="single",
    ),
    Planted(
        "expired actors are told to go, and stay",
        "runtime/expiry.py",
        "        effects_of(self).forget = True",
        "        effects_of(self)",
    ),
    Planted(
        "who has lost a commit with the database goes on",
        _STANDING,
        "        if view.version < asked.version:",
        "        if False:",
        scenario="failover",
    ),
    Planted(
        "lost shards keep their activations",
        _NODE,
        "        self._catalog.throw_away(self._catalog.within(shards), error)",
        "        pass",
    ),
    Planted(
        "a timer is fired by whoever has it in its heap",
        "runtime/scheduler.py",
        "        if current is None or current.due_at_ms != timer.due_at_ms:",
        "        if False:",
    ),
    Planted(
        "timers of gained shards are not looked for",
        _NODE,
        "        self._outbox.gained()\n        self._scheduler.moved()",
        "        self._outbox.gained()",
    ),
    Planted(
        "an unknown outcome is guessed to be a failure",
        _COMMITTER,
        '            log.error("commit failed", extra={"error": str(error), "kind": error.kind})',
        "            error = StoreError(str(error))",
    ),
    Planted(
        "answers to idempotency keys are not committed",
        _ACTIVATION,
        "        commit.records.append((self, record))",
        "        pass",
    ),
    Planted(
        "frames that come twice are taken twice",
        "cluster/framing.py",
        "            if sequence == self._sequence:",
        "            if sequence <= self._sequence:",
    ),
    Planted(
        "messages that come with gained shards may wait behind new ones",
        _OUTBOX,
        "        self._knows_all_lines = False\n        for line",
        "        for line",
    ),
    Planted(
        "who is fenced keeps its actors",
        _STANDING,
        "        self.owner.lose_all(error)",
        "        pass",
    ),
    Planted(
        "a member is taken out although it lives",
        "store/memory_registry.py",
        "        if not is_over and (not seen_dead or self._is_connected(victim)):",
        "        if False:",
    ),
)


def plant(bug: Planted, source: Path, directory: Path) -> Path:
    """A copy of the package with that bug; returns where to import it from."""
    copy = directory / "planted"
    shutil.copytree(
        source / "perdure", copy / "perdure", ignore=shutil.ignore_patterns("__pycache__")
    )
    file = copy / "perdure" / bug.file
    text = file.read_text()
    assert text.count(bug.old) == 1, f"the source has changed; renew the planted bug: {bug.name}"
    file.write_text(text.replace(bug.old, bug.new))
    return copy


def hunt(bug: Planted, *, source: Path = ROOT / "src", seeds: int = SEEDS_MAX) -> tuple[int, str]:
    """How many seeds it takes to see the bug, 0 if it is not seen; and what was seen."""
    with tempfile.TemporaryDirectory() as directory:
        command = [
            sys.executable,
            "-m",
            "tests.simulation.run",
            "--until-failure",
            "--history",
            "0",
        ]
        command += ["--seeds", str(seeds), "--scenario", bug.scenario]
        path = f"{plant(bug, source, Path(directory))}:{ROOT}"
        environment = {**os.environ, "PYTHONPATH": path}
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
    found = re.search(r"FAILED seed (\d+)", done.stdout)
    if found is None:
        return 0, done.stdout[-300:] + done.stderr[-300:]
    return int(found[1]) + 1, done.stdout.strip().splitlines()[0]


def main() -> int:
    """Hunt all of them, and print what it took."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.planted", description=__doc__)
    parser.add_argument("--source", type=Path, default=ROOT / "src", help="of the package")
    parser.add_argument("--only", default="", help="part of a name")
    parser.add_argument("--jobs", type=int, default=1)
    asked = parser.parse_args()
    chosen = [bug for bug in PLANTED if asked.only in bug.name]
    escaped = 0
    with ThreadPoolExecutor(asked.jobs) as pool:
        hunts = pool.map(lambda bug: hunt(bug, source=asked.source), chosen)
        for bug, (seeds, seen) in zip(chosen, hunts, strict=True):
            escaped += seeds == 0
            told = f"seen after {seeds} seeds" if seeds else f"NOT SEEN in {SEEDS_MAX} seeds"
            print(f"{bug.name}: {told}: {seen.strip()[:110]}", flush=True)
    return min(escaped, 1)


if __name__ == "__main__":
    sys.exit(main())
