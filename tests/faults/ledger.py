"""The application that is tortured: books entries, and can tell how often each was booked."""

import os

from perdure import Actor, App, Limits, expose, read, relaxed


class Ledger(Actor):
    """`entries` counts; `total` must be the sum of what the entries carry."""

    entries: dict[str, int] = {}
    total: int = 0
    padding: str = ""

    @expose
    async def add(self, entry: str, amount: int, padding: str = "") -> int:
        self.entries[entry] = self.entries.get(entry, 0) + 1
        self.total += amount
        self.padding = padding
        return self.total

    @expose
    @relaxed(loss_max_s=0.2)
    async def add_soon(self, entry: str, amount: int) -> int:
        self.entries[entry] = self.entries.get(entry, 0) + 1
        self.total += amount
        return self.total

    @expose
    @read
    async def view(self) -> tuple[dict[str, int], int]:
        return self.entries, self.total


app = App(
    Ledger,
    limits=Limits(
        uncommitted_turns_max=int(os.environ.get("LEDGER_UNCOMMITTED_MAX", "20000")),
        mailbox_depth_max=int(os.environ.get("LEDGER_MAILBOX_MAX", "1000")),
    ),
)
