"""Conditional requests and ranges, as functions."""

import pytest

from perdure.web.conditions import UnsatisfiableError, Validators, ranges_of, status_of_conditions

NOW = Validators(b'"a"', 784111777)  # Sun, 06 Nov 1994 08:49:37 GMT
AT = b"Sun, 06 Nov 1994 08:49:37 GMT"
BEFORE = b"Sun, 06 Nov 1994 08:49:36 GMT"
AFTER = b"Sun, 06 Nov 1994 08:49:38 GMT"


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, 200),
        ({b"if-none-match": b'"a"'}, 304),
        ({b"if-none-match": b'W/"a"'}, 304),
        ({b"if-none-match": b'"b", "a"'}, 304),
        ({b"if-none-match": b"*"}, 304),
        ({b"if-none-match": b'"b"'}, 200),
        ({b"if-none-match": b"a"}, 200),
        ({b"if-none-match": b'"b"', b"if-modified-since": AT}, 200),
        ({b"if-modified-since": AT}, 304),
        ({b"if-modified-since": AFTER}, 304),
        ({b"if-modified-since": BEFORE}, 200),
        ({b"if-modified-since": b"Sunday, 06-Nov-94 08:49:37 GMT"}, 304),
        ({b"if-modified-since": b"yesterday"}, 200),
        ({b"if-modified-since": b"\xff"}, 200),
        ({b"if-match": b'"a"'}, 200),
        ({b"if-match": b"*"}, 200),
        ({b"if-match": b'"b"'}, 412),
        ({b"if-match": b'W/"a"'}, 412),
        ({b"if-match": b'"a"', b"if-unmodified-since": BEFORE}, 200),
        ({b"if-unmodified-since": BEFORE}, 412),
        ({b"if-unmodified-since": AT}, 200),
        ({b"if-match": b'"b"', b"if-none-match": b'"a"'}, 412),
    ],
)
def test_conditions_are_decided_in_the_order_of_the_rfc(
    fields: dict[bytes, bytes], status: int
) -> None:
    assert status_of_conditions(fields, NOW) == status


@pytest.mark.parametrize(
    ("asked", "ranges"),
    [
        (b"bytes=0-0", [(0, 0)]),
        (b"bytes=0-", [(0, 9)]),
        (b"bytes=5-99", [(5, 9)]),
        (b"bytes=-3", [(7, 9)]),
        (b"bytes=-99", [(0, 9)]),
        (b"Bytes = 1-2", [(1, 2)]),
        (b"bytes=0-1, 4-5", [(0, 1), (4, 5)]),
        (b"bytes=0-1,99-", [(0, 1)]),
        (b"bytes=2-1", []),
        (b"bytes=", []),
        (b"bytes=-", []),
        (b"bytes=a-b", []),
        (b"bytes=0-1,x", []),
        (b"bytes=+1-2", []),
        (b"lines=0-1", []),
        (b"bytes=0-9,0-9", []),  # more than the whole
        (b"bytes=" + b",".join([b"0-0"] * 9), [(0, 0)] * 9),
        (b"bytes=" + b",".join([b"0-0"] * 17), []),
        (b"bytes=0-" + b"9" * 30, []),
    ],
)
def test_ranges_are_cut_to_the_answer_or_ignored(
    asked: bytes, ranges: list[tuple[int, int]]
) -> None:
    assert ranges_of({b"range": asked}, 10, NOW) == ranges


@pytest.mark.parametrize("asked", [b"bytes=10-", b"bytes=-0", b"bytes=10-11,12-13"])
def test_ranges_behind_the_end_cannot_be_satisfied(asked: bytes) -> None:
    with pytest.raises(UnsatisfiableError):
        ranges_of({b"range": asked}, 10, NOW)


@pytest.mark.parametrize(
    ("if_range", "is_partial"),
    [(b'"a"', True), (b'W/"a"', False), (b'"b"', False), (AT, True), (AFTER, False), (b"x", False)],
)
def test_if_range_compares_strongly(if_range: bytes, is_partial: bool) -> None:
    fields = {b"range": b"bytes=0-1", b"if-range": if_range}
    assert bool(ranges_of(fields, 10, NOW)) is is_partial
