"""Carts, and how a guest's cart becomes a user's without losing or doubling a line."""

import secrets

import msgspec

from perdure import Actor, DomainError, expose, live, owner, transaction

from .catalogue import ARTICLES, total_cents
from .orders import Order
from .stock import Hold, Stock

QTY_MAX = 99
KEPT_MAX = 50  # notes; the newest stay: what one actor holds should be small


class CartRefused(DomainError):
    """There is no such article, or this guest's cart belongs to a user now."""

    status = 409


class CartView(msgspec.Struct, frozen=True):
    lines: dict[str, int] = {}
    held: dict[str, Hold] = {}
    given_to: str | None = None


class Cart(Actor):
    """One shopper's cart. Its key is the user's id, or guest-… for somebody not logged in."""

    lines: dict[str, int] = {}
    held: dict[str, Hold] = {}  # of the lines, those that are scarce
    given_to: str | None = None  # a guest's cart: the user it went to, once and for all
    merged: list[str] = []  # a user's cart: the guests' carts it has taken in

    @expose(access=owner)
    @live
    async def view(self) -> CartView:
        return CartView(self.lines, self.held, self.given_to)

    @expose(access=owner)
    async def put(self, sku: str, qty: int) -> None:
        """Have `qty` of this article in the cart; with none, the line goes away."""
        if sku not in ARTICLES or self.given_to:
            raise CartRefused(f"{sku!r} cannot be put into this cart.")
        qty = max(0, min(qty, QTY_MAX))
        if ARTICLES[sku].pieces is None:
            self._put(sku, qty)
            return
        async with transaction():  # a line without its hold, or a hold without a line, is a lie
            self._put(sku, qty, await Stock.at(sku).hold(self.key, qty))

    def _put(self, sku: str, qty: int, hold: Hold | None = None) -> None:
        self.lines |= {sku: qty}
        self.held |= {sku: hold} if hold else {}
        if not qty:
            del self.lines[sku]
            self.held.pop(sku, None)

    async def lose(self, sku: str, hold: Hold) -> None:
        """The shelf has taken back what it held; if it holds anew meanwhile, that one counts."""
        if self.held.get(sku) == hold:
            self._put(sku, 0)

    @expose(access=owner)
    async def add(self, sku: str) -> None:
        await self.put(sku, self.lines.get(sku, 0) + 1)

    @expose(access=owner)
    async def check_out(self) -> None:
        """Make the lines an order. One transaction: never an order and a full cart too."""
        if self.lines:
            async with transaction():
                order = Order.at(secrets.token_hex(16))
                await order.place(self.key, self.lines, total_cents(self.lines))
                for sku in sorted(self.held):
                    await Stock.at(sku).sell(self.key)
                self.lines, self.held = {}, {}

    async def give_to(self, user_id: str) -> dict[str, int]:
        """Close this guest's cart for good; says what it held, but only to its first taker."""
        self.given_to = self.given_to or user_id
        return self.lines if self.given_to == user_id else {}

    async def absorb(self, guest_key: str, lines: dict[str, int]) -> None:
        """Take in a guest's lines, once: the note that they came is in the same commit as they."""
        if guest_key not in self.merged:
            self.merged = [guest_key, *self.merged][:KEPT_MAX]
            for sku, qty in lines.items():
                if ARTICLES[sku].pieces is None:
                    self._put(sku, min(self.lines.get(sku, 0) + qty, QTY_MAX))
                elif hold := await Stock.at(sku).hand_over(guest_key, self.key):
                    self._put(sku, hold.qty, hold)

    async def empty(self) -> None:
        self.lines, self.held = {}, {}


async def merge(guest_key: str, user_id: str) -> None:
    """Make a guest's cart the user's. May be repeated, also after dying at any point in it.

    It closes the guest's cart before it copies, so that no line can slip in behind the copy, and
    empties it only when the user's cart is durable. `request_id=` would make `absorb` happen once
    too, but is remembered for a day; the note in `merged` stays.
    """
    if lines := await Cart.at(guest_key).give_to(user_id):
        await Cart.at(user_id).absorb(guest_key, lines)
        await Cart.at(guest_key).empty()
