"""The cart on Perdure."""

from perdure import Actor, App, expose, read


class Cart(Actor):
    """One shopper's cart."""

    lines: dict[str, int] = {}

    @expose
    async def add(self, sku: str, qty: int = 1) -> dict[str, int]:
        """Add to the cart and return its lines."""
        self.lines[sku] = self.lines.get(sku, 0) + qty
        return self.lines

    @expose
    @read
    async def view(self) -> dict[str, int]:
        """Return the lines."""
        return self.lines


app = App(Cart)
