"""The application that is tortured on several machines: lists that tell who appended, and when.

A list shows everything at once: what was lost, what was booked twice, in which order, and whether a
read was stale. Each entry names the process that took it, so that one can see who owned the list.
"""

import os

from perdure import Actor, App, Limits, expose, read

PID = str(os.getpid())


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
    @read
    async def view(self) -> tuple[list[str], list[str], str]:
        """Entries, who took each of them, and who says so."""
        return self.entries, self.owners, PID


app = App(
    Journal,
    limits=Limits(lease_ttl_s=float(os.environ.get("JOURNAL_LEASE_S", "3"))),
)
