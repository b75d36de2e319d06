"""Versions in paths and in headers: `/v2/…`, `Deprecation` (RFC 9745) and `Sunset` (RFC 8594)."""

from collections.abc import Iterable
from datetime import UTC, date, datetime
from email.utils import format_datetime

from perdure.actor.versions import Lifetime
from perdure.base.errors import DefinitionError


def segments_of(versions: int) -> list[str]:
    """How each version of an API stands in a path; none where there is one version only."""
    return [f"v{number}" for number in range(1, versions + 1)] if versions > 1 else []


def refuse_segments(versions: int, taken: Iterable[tuple[str, str]]) -> None:
    """Raise DefinitionError if something has a path where a version is.

    Args:
        taken: what it is, and the first part of its path.
    """
    segments = segments_of(versions)
    for what, first in taken:
        if first in segments:
            raise DefinitionError(
                f"{what} is at /{first}, which is a version of this App, since something in it "
                "says so; give it another path"
            )


def lines_of(lifetime: Lifetime) -> bytes:
    """The header lines that tell of its end; none for what stays."""
    lines = ""
    if lifetime.deprecated is not None:
        lines += f"deprecation: @{int(_moment(lifetime.deprecated).timestamp())}\r\n"
    if lifetime.sunset is not None:
        lines += f"sunset: {format_datetime(_moment(lifetime.sunset), usegmt=True)}\r\n"
    return lines.encode("ascii")


def _moment(day: date) -> datetime:
    """A date is the first moment of its day."""
    if isinstance(day, datetime):
        return day.astimezone(UTC)
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
