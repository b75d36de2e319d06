"""The fenced blocks of every document, in order."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

_FENCE = re.compile(r"^```(?P<language>\S*)[ ]*(?:title=\"(?P<title>[^\"]+)\")?[ ]*$")
_NOT_RUN = re.compile(r"^<!-- not run: (?P<reason>.+) -->$")


@dataclass(frozen=True)
class Block:
    """One fenced block. `reason` says why it is not run; None: it is."""

    document: Path
    line: int
    language: str
    title: str | None
    text: str
    reason: str | None

    def __str__(self) -> str:
        return f"{name_of(self.document)}:{self.line}"


def name_of(document: Path) -> str:
    """How a document is named in a test: its path in the repository."""
    return str(document.relative_to(ROOT))


def blocks_of(document: Path) -> list[Block]:
    """Every fenced block of a document; raises ValueError for a fence that cannot be read."""
    blocks = []
    lines = document.read_text().splitlines()
    index, reason = 0, None
    while index < len(lines):
        line = lines[index]
        if marker := _NOT_RUN.match(line):
            reason = marker["reason"]
        elif line.startswith("```"):
            fence = _FENCE.match(line)
            if fence is None:
                raise ValueError(f"{name_of(document)}:{index + 1}: {line!r} is no fence")
            end = lines.index("```", index + 1)
            text = "\n".join(lines[index + 1 : end]) + "\n"
            blocks.append(
                Block(document, index + 1, fence["language"], fence["title"], text, reason)
            )
            index, reason = end, None
        elif line.strip():
            reason = None
        index += 1
    return blocks
