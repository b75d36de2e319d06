"""The cart on Restate: a virtual object whose lines are one state entry."""

import restate
from pydantic import BaseModel

cart = restate.VirtualObject("Cart")


class Addition(BaseModel):
    """What a shopper adds."""

    sku: str
    qty: int = 1


@cart.handler()
async def add(context: restate.ObjectContext, addition: Addition) -> dict[str, int]:
    """Add to the cart and return its lines."""
    lines = await context.get("lines", type_hint=dict[str, int]) or {}
    lines[addition.sku] = lines.get(addition.sku, 0) + addition.qty
    context.set("lines", lines)
    return lines


@cart.handler(kind="shared")
async def view(context: restate.ObjectSharedContext) -> dict[str, int]:
    """Return the lines."""
    return await context.get("lines", type_hint=dict[str, int]) or {}


app = restate.app(services=[cart])
