"""The application that is tortured on several machines: lists that tell who appended, and when.

A list shows everything at once: what was lost, what was booked twice, in which order, and whether a
read was stale. Each entry names the process that took it, so that one can see who owned the list.
"""

import os
import time

from perdure import Actor, App, Limits, expose, read, relaxed
from perdure.base.clock import SystemClock

PID = str(os.getpid())


def set_clocks(ahead_s: float, rate: float) -> None:
    """Let the clocks of this process be wrong: the wall's, and how fast the monotonic one runs."""
    wall_ns, start_s = time.time_ns, time.monotonic()
    time.time_ns = lambda: wall_ns() + int(ahead_s * 1e9)
    runs = staticmethod(lambda: start_s + (time.monotonic() - start_s) * rate)
    SystemClock.monotonic_s = runs  # type: ignore[assignment]


if "JOURNAL_CLOCK" in os.environ:
    set_clocks(*map(float, os.environ["JOURNAL_CLOCK"].split()))


class Journal(Actor):
    """`entries` in the order in which they came; `owners` has the pid behind each of them."""

    entries: list[str] = []
    owners: list[str] = []

    @expose
    async def append(self, entry: str) -> int:
        self.entries.append(entry)
        self.owners.append(PID)
        return len(self.entries)

    @expose
    @relaxed(loss_max_s=0.05)
    async def append_soon(self, entry: str) -> int:
        self.entries.append(entry)
        self.owners.append(PID)
        return len(self.entries)

    @expose
    async def send(self, to: str, entries: list[str]) -> None:
        """Let another list have these entries, by messages."""
        for entry in entries:
            Journal.at(to).tell.append(entry)

    @expose
    @read
    async def view(self) -> tuple[list[str], list[str], str]:
        """Entries, who took each of them, and who says so."""
        return self.entries, self.owners, PID


app = App(
    Journal,
    limits=Limits(lease_ttl_s=float(os.environ.get("JOURNAL_LEASE_S", "3"))),
)
