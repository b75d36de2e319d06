"""Which content coding is chosen."""

import pytest

from perdure.web.negotiation import coding_of

OFFERED = ("br", "zstd", "gzip")


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        (None, None),
        (b"", None),
        (b"gzip", "gzip"),
        (b"GZIP", "gzip"),
        (b"x-gzip", "gzip"),
        (b"gzip, br", "br"),
        (b"gzip;q=1, br;q=0.5", "gzip"),
        (b"gzip; q=0.5 , zstd;q=0.6", "zstd"),
        (b"gzip;q=0", None),
        (b"gzip;q=0, *", "br"),
        (b"*;q=0", None),
        (b"*", "br"),
        (b"identity", None),
        (b"identity, gzip;q=0.5", None),
        (b"identity;q=0.5, gzip", "gzip"),
        (b"identity;q=0, gzip;q=0.001", "gzip"),
        (b"deflate", None),
        (b"gzip;q=2", None),
        (b"gzip;q=x", None),
        (b"gzip;q=0.1234", None),
        (b"\xff\x00, gzip", "gzip"),
        (b",".join([b"gzip"] * 33), None),
    ],
)
def test_the_best_liked_coding_is_taken(accepted: bytes | None, coding: str | None) -> None:
    assert coding_of(accepted, OFFERED) == coding


def test_nothing_offered_is_nothing_taken() -> None:
    assert coding_of(b"gzip", ()) is None
