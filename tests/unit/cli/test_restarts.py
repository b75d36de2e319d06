"""When a server that died is started again."""

import pytest

from perdure.cli import failures
from perdure.cli.restarts import ATTEMPTS_MAX, PAUSE_MAX_S, RAN_WELL_S, Restarts

KILLED = -9


def test_the_first_death_costs_no_pause() -> None:
    assert Restarts().pause_s(KILLED, was_ready=True, ran_s=0.1) == 0.0


def test_pauses_grow_up_to_a_bound_while_it_dies_quickly() -> None:
    restarts = Restarts()
    pauses = [restarts.pause_s(KILLED, was_ready=True, ran_s=0.1) for _ in range(60)]
    assert pauses[:5] == [0.0, 0.1, 0.2, 0.4, 0.8]
    assert pauses[8:] == [PAUSE_MAX_S] * 52, "one that was ready is never given up"


def test_a_server_that_ran_well_begins_anew() -> None:
    restarts = Restarts()
    for _ in range(9):
        restarts.pause_s(KILLED, was_ready=True, ran_s=0.1)
    assert restarts.pause_s(KILLED, was_ready=True, ran_s=RAN_WELL_S) == 0.0
    # it died once since: the next quick death is the first of a row
    assert restarts.pause_s(KILLED, was_ready=True, ran_s=0.1) == 0.0
    assert restarts.pause_s(KILLED, was_ready=True, ran_s=0.1) == 0.1


def test_long_starts_that_come_to_nothing_are_no_running_well() -> None:
    restarts = Restarts()
    pauses = [restarts.pause_s(1, was_ready=False, ran_s=60.0) for _ in range(ATTEMPTS_MAX)]
    assert pauses == [0.0, 0.1, 0.2, 0.4, None]
    assert restarts.has_given_up


def test_a_start_that_succeeds_ends_the_row_of_those_that_did_not() -> None:
    restarts = Restarts()
    for _ in range(3):
        for _ in range(ATTEMPTS_MAX - 1):
            assert restarts.pause_s(1, was_ready=False, ran_s=0.1) is not None
        assert restarts.pause_s(KILLED, was_ready=True, ran_s=0.1) is not None
    assert not restarts.has_given_up


@pytest.mark.parametrize("code", sorted(failures.NOT_WORTH_A_RETRY))
def test_what_would_end_the_same_way_is_not_started_again(code: int) -> None:
    restarts = Restarts()
    assert restarts.pause_s(code, was_ready=False, ran_s=0.1) is None
    assert not restarts.has_given_up


@pytest.mark.parametrize("code", [KILLED, 1, failures.APP_BROKEN, failures.DISK_FAILED])
def test_what_may_get_better_is_started_again(code: int) -> None:
    assert Restarts().pause_s(code, was_ready=False, ran_s=0.1) == 0.0


def test_a_store_that_was_ours_is_waited_for_without_end() -> None:
    restarts = Restarts()
    restarts.pause_s(KILLED, was_ready=True, ran_s=0.1)
    for _ in range(3 * ATTEMPTS_MAX):
        assert restarts.pause_s(failures.LOCKED, was_ready=False, ran_s=5.0) == PAUSE_MAX_S
