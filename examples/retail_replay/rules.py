"""The file, line by line, and what must come of it: the same rules as `app.py`, without Perdure.

`fold` is the oracle of the replay. It knows nothing of servers, keys, retries or crashes.
"""

import csv
import gzip
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import IO, NamedTuple

UNREADABLE = "unreadable"


class Line(NamedTuple):
    """One line of the file that can be read at all."""

    number: int  # in the file, from 1, without the header
    invoice: str
    sku: str
    quantity: int
    price: Decimal
    customer: str | None
    country: str


@dataclass
class Cart:
    """What a cart must hold in the end."""

    customer: str | None
    country: str
    lines: int = 0
    gifts: int = 0
    amount: Decimal = Decimal(0)
    quantities: dict[str, int] = field(default_factory=dict)


@dataclass
class Fold:
    """The whole file, folded."""

    carts: dict[str, Cart] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)  # by problem kind


Rule = tuple[str, Callable[[Line, Cart], bool]]

# The first rule that fits refuses the line. The kinds are those of the DomainErrors in `app.py`.
RULES: tuple[Rule, ...] = (
    ("bad-sku", lambda line, _: not (1 <= len(line.sku) <= 40 and line.sku.isprintable())),
    ("no-quantity", lambda line, _: line.quantity == 0),
    ("wrong-direction", lambda line, _: (line.quantity < 0) != (line.invoice[0] == "C")),
    ("negative-price", lambda line, _: line.price < 0),
    ("cart-full", lambda line, cart: len(cart.quantities.keys() | {line.sku}) > 10_000),
)


def fold(lines: Iterator[Line | None]) -> Fold:
    """Fold lines into carts; None stands for a line that could not be read."""
    result = Fold()
    for line in lines:
        if line is None:
            result.refused[UNREADABLE] += 1
            continue
        cart = result.carts.setdefault(line.invoice, Cart(line.customer, line.country))
        kind = next((kind for kind, refuses in RULES if refuses(line, cart)), None)
        if kind is not None:
            result.refused[kind] += 1
            continue
        cart.lines += 1
        cart.gifts += line.price == 0
        cart.amount += line.quantity * line.price
        cart.quantities[line.sku] = cart.quantities.get(line.sku, 0) + line.quantity
    return result


def read_lines(path: Path, lines_max: int | None = None) -> Iterator[Line | None]:
    """Stream the file, plain or gzipped; None for each line that cannot be read."""
    with _open(path) as file:
        rows = csv.DictReader(file)
        for number, row in enumerate(islice(rows, lines_max), 1):
            yield _line(number, row)


def _open(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return TextIOWrapper(gzip.open(path), encoding="utf-8", errors="replace", newline="")
    return path.open(encoding="utf-8", errors="replace", newline="")


def _line(number: int, row: dict[str, str | None]) -> Line | None:
    try:
        invoice = _text(row, "InvoiceNo")
        quantity = int(_text(row, "Quantity"))
        price = Decimal(_text(row, "UnitPrice"))
    except (ValueError, InvalidOperation):
        return None
    if not (invoice.isascii() and invoice.isalnum() and price.is_finite()):
        return None
    if abs(quantity) >= 2**63:  # JSON numbers end there
        return None
    customer = _text(row, "CustomerID").removesuffix(".0") or None
    sku = _text(row, "StockCode")
    return Line(number, invoice, sku, quantity, price, customer, _text(row, "Country"))


def _text(row: dict[str, str | None], column: str) -> str:
    return (row.get(column) or "").strip()
