"""Writes `docs/reliability-http.md`: the raw cases, against our server and others in one run."""

import asyncio
import sys
from pathlib import Path

from tests.hostile import fields, framing, heads
from tests.hostile.cases import Case
from tests.hostile.peers import served_by, versions
from tests.hostile.talk import Outcome, outcomes

CASES: list[Case] = [*heads.CASES, *fields.CASES, *framing.CASES]
SERVERS = ("Perdure", "nginx", "uvicorn (httptools)", "uvicorn (h11)", "Granian", "Hypercorn")

_INTRODUCTION = """\
# Malformed and unusual requests, beside other servers

Written by `scripts/hostile_table`; the cases are in `tests/hostile/`, each with the section of
RFC 9110 or RFC 9112 that it rests on, and run against Perdure in the tests. Every server has its
own defaults and the same application, which reads the whole body. nginx passes what it accepts on
to itself. The tests send the same cases to an actor's methods, where Perdure reads bodies by
itself, and demand the same.

- *must be refused*: an error or the end of the connection, and no good answer to what is smuggled
  behind it. Not counted as refused: waiting for more.
- *must be accepted*: valid, if unusual. All answers are there, each ends where it says, and the
  connection then is at the right place for a good request.
- *left open*: the RFC lets a server do either. Nothing is demanded; the answers are listed.
"""


def document(found: dict[str, list[Outcome]], told_versions: dict[str, str]) -> str:
    """The whole table as Markdown."""
    said = ", ".join(f"{name} {version}" for name, version in told_versions.items())
    lines = [_INTRODUCTION, f"Versions: {said}.", "", "## Counts", ""]
    lines += ["| | must be refused | must be accepted |", "|---|---|---|"]
    for name, of_server in found.items():
        lines.append(f"| {name} | {_share(of_server, 'refuse')} | {_share(of_server, 'accept')} |")
    for title, verdict in [
        ("Must be refused", "refuse"),
        ("Must be accepted", "accept"),
        ("Left open", "either"),
    ]:
        lines += ["", f"## {title}", ""]
        if verdict != "either":
            lines += ["Only cases that some server gets wrong; wrong ones in bold.", ""]
        lines += ["| case | section | " + " | ".join(found) + " |", "|---" * (len(found) + 2) + "|"]
        for index, case in enumerate(CASES):
            row = [of_server[index] for of_server in found.values()]
            if case.verdict == verdict and (
                verdict == "either" or not all(o.is_right for o in row)
            ):
                cells = [str(o) if o.is_right else f"**{o}**" for o in row]
                lines.append(f"| {case.id} | {case.section} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _share(of_server: list[Outcome], verdict: str) -> str:
    right = [outcome.is_right for outcome in of_server if outcome.case.verdict == verdict]
    return f"{sum(right)} of {len(right)}"


def main() -> None:
    """Run all servers, one after the other; the argument is the Python that has the peers."""
    python = Path(sys.argv[1])
    found = {}
    for name in SERVERS:
        with served_by(name, python) as port:
            found[name] = asyncio.run(outcomes(port, CASES))
        print(name, _share(found[name], "refuse"), _share(found[name], "accept"), file=sys.stderr)
    print(document(found, versions(python)), end="")


if __name__ == "__main__":
    main()
