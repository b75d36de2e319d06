"""An App with every kind of type, and with names that are a trap for who writes a client."""

import dataclasses
import datetime as dt
import decimal
import enum
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import (  # noqa: UP035  # List: for where a field or method hides the name
    Annotated,
    Any,
    Generic,
    List,
    Literal,
    NamedTuple,
    Required,
    TypedDict,
    TypeVar,
    Union,
)

import msgspec
from hypothesis import HealthCheck, Phase, settings
from tests.unit.web.live_serving import serving

from perdure import Actor, App, Docs, DomainError, expose, live, read

# a value with everything in it takes minutes to shrink, and a large one says enough
QUICK = settings(
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)

Item = TypeVar("Item")


class Colour(enum.Enum):
    """What it looks like."""

    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Line(msgspec.Struct):
    """One "line" of \\ an order, with a comment */ in it."""

    sku: str
    qty: Annotated[int, msgspec.Meta(ge=-5, description="how many")] = 1
    colour: Colour = Colour.RED
    tags: list[str] = []


class Node(msgspec.Struct):
    name: str
    children: "list[Node]" = []
    parent: "Node | None" = None


class Circle(msgspec.Struct, tag=True):
    r: float


class Square(msgspec.Struct, tag=True, frozen=True):
    side: float = 2.5


class Point(NamedTuple):
    x: int
    y: int = 0


class Row(msgspec.Struct, array_like=True):
    a: int
    default: str = "x"


class Page(msgspec.Struct, Generic[Item]):
    items: list[Item]
    after: str | None = None


@dataclasses.dataclass
class Old:
    when: dt.datetime
    how: Literal["a", "b", 3] = "a"


class Options(TypedDict, total=False):
    a: int
    node: Required[Node]


Odd = TypedDict("Odd", {"a b": int, "class": str, "naïve": bool})


class Renamed(msgspec.Struct, rename="camel"):
    first_name: str = ""
    klass: str = msgspec.field(name="class", default="")
    proto: int = msgspec.field(name="__proto__", default=0)
    list: "List[int]" = []  # noqa: UP006  # the field hides the name
    datetime: dt.datetime | None = None
    Line: int = 1
    naïve: int = 1
    dataclasses: int = 1


class Maybe(msgspec.Struct, omit_defaults=True):
    x: int | msgspec.UnsetType = msgspec.UNSET
    price: decimal.Decimal = decimal.Decimal("1.50")
    span: dt.timedelta = dt.timedelta(seconds=5)


def _another() -> Any:
    class Line(msgspec.Struct):
        """Not the other one."""

        width: float

    return Line


ThinLine, ThickLine = _another(), _another()  # one module, one qualified name, two classes


class Everything(msgspec.Struct):
    i: int
    f: float
    s: str
    b: bool
    n: None
    when: dt.datetime
    day: dt.date
    at: dt.time
    span: dt.timedelta
    id: uuid.UUID
    price: decimal.Decimal
    raw: bytes
    colour: Colour
    level: Level
    lit: Literal["x", 1, None]  # noqa: PYI061
    opt: str | None
    uni: int | str | list[int]
    nested: dict[str, list[Line]]
    tup: tuple[int, str]
    tups: tuple[int, ...]
    sets: set[int]
    fro: frozenset[str]
    node: Node
    shape: Circle | Square
    shapes: list[Circle | Square | None]
    point: Point
    row: Row
    page: Page[Line]
    pages: Page[int]
    old: Old
    typed: Options
    odd: Odd
    renamed: Renamed
    maybe: Maybe
    by_number: dict[int, str]
    by_day: dict[dt.date, int]
    by_colour: dict[Colour, int]
    by_id: dict[uuid.UUID, Any]
    anything: Any
    number: int | float
    thin: ThinLine
    thick: ThickLine


class Taken(DomainError):
    """Somebody has it."""

    status = 409


class NotFoundError(DomainError):
    """Called as one of Perdure's own."""

    status = 404
    kind = "no-such-thing"


class Größe(Actor):
    """Keeps "anything" */ that there is."""

    last: Annotated[int, live] = 0
    total: Annotated[decimal.Decimal, live] = decimal.Decimal("0.10")

    @expose
    async def echo(self, value: Everything) -> Everything:
        r"""Say it again.

        With a \ backslash, and \"""quotes\""".
        """
        return value

    @expose
    async def list(
        self,
        list: List[int],  # noqa: UP006, A002
        klass: Square = Square(3.0),  # noqa: B008  # it is frozen
        datetime: dt.datetime | None = None,
        result: int = 3,
        since: dt.date = dt.date(2020, 1, 1),
        lines: List[Line] = [],  # noqa: UP006, B006
    ) -> List[int]:  # noqa: UP006
        return [*list, int(klass.side), result, since.year, len(lines)]

    @expose
    @live
    async def view(
        self, only: str = "", limit: int | None = 5, colour: Colour = Colour.RED
    ) -> dict[str, Colour | int | None]:
        return {"only" + only: self.last, "limit": limit, "colour": colour}

    @expose
    async def put(self, n: int) -> None:
        if n < 0:
            raise Taken("no")
        if n == 0:
            raise NotFoundError("nothing")
        self.last = n


class Client(Actor):
    n: int = 0

    @expose
    async def hit(self) -> int:
        self.n += 1
        return self.n

    @expose
    @read
    async def close(self) -> int:
        return self.n

    @expose
    async def then(self, constructor: int, default: int = 1) -> int:
        return constructor + default


def everything_app() -> App:
    """A new App; the classes can run in one at a time."""
    made = App(Größe, Client, docs=Docs(title='All "types" */'), store="memory:")

    @made.get("/quote/{sku}/für/{n}")
    async def quote(
        sku: str,
        n: int,
        count: int | None = 1,
        day: dt.date | None = None,
        flag: bool = False,
        note: str | None = None,
    ) -> dict[str, Any]:
        """What it costs."""
        return {"sku": sku, "n": n, "count": count, "day": day, "flag": flag, "note": note}

    @made.post("/order")
    async def order(line: Line, shapes: list[Union[Circle, Square]] = []) -> Line:  # noqa: B006, UP007
        return Line(line.sku, line.qty + len(shapes))

    @made.delete("/order/{id}")
    async def at(id: uuid.UUID) -> None:  # noqa: A002
        """Called as the client's own method."""

    return made


app = everything_app()


@asynccontextmanager
async def everything_served() -> AsyncIterator[str]:
    """The address of a server of it."""
    made = everything_app()
    async with made, serving(made) as (port, _):
        yield f"http://127.0.0.1:{port}"
