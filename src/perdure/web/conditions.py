"""Whether a conditional request is met (RFC 9110, 13), and what a Range asks for (14). Pure.

Invariants:
- What cannot be understood is ignored, as the RFC demands: the whole answer is always right.
- No more than RANGES_MAX ranges, and no more bytes than the whole has, are ever sent: a request of
  a kilobyte must not cost a gigabyte.
"""

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

import msgspec

RANGES_MAX = 16

_RANGE = re.compile(r"(\d{0,19})-(\d{0,19})")
_TAG = re.compile(rb'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')


class Validators(msgspec.Struct, frozen=True):
    """What tells one version of an answer from another."""

    tag: bytes  # strong, with its quotes
    modified_s: int


class UnsatisfiableError(Exception):
    """None of the ranges lies within the answer."""


def status_of_conditions(fields: Mapping[bytes, bytes], now: Validators) -> int:
    """200, or 304 or 412 where a condition decides so, in the order of RFC 9110, 13.2.2.

    For GET and HEAD.
    """
    wanted = fields.get(b"if-match")
    since_s = _time_of(fields.get(b"if-unmodified-since")) if wanted is None else None
    if wanted is not None and not _holds(wanted, now.tag, is_weak=False):
        return 412
    if since_s is not None and now.modified_s > since_s:
        return 412
    if (known := fields.get(b"if-none-match")) is not None:
        return 304 if _holds(known, now.tag, is_weak=True) else 200
    since_s = _time_of(fields.get(b"if-modified-since"))
    return 304 if since_s is not None and now.modified_s <= since_s else 200


def ranges_of(
    fields: Mapping[bytes, bytes], size_bytes: int, now: Validators
) -> list[tuple[int, int]]:
    """The asked ranges as first and last byte; empty: send the whole.

    Raises: UnsatisfiableError.
    """
    asked = fields.get(b"range")
    if asked is None or not _may_be_partial(fields.get(b"if-range"), now):
        return []
    unit, _, listed = asked.decode("latin-1").partition("=")
    if unit.strip().lower() != "bytes":
        return []
    found = [_RANGE.fullmatch(one.strip()) for one in listed.split(",", RANGES_MAX + 1)]
    spans = []
    for one in found:
        if (
            one is None
            or not (one[1] or one[2])
            or (one[1] and one[2] and int(one[1]) > int(one[2]))
        ):
            return []
        if (span := _span(one[1], one[2], size_bytes)) is not None:
            spans.append(span)
    if not spans:
        raise UnsatisfiableError
    total_bytes = sum(last - first + 1 for first, last in spans)
    return spans if len(found) <= RANGES_MAX and total_bytes <= size_bytes else []


def _span(first: str, last: str, size_bytes: int) -> tuple[int, int] | None:
    if not first:
        length = min(int(last), size_bytes)
        return (size_bytes - length, size_bytes - 1) if length else None
    if int(first) >= size_bytes:
        return None
    return int(first), min(int(last), size_bytes - 1) if last else size_bytes - 1


def _may_be_partial(if_range: bytes | None, now: Validators) -> bool:
    if if_range is None:
        return True
    if if_range.startswith((b'"', b"W/")):
        return if_range == now.tag  # a strong comparison: a weak tag never matches
    return _time_of(if_range) == now.modified_s


def _holds(listed: bytes, tag: bytes, *, is_weak: bool) -> bool:
    if listed.strip() == b"*":
        return True
    tags: list[bytes] = _TAG.findall(listed)
    if is_weak:
        return tag in [one.removeprefix(b"W/") for one in tags]
    return tag in tags


def _time_of(value: bytes | None) -> int | None:
    """Seconds since the epoch; None where the date is missing or malformed."""
    if value is None:
        return None
    try:
        return int(parsedate_to_datetime(value.decode("ascii")).timestamp())
    except (ValueError, OverflowError):
        return None
