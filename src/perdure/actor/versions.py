"""Versions of an API: since when, and until when, something is part of it.

A client says a version in the path, `/v2/cart/alice/add`, and gets of each name the newest
implementation that is not newer than that. So a release with version 2 changes only what version 2
changes, and a path without a version is version 1 for ever: no client breaks by itself.
"""

from collections.abc import Iterable
from datetime import date, datetime
from typing import Protocol, TypedDict, TypeVar

import msgspec

from perdure.base.errors import DefinitionError

VERSION_MAX = 999


class Lifetime(msgspec.Struct, frozen=True):
    """Since when, and until when. Raises DefinitionError for what makes no sense."""

    version: int = 1  # the first that has it
    until: int | None = None  # the first that does not have it any more
    deprecated: date | None = None  # since when clients should look for something else
    sunset: date | None = None  # from when on it may be gone

    def __post_init__(self) -> None:
        for name, number in (("version", self.version), ("until", self.until)):
            if number is None and name == "until":
                continue
            if type(number) is not int or not 1 <= number <= VERSION_MAX:
                raise DefinitionError(f"{name} is {number!r}, not a number up to {VERSION_MAX}")
        if self.until is not None and self.until <= self.version:
            raise DefinitionError(
                f"it is there from version {self.version} on and until version {self.until}, which "
                "does not have it any more: so never"
            )
        for name, day in (("deprecated", self.deprecated), ("sunset", self.sunset)):
            if day is None:
                continue
            if not isinstance(day, date):
                raise DefinitionError(f"{name} is {day!r}; it is a date, like date(2027, 1, 31)")
            if isinstance(day, datetime) and day.tzinfo is None:
                raise DefinitionError(f"{name} is {day!r}, without a time zone")
        if self.sunset is not None and self.deprecated is None:
            raise DefinitionError("sunset without deprecated: say first since when it is")


class Versioned(TypedDict, total=False):
    """What a decorator may say of a Lifetime."""

    version: int
    until: int | None
    deprecated: date | None
    sunset: date | None


class HasLifetime(Protocol):
    """A method, or a function, of an API."""

    @property
    def lifetime(self) -> Lifetime:
        """Since when, and until when."""
        ...


Exposed = TypeVar("Exposed", bound=HasLifetime)


def spoken_in(version: int, implementations: Iterable[Exposed]) -> Exposed | None:
    """Of what has one name, what this version of the API has under it: the newest that is not
    newer; or nothing, if that is gone again."""
    known = [one for one in implementations if one.lifetime.version <= version]
    newest = max(known, key=lambda one: one.lifetime.version, default=None)
    if newest is None or (newest.lifetime.until or VERSION_MAX + 1) <= version:
        return None
    return newest


def newest_of(lifetimes: Iterable[Lifetime]) -> int:
    """The newest version that any of them speaks of."""
    return max((max(one.version, one.until or 1) for one in lifetimes), default=1)
