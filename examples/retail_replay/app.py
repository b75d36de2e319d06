"""The server's side of the replay: one cart for each invoice.

The rules for dirty lines stand here as DomainErrors, and a second time, on purpose, in `rules.py`
as plain Python: a replay that compared the cart with itself would prove nothing.
"""

import os
from decimal import Decimal

import msgspec

from perdure import Actor, App, DomainError, expose, read

SKU_LENGTH_MAX = 40
SKUS_MAX = 10_000


class NotOpen(DomainError):
    """A line came before its cart was opened."""

    status = 409


class BadSku(DomainError):
    """The SKU is empty, too long, or holds characters that cannot be printed."""

    status = 422


class NoQuantity(DomainError):
    """The quantity is zero."""

    status = 422


class WrongDirection(DomainError):
    """An invoice takes positive quantities only, a cancellation negative ones only."""

    status = 422


class NegativePrice(DomainError):
    """The price is below zero."""

    status = 422


class CartFull(DomainError):
    """The cart holds as many different SKUs as a cart may."""

    status = 409


class Added(msgspec.Struct):
    """What a shopper hears of an accepted line."""

    sku: str
    quantity: int  # of this SKU in the cart, after the line
    process: int  # which process did the work: a repeated answer names one that is dead


class CartView(msgspec.Struct):
    """All that is in a cart."""

    customer: str | None
    country: str
    lines: int
    gifts: int
    amount: Decimal
    quantities: dict[str, int]


class Cart(Actor):
    """The cart of one invoice. A key that begins with `C` is a cancellation: goods come back."""

    is_open: bool = False
    customer: str | None = None  # None: a guest
    country: str = ""
    lines: int = 0  # accepted ones
    gifts: int = 0  # of these, at a price of zero
    amount: Decimal = Decimal(0)
    quantities: dict[str, int] = {}

    @expose
    async def open(self, country: str, customer: str | None = None) -> int:
        """Say whose cart this is. Opening it again changes nothing. Returns the process id."""
        if not self.is_open:
            self.is_open = True
            self.customer = customer
            self.country = country
        return os.getpid()

    @expose
    async def add(self, sku: str, quantity: int, price: Decimal) -> Added:
        """Take one line; the same SKU again adds to what is there."""
        self._check(sku, quantity, price)
        self.lines += 1
        self.gifts += price == 0
        self.amount += quantity * price
        self.quantities[sku] = self.quantities.get(sku, 0) + quantity
        return Added(sku, self.quantities[sku], os.getpid())

    @expose
    @read
    async def view(self) -> CartView:
        """Return all that is in the cart."""
        return CartView(
            self.customer, self.country, self.lines, self.gifts, self.amount, self.quantities
        )

    def _check(self, sku: str, quantity: int, price: Decimal) -> None:
        if not self.is_open:
            raise NotOpen(f"cart {self.key} was not opened")
        if not 0 < len(sku) <= SKU_LENGTH_MAX or not sku.isprintable():
            raise BadSku(f"an SKU has 1 to {SKU_LENGTH_MAX} printable characters")
        if quantity == 0:
            raise NoQuantity("the quantity is zero")
        if (quantity < 0) != self.key.startswith("C"):
            raise WrongDirection(f"cart {self.key} does not take a quantity of {quantity}")
        if price < 0:
            raise NegativePrice(f"the price is {price}")
        if sku not in self.quantities and len(self.quantities) >= SKUS_MAX:
            raise CartFull(f"cart {self.key} holds {SKUS_MAX} different SKUs already")


app = App(Cart)
