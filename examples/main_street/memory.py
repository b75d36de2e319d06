"""“What is remembered where”: a look into the store while the shop runs, and a way to kill it.

Both are for showing around. Without `MAIN_STREET_DEMO=1` in the environment the page only counts,
and nobody can kill anything.
"""

import os
import re
import secrets
import time
from heapq import nlargest
from typing import Any

import msgspec
from starlette.requests import Request

from perdure import Actor, App, NotRunningError

DEMO = os.environ.get("MAIN_STREET_DEMO") == "1"
ROWS_SHOWN = 3
ROWS_SCANNED = 1_000  # per class and look; a store with more shows the newest of these
STATE_CHARS_MAX = 700
BOOT_ID, STARTED_AT_S = secrets.token_hex(4), time.time()

_SECRET = re.compile(r'("(?:password_hash|email)":\s*")[^"]+')


class Starts(Actor):
    """How often this shop was started: a number that outlives every process that counts it."""

    count: int = 0
    boot_id: str = ""

    async def note(self, boot_id: str) -> int:
        if boot_id != self.boot_id:
            self.count, self.boot_id = self.count + 1, boot_id
        return self.count


async def process() -> dict[str, Any]:
    """The process that answers right now."""
    starts = await Starts.at("main").note(BOOT_ID)
    return {"pid": os.getpid(), "boot": BOOT_ID, "started_at_s": STARTED_AT_S, "starts": starts}


async def shelves(app: App) -> list[dict[str, Any]]:
    """All actor classes of the app, as they are in the store now; none in a web process, which has
    no store."""
    try:
        stored, awake = await app.store.actor_types(), app.awake()
    except NotRunningError:
        return []
    return [
        {
            "name": actor_type.actor_class.__name__,
            "about": (actor_type.actor_class.__doc__ or "").partition("\n")[0],
            "stored": stored.get(actor_type.name, 0),
            "awake": awake.get(actor_type.name, 0),
            "rows": await _newest(app, actor_type.name) if DEMO else [],
        }
        for actor_type in app.actor_types
    ]


async def _newest(app: App, actor_type: str) -> list[dict[str, Any]]:
    stored = await app.store.scan(actor_type, "", ROWS_SCANNED)
    newest = nlargest(ROWS_SHOWN, stored, key=lambda row: row.updated_at_ms)
    return [
        {
            "key": re.sub("(?<=.).+(?=@)", "…", row.key) if "@" in row.key else row.key[:14],
            "version": row.version,
            "updated_at_s": row.updated_at_ms / 1000,
            "state": msgspec.json.format(_SECRET.sub(r"\1hidden", row.state.decode()), indent=2)[
                :STATE_CHARS_MAX
            ],
        }
        for row in newest
    ]


def may_kill(request: Request, logged_in: bool) -> bool:
    """In a demo: anyone who is logged in, and anyone at this very machine."""
    host = request.client.host if request.client else ""
    return DEMO and (logged_in or host in {"127.0.0.1", "::1"})
