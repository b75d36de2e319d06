"""Request ids: what is made, and what is taken from outside."""

import pytest

from perdure.base.request_ids import CHARACTERS_MAX, RequestIds, request_id_of


def test_ids_differ_within_and_between_makers():
    makers = [RequestIds(), RequestIds()]
    made = [maker.next() for maker in makers for _ in range(100)]
    assert len(set(made)) == 200


def test_an_id_that_was_made_is_well_formed():
    made = RequestIds().next()
    assert request_id_of(made.encode()) == made


@pytest.mark.parametrize("given", [b"a", b"7f3c-1", b"Root=1-67891233:abc/d.e_f~g+h@i", b"x" * 128])
def test_a_well_formed_id_is_taken(given):
    assert request_id_of(given) == given.decode()


@pytest.mark.parametrize(
    "given", [b"", b"x" * (CHARACTERS_MAX + 1), b"a b", b"a\n", b"a\r\nx: y", b'"', b"\xff", b"a,b"]
)
def test_an_id_that_could_break_a_log_line_is_not(given):
    assert request_id_of(given) is None
