"""Plain columns for a terminal or a pipe: nothing is cut off, nothing can play with the screen.

Not rich's tables: they fold or cut cells to fit a width, and pad the last column.
"""

import unicodedata
from collections.abc import Iterable, Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text


def console_for_output() -> Console:
    """Standard output, where the answer goes."""
    return Console(highlight=False, soft_wrap=True)


def console_for_notes() -> Console:
    """Standard error, for progress and whatever else is not the answer."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def print_columns(
    console: Console,
    rows: Iterable[Sequence[object]],
    names: Sequence[str] = (),
    indent: int = 0,
) -> None:
    """Print rows in aligned columns, under their names if there are any."""
    table = [[printable(str(cell)) for cell in row] for row in rows]
    if names:
        table.insert(0, [printable(name) for name in names])
    widths = [max(map(cell_len, column)) for column in zip(*table, strict=True)]
    for number, row in enumerate(table):
        padded = [
            cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)
        ]
        line = " " * indent + "  ".join(padded).rstrip()
        console.print(Text(line, style="bold" if names and number == 0 else ""))


def printable(text: str) -> str:
    """The text with control characters as escapes, since a terminal would obey them."""
    if text.isprintable():
        return text
    return "".join(
        f"\\u{ord(character):04x}" if unicodedata.category(character) == "Cc" else character
        for character in text
    )
