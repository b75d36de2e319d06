"""Plain columns on a terminal or in a pipe: nothing is cut off, nothing can play with the screen."""

import unicodedata
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

_UNBOUNDED_COLUMNS = 100_000  # in a pipe a line is as long as it must be


def console_for_output() -> Console:
    """Standard output; in a pipe without colours and without a width."""
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = _UNBOUNDED_COLUMNS
    return console


def console_for_notes() -> Console:
    """Standard error, for progress and what else is not the answer."""
    return Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)


def columns(rows: Iterable[Sequence[object]], names: Sequence[str] = (), indent: int = 0) -> Table:
    """Rows under their names; `indent` spaces before each."""
    table = Table(
        box=None,
        show_header=bool(names),
        header_style="bold",
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    texts = [[printable(str(cell)) for cell in row] for row in rows]
    for index in range(max([len(names), *map(len, texts)])):
        name = printable(names[index]) if index < len(names) else ""
        table.add_column(Text(" " * indent * (index == 0) + name), overflow="fold")
    for cells in texts:
        if cells:
            cells[0] = " " * indent + cells[0]
        table.add_row(*map(Text, cells))
    return table


def printable(text: str) -> str:
    """The text with control characters as escapes: a terminal would obey them."""
    return "".join(
        f"\\u{ord(character):04x}" if unicodedata.category(character) == "Cc" else character
        for character in text
    )
