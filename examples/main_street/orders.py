"""Orders: one actor each, found by their fields; a timer stands in for the people who ship."""

from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Annotated

from perdure import Actor, Page, Row, indexed

SHIPPED_AFTER = timedelta(minutes=2)
PAGE_ROWS = 10


class Status(Enum):
    OPEN = "open"
    SHIPPED = "shipped"


class Order(Actor):
    """What somebody bought."""

    customer: Annotated[str, indexed] = ""
    status: Annotated[Status, indexed] = Status.OPEN
    placed_at: Annotated[datetime | None, indexed] = None
    lines: dict[str, int] = {}
    total_cents: int = 0

    async def place(self, customer: str, lines: dict[str, int], total_cents: int) -> None:
        self.customer, self.lines, self.total_cents = customer, lines, total_cents
        self.placed_at = datetime.now(UTC)
        self.timers.set("ship", after=SHIPPED_AFTER, call="ship")

    async def ship(self) -> None:
        self.status = Status.SHIPPED


async def orders_of(
    customer: str, status: Status | None = None, after: str | None = None, rows: int = PAGE_ROWS
) -> Page[Row[Order]]:
    """The newest orders of a customer, page by page. Raises BadArgumentsError for a bad cursor."""
    conditions = {"customer": customer} | ({"status": status} if status else {})
    return await Order.where(**conditions).order_by("-placed_at").limit(rows).after(after)
