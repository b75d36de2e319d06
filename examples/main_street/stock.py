"""Stock of what is scarce: whoever puts it into a cart has it held for ten minutes.

A hold is a field and a timer, set in one commit. Nothing has to look through all holds for those
that are over, and a shop that was down when one ended gives it back as it starts.
"""

from datetime import UTC, datetime, timedelta

import msgspec

from perdure import Actor, DomainError, read

from .catalogue import ARTICLES

HELD_FOR = timedelta(minutes=10)


class SoldOut(DomainError):
    """There is not that much left, or what was held went back to the shelf."""

    status = 409


class Hold(msgspec.Struct, frozen=True):
    """What one cart may buy until the timer rings."""

    qty: int
    until: datetime


class Stock(Actor):
    """How much of a scarce article is left, and for whom some is held. Its key is the sku."""

    sold: int = 0
    holds: dict[str, Hold] = {}  # by the key of the cart

    async def hold(self, cart: str, qty: int) -> Hold | None:
        """Hold this many for a cart, ten minutes from now; none gives them back."""
        held = self.holds.pop(cart, None)
        if not qty:
            self.timers.cancel(cart)
            return None
        if qty > self._free():
            raise SoldOut("Somebody was faster: there is not that much left.")
        if held is None or qty > held.qty:  # one less is no reason to hold it for longer
            until = datetime.now(UTC) + HELD_FOR
            self.timers.set(cart, after=HELD_FOR, call="give_back", cart=cart)
        else:
            until = held.until
        self.holds[cart] = Hold(qty, until)
        return self.holds[cart]

    async def give_back(self, cart: str) -> None:
        """The time is over: the shelf has it again, and the cart is told so."""
        from .cart import Cart

        if held := self.holds.pop(cart, None):
            await Cart.at(cart).tell.lose(self.key, held)

    async def sell(self, cart: str) -> None:
        """What is held for a cart is the customer's now. Raises SoldOut if nothing is."""
        held = self.holds.pop(cart, None)
        if held is None:
            raise SoldOut(f"{ARTICLES[self.key].name} was not held for you any more.")
        self.timers.cancel(cart)
        self.sold += held.qty

    async def hand_over(self, guest: str, cart: str) -> Hold | None:
        """Hold for a user what was held for the guest that the user was; says what is held now."""
        if held := self.holds.pop(guest, None):
            self.timers.cancel(guest)
            more = self.holds[cart].qty if cart in self.holds else 0
            await self.hold(cart, held.qty + more)
        return self.holds.get(cart)

    @read
    async def left(self) -> int:
        return self._free()

    def _free(self) -> int:
        held = sum(hold.qty for hold in self.holds.values())
        return (ARTICLES[self.key].pieces or 0) - self.sold - held


async def left_of_scarce() -> dict[str, int]:
    """How much is free of every article that is scarce."""
    scarce = [sku for sku, article in ARTICLES.items() if article.pieces is not None]
    return {sku: await Stock.at(sku).left() for sku in scarce}
