"""Waiting for a quiet machine, because two shared cores measure their other users as well.

A run is chosen or repeated by what others took of the cores, never by its own result. All waits
and repeats together last no longer than the patience the bench was given.
"""

import time
from collections.abc import Callable

from bench.load import busy_and_total
from bench.processes import LOAD_CORE, SERVER_CORE

FOREIGN_SHARE_MAX = 0.15
ATTEMPTS_MAX = 3
LOOK_S = 0.5
WAIT_S_MAX = 30.0


class Patience:
    """How much longer the bench may wait for others to be done."""

    def __init__(self, patience_s: float) -> None:
        self._left_s = patience_s

    def wait_until_quiet(self) -> None:
        """Return when the two cores are idle enough, or when waiting has lasted long enough."""
        start = time.monotonic()
        limit_s = min(WAIT_S_MAX, self._left_s)
        while time.monotonic() < start + limit_s and _busy_share() > FOREIGN_SHARE_MAX:
            pass
        self._left_s -= time.monotonic() - start

    def quietest(self, run: Callable[[], dict]) -> dict:
        """Run until others took little of the cores, within limits; return the quietest run."""
        self.wait_until_quiet()
        attempts = [run()]
        while len(attempts) < ATTEMPTS_MAX and self._left_s > 0:
            if attempts[-1]["foreign_busy"] <= FOREIGN_SHARE_MAX:
                break
            self.wait_until_quiet()
            start = time.monotonic()
            attempts.append(run())
            self._left_s -= time.monotonic() - start
        best = min(attempts, key=lambda attempt: attempt["foreign_busy"])
        return best | {"attempts": len(attempts)}


def _busy_share() -> float:
    before = busy_and_total()
    time.sleep(LOOK_S)
    after = busy_and_total()
    busy = total = 0
    for core in (f"cpu{SERVER_CORE}", f"cpu{LOAD_CORE}"):
        busy += after[core][0] - before[core][0]
        total += after[core][1] - before[core][1]
    return busy / max(1, total)
