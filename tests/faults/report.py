"""Writes docs/reliability.md from what the fault tests noted: `python -m tests.faults.report`."""

import json
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

_HEAD = """# Reliability

What was done to real server processes, and what was found. Written by `scripts/faults`, which
repeats all of it; the ordinary tests run a shorter form. The oracle is outside the server: it knows
which entries were acknowledged, which were refused and which never got an answer, and afterwards
every acknowledged one must be there exactly once, every refused one not at all.

Last run: {date}, revision {revision}, Python {python}, Linux {kernel}, SQLite {sqlite}.

| what was injected | how often | what was found |
|---|---|---|
"""

_FOOT = """
What these tests cannot show: a kernel with bugs, a disk that says it has synced and has not, and
damage that SQLite's own format cannot tell from a crash (in the last transaction of the WAL, to the
mark that ends the one before it, or a WAL that was cut): then the store opens with an earlier
state, whole but not the newest.
"""


def main() -> None:
    """Usage: report RECORD OUTPUT."""
    record, output = Path(sys.argv[1]), Path(sys.argv[2])
    rows = [json.loads(line) for line in record.read_text().splitlines()]
    if not rows:
        raise SystemExit("nothing was noted; did the tests run?")
    planted = [row for row in rows if row["scenario"].startswith("Planted bug: ")]
    lines = [_row(row) for row in rows if row not in planted]
    text = _HEAD.format(
        date=datetime.now(UTC).date().isoformat(),
        revision=_revision(),
        python=platform.python_version(),
        kernel=platform.release().partition("-")[0],
        sqlite=_sqlite_version(),
    )
    text += "".join(lines)
    if planted:
        text += (
            "\n## Planted bugs\n\nEach is one change to the source, and the suite must see it.\n\n"
        )
        text += "| bug | caught by |\n|---|---|\n"
        for row in planted:
            name = row["scenario"].removeprefix("Planted bug: ")
            text += f"| {name} | {row['checked'].removeprefix('caught by ')} |\n"
    output.write_text(text + _FOOT)
    print(f"{len(rows)} scenarios, written to {output}")


def _row(row: dict[str, str]) -> str:
    return f"| {row['scenario']} | {row['injected']} | {row['checked']} |\n"


def _revision() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "unknown"


def _sqlite_version() -> str:
    import apsw

    return apsw.sqlite_lib_version()


if __name__ == "__main__":
    main()
