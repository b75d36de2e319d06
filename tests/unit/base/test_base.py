"""The floor: keys, names, errors, ids, clocks, fault points."""

import os
import signal
import subprocess
import sys
import unicodedata
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure import DefinitionError, DomainError, InvalidKeyError
from perdure.base import points
from perdure.base.clock import SystemClock
from perdure.base.ids import new_id
from perdure.base.keys import key_of_path_segment, normalize_key
from perdure.base.limits import Limits
from perdure.base.names import kebab_case, snake_case

ANY_TEXT = st.text(st.characters(codec=None), max_size=600)


@given(ANY_TEXT)
def test_any_text_is_a_stored_key_or_refused(text: str) -> None:
    try:
        key = normalize_key(text)
    except InvalidKeyError:
        return
    assert key == unicodedata.normalize("NFC", text)
    assert normalize_key(key) == key
    assert 0 < len(key.encode()) <= 512
    assert key not in {".", ".."}
    assert not any(unicodedata.category(character) in {"Cc", "Cs"} for character in key)


@given(ANY_TEXT)
def test_a_key_survives_its_way_through_a_path(text: str) -> None:
    try:
        key = normalize_key(text)
    except InvalidKeyError:
        return
    assert key_of_path_segment(quote(key, safe="").encode()) == key


@given(st.binary(max_size=600))
def test_any_path_segment_is_a_key_or_refused(segment: bytes) -> None:
    try:
        key = key_of_path_segment(segment)
    except InvalidKeyError:
        return
    assert normalize_key(key) == key


@pytest.mark.parametrize(
    "text",
    ["", ".", "..", "\0", "a\n", "\x7f", "\x85", "\ud800", "ä\ud800", "k" * 513, "ä" * 257],
)
def test_what_may_not_be_a_key_is_refused(text: str) -> None:
    with pytest.raises(InvalidKeyError):
        normalize_key(text)


@pytest.mark.parametrize("segment", [b"%2e", b"%2E%2e", b"%00", b"%ff", b"%C3", b"", b"%ed%a0%80"])
def test_what_may_not_be_a_key_is_refused_in_any_disguise(segment: bytes) -> None:
    with pytest.raises(InvalidKeyError):
        key_of_path_segment(segment)


def test_two_spellings_of_one_text_are_one_key() -> None:
    assert normalize_key("e\u0301") == normalize_key("\xe9") == "\xe9"
    assert key_of_path_segment(b"a%2Fb%27%22%3B") == "a/b'\";"


@pytest.mark.parametrize(
    ("name", "kebab"),
    [
        ("Cart", "cart"),
        ("ShoppingCart", "shopping-cart"),
        ("HTTPLog", "http-log"),
        ("Room2", "room2"),
        ("My_Cart", "my-cart"),
    ],
)
def test_class_names_become_routes_and_tables(name: str, kebab: str) -> None:
    assert kebab_case(name) == kebab
    assert snake_case(name) == kebab.replace("-", "_")


def test_a_domain_error_has_a_kind_and_a_status_of_the_caller() -> None:
    class SoldOut(DomainError):
        status = 409

    assert (SoldOut.kind, SoldOut.status) == ("sold-out", 409)
    for status in (200, 399, 500):
        with pytest.raises(DefinitionError, match="a domain error is 4xx"):
            type("Wrong", (DomainError,), {"status": status})


def test_ids_are_unique_and_hard_to_guess() -> None:
    ids = {new_id() for _ in range(1_000)}
    assert len(ids) == 1_000
    assert {len(one) for one in ids} == {32}


def test_the_clock_goes_forward_and_knows_the_year() -> None:
    clock = SystemClock()
    assert clock.monotonic_s() <= clock.monotonic_s()
    assert 1_700_000_000_000 < clock.wall_ms() < 4_000_000_000_000


def test_every_limit_is_positive_and_cannot_be_changed() -> None:
    limits = Limits()
    assert all(getattr(limits, name) > 0 for name in limits.__struct_fields__)
    with pytest.raises(AttributeError):
        limits.awake_max = 1  # type: ignore[misc]


def _with_fault(fault: str, code: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PERDURE_FAULT": fault}
    code = f"from perdure.base import points\n{code}"
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=30
    )


def test_without_the_variable_a_point_does_nothing() -> None:
    assert [points.reach(point) for point in points.POINTS] == [None] * len(points.POINTS)


def test_a_point_kills_the_process_at_the_time_that_was_asked_for() -> None:
    done = _with_fault(
        "before_commit:kill:3",
        "for n in range(5): print(n, flush=True); points.reach('before_commit'); "
        "points.reach('after_commit')",
    )
    assert done.stdout.split() == ["0", "1", "2"]
    assert done.returncode == -signal.SIGKILL


def test_a_point_can_raise_what_a_failing_disk_gives() -> None:
    done = _with_fault(
        "before_fsync:raise",
        "try: points.reach('before_fsync')\nexcept OSError as error: print(error.errno)",
    )
    assert done.stdout.strip() == "5"


@pytest.mark.parametrize("fault", ["nowhere:kill", "before_commit:explode", "before_commit:kill:x"])
def test_a_fault_that_is_not_known_is_refused(fault: str) -> None:
    done = _with_fault(fault, "print('started')")
    assert done.returncode == 1
    assert "ValueError" in done.stderr
