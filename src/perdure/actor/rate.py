"""`Rate`: how often something may be asked, as users say it."""

import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from perdure.base.errors import DefinitionError
from perdure.base.gcra import Policy, policy

if TYPE_CHECKING:
    from perdure.actor.model import Caller

By = Literal["caller", "address"] | Callable[["Caller | None", str], str | None]

_COUNT_MAX = 1_000_000_000  # so that an interval is a nanosecond or more, and numbers fit headers
_UNQUOTED = " !$&'()*+,/:;=@[]{}"
_NAME = re.compile(r"[ !#-\[\]-~]{1,64}")  # a string of a structured field, without escapes


@dataclass(frozen=True)
class Rate:
    """So many requests in so many seconds: `Rate(100, per_s=60)`, from each caller.

    Unused ones are saved up to a burst, and then come back one by one: with these numbers 100 may
    come at once, and another every 0.6 s. In any t seconds at most burst + limit · t / per_s.

    Args:
        limit: how many.
        per_s: in how many seconds, a whole number.
        burst: how many at most at once; by default `limit`.
        by: whose requests are counted together. `"caller"`: of who is signed in by id, of guests by
            address; `"address"`: by the client's address; or a function `(caller, key)` like an
            access rule, which returns a text to count by, or None not to count.
        name: under which it is counted, and told to clients; routes whose rates have one name
            share one count. By default that of the route.

    Raises DefinitionError.
    """

    limit: int
    _: KW_ONLY
    per_s: int = 60
    burst: int | None = None
    by: By = "caller"
    name: str | None = None

    def __post_init__(self) -> None:
        burst = self.limit if self.burst is None else self.burst
        for label, number in (("limit", self.limit), ("per_s", self.per_s), ("burst", burst)):
            if type(number) is not int or not 1 <= number <= _COUNT_MAX:
                raise DefinitionError(
                    f"Rate: {label} is {number!r}; it must be a whole number from 1 on"
                )
        if burst * self.per_s > self.limit * _COUNT_MAX:
            raise DefinitionError(
                "Rate: a burst would take more than a billion seconds to come back"
            )
        if self.by not in ("caller", "address") and not callable(self.by):
            raise DefinitionError(
                f'Rate: by is {self.by!r}; it is "caller", "address", or a function of caller '
                "and key"
            )
        if inspect.iscoroutinefunction(self.by):
            raise DefinitionError(
                "Rate: the function `by` is asked for each request; it cannot be async"
            )
        if self.name is not None and not _NAME.fullmatch(self.name):
            raise DefinitionError(
                f"Rate: the name {self.name!r} must have 1 to 64 printable ASCII characters, "
                "without quotes and backslashes"
            )

    @property
    def policy(self) -> Policy:
        """The numbers to count with."""
        assert self.name is not None, "it gets one from its route"
        burst = self.limit if self.burst is None else self.burst
        return policy(self.name, limit=self.limit, per_s=self.per_s, burst=burst)


RateOrRates = Rate | Sequence[Rate]


def rates_of(given: Any) -> tuple[Rate, ...]:
    """One rate, several or none, as a tuple; raises DefinitionError if it is something else."""
    if given is None or isinstance(given, Rate):
        return () if given is None else (given,)
    found = tuple(given) if isinstance(given, Sequence) else (given,)
    for one in found:
        if not isinstance(one, Rate):
            raise DefinitionError(f"rate is {one!r}; it must be a Rate, like Rate(100, per_s=60)")
    return found


def named(rates: Iterable[Rate], default: str) -> list[Rate]:
    """The rates of one route, each with a name: its own, or one made of the route's."""
    default = quote(default, safe=_UNQUOTED)
    return [
        replace(one, name=f"{default} {place}" if place > 1 else default) if not one.name else one
        for place, one in enumerate(rates, 1)
    ]
