"""An App with a parameter and a result of every kind of type that an API can have."""

from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from perdure import Actor, App, DomainError, expose, live, read

Small = Annotated[int, Meta(ge=-3, le=40)]
Code = Annotated[str, Meta(pattern="^[A-Z]{2}[0-9]{1,3}$", max_length=5)]


class Colour(Enum):
    RED = "red"
    DARK_BLUE = "dark blue"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Circle(msgspec.Struct, tag=True):
    radius: Annotated[float, Meta(ge=0, le=1e6)]


class Square(msgspec.Struct, tag=True):
    side: Decimal
    colours: set[Colour] = set()


class Tree(msgspec.Struct):
    """A type that holds itself."""

    name: str
    branches: list["Tree"] = []
    parent: "Tree | None" = None


class Renamed(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    first_name: Annotated[str, Meta(min_length=1, max_length=20)]
    is_new: bool = True


class Times(msgspec.Struct):
    at: datetime
    day: date
    clock: time
    lasting: timedelta
    aware: Annotated[datetime, Meta(tz=True)] | None = None


class TooMuch(DomainError):
    status = 409


class Everything(Actor):
    """One of everything. Its key is any text."""

    total: int = 0
    tree: Tree | None = None
    shapes: list[Circle | Square] = []

    @expose
    async def add(self, count: Small, code: Code = "AB1") -> int:
        """Add something small."""
        self.total += count
        if abs(self.total) > 100:
            self._refuse()
        return self.total

    def _refuse(self) -> None:
        raise TooMuch("that is too much")

    @expose
    async def count(self, count: int) -> int:
        """Take any integer, however long."""
        return count

    @expose
    async def keep(self, shape: Circle | Square, more: list[Circle | Square] = []) -> int:  # noqa: B006
        self.shapes = [shape, *more]
        return len(self.shapes)

    @expose
    async def plant(self, tree: Tree) -> Tree:
        self.tree = tree
        return tree

    @expose
    async def when(self, times: Times) -> Times:
        return times

    @expose
    async def rename(self, person: Renamed, level: Level, colour: Colour = Colour.RED) -> Renamed:
        return person

    @expose
    async def mixed(
        self,
        either: int | str | None,
        pair: tuple[int, str],
        table: dict[str, list[float]],
        kind: Literal["a", "b", 3],
        anything: Any = None,
        blob: bytes = b"",
        number: UUID | None = None,
        amount: Decimal = Decimal("1.50"),
    ) -> dict[str, Any]:
        return {"either": either, "pair": pair, "kind": kind, "blob": blob, "amount": amount}

    @expose
    @read
    async def look(
        self,
        first: int = 0,
        ratio: float = 0.5,
        exact: bool = False,
        word: str | None = None,
        colour: Colour | None = None,
        level: Level = Level.LOW,
        day: date | None = None,
        number: UUID | None = None,
        code: Code | None = None,
        small: Small = 1,
        limit: Annotated[int, Meta(ge=1, le=9)] = 3,
    ) -> list[int | float | bool | str | None]:
        return [first, ratio, exact, word]

    @expose
    @live
    async def watched(self) -> int:
        return self.total


def make_app() -> App:
    """The App, made anew: its document is made once, when it is first asked for."""
    app = App(Everything, store="memory:")

    @app.get("/quote/{sku}/{number}")
    async def quote(
        sku: Code, number: int, count: Small = 1, at: datetime | None = None
    ) -> Decimal:
        """What it costs."""
        return Decimal(count)

    @app.get("/lasting")
    async def lasting(span: timedelta, blob: bytes = b"") -> timedelta:
        return span

    @app.post("/orders")
    async def order(lines: dict[str, Small], note: str = "") -> list[str]:
        return sorted(lines)

    @app.put("/shapes/{shape_id}")
    async def put_shape(shape_id: UUID, shape: Circle | Square) -> Circle | Square:
        return shape

    @app.patch("/shapes/{shape_id}")
    async def patch_shape(shape_id: UUID, radius: float | None = None) -> UUID:
        return shape_id

    @app.delete("/colours/{colour}")
    async def delete_colour(colour: Colour, force: bool = False) -> None:
        return None

    return app
