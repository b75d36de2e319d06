"""GCRA and its tables: against a log of all requests, and when there is no room."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as some

from perdure.base import gcra
from perdure.base.gcra import NS_PER_S, Counters, Policy, Table, policy

POLICIES = some.builds(
    lambda limit, per_s, burst: policy("p", limit=limit, per_s=per_s, burst=burst),
    some.integers(1, 50),
    some.integers(1, 100),
    some.integers(1, 50),
)


class Log:
    """Knows every request that was allowed, by when it came: slow, and plainly right.

    A bucket with room for a burst, that has leaked what came since: what a rate means.
    """

    def __init__(self, wanted: Policy) -> None:
        self._policy = wanted
        self._allowed_ns: list[int] = []

    def allows(self, now_ns: int) -> bool:
        """Whether each stretch that ends now would still hold no more than it may."""
        for place, began_ns in enumerate(self._allowed_ns):
            count = len(self._allowed_ns) - place + 1  # with the one that is asked for
            most_ns = self._policy.burst_ns + (now_ns - began_ns)
            if count * self._policy.interval_ns > most_ns:
                return False
        self._allowed_ns.append(now_ns)
        return True


@given(POLICIES, some.lists(some.integers(0, 3 * NS_PER_S), max_size=80))
def test_it_decides_as_a_log_of_all_requests_does(wanted: Policy, waits_ns: list[int]) -> None:
    counters, log, now_ns = Counters(1), Log(wanted), 10**15
    for wait_ns in waits_ns:
        now_ns += wait_ns
        assert counters.decide("a", [wanted], now_ns).allowed == log.allows(now_ns)


@given(POLICIES, some.lists(some.integers(0, 3 * NS_PER_S), max_size=80))
def test_what_it_says_is_left_is_left_and_more_comes_when_it_says(
    wanted: Policy, waits_ns: list[int]
) -> None:
    counters, now_ns = Counters(1), 10**15
    for wait_ns in waits_ns:
        now_ns += wait_ns
        verdict = counters.decide("a", [wanted], now_ns)
        (ahead_ns,) = verdict.ahead_ns
        left, more_ns = wanted.left(ahead_ns)
        assert verdict.allowed or left == 0
        assert wanted.left(ahead_ns - more_ns)[0] == left + 1
        assert wanted.left(ahead_ns - more_ns + 1)[0] == left


@pytest.mark.parametrize(("limit", "per_s"), [(100, 60), (3, 1), (7, 60), (1, 1), (999, 7)])
def test_a_burst_is_exactly_the_limit(limit: int, per_s: int) -> None:
    wanted, counters = policy("p", limit=limit, per_s=per_s, burst=limit), Counters(1)
    allowed = [counters.decide("a", [wanted], 12345).allowed for _ in range(limit + 5)]
    assert allowed == [True] * limit + [False] * 5
    later_ns = 12345 + per_s * NS_PER_S + limit  # an interval is rounded up by less than one
    assert [counters.decide("a", [wanted], later_ns).allowed for _ in range(limit)] == [
        True
    ] * limit


@given(some.integers(1, 10**9), some.integers(1, 10**9))
def test_an_interval_is_rounded_to_the_safe_side(limit: int, per_s: int) -> None:
    made = policy("p", limit=limit, per_s=per_s, burst=limit)
    assert per_s * NS_PER_S <= made.interval_ns * limit < per_s * NS_PER_S + limit


def test_all_policies_allow_it_or_it_counts_under_none() -> None:
    few, many = (
        policy("few", limit=1, per_s=60, burst=1),
        policy("many", limit=9, per_s=60, burst=9),
    )
    counters = Counters(1)
    assert counters.decide("a", [many, few], 0).allowed
    for _ in range(20):
        refused = counters.decide("a", [many, few], 0)
        assert not refused.allowed
        assert [
            one.left(ahead)[0] for one, ahead in zip([many, few], refused.ahead_ns, strict=True)
        ] == [8, 0]
    assert [counters.decide("a", [many], 0).allowed for _ in range(9)] == [True] * 8 + [False]


def test_what_is_given_back_can_be_had_again_and_never_more() -> None:
    wanted, counters = policy("p", limit=2, per_s=60, burst=2), Counters(1)
    for _ in range(2):
        assert counters.decide("a", [wanted], 0).allowed
    counters.give_back("a", [wanted], 0)
    assert [counters.decide("a", [wanted], 0).allowed for _ in range(2)] == [True, False]
    counters.give_back("nobody", [wanted], 0)
    assert len(counters) == 1
    later_ns = 10**12
    counters.give_back("a", [wanted], later_ns)  # it has all of it already
    assert [counters.decide("a", [wanted], later_ns).allowed for _ in range(3)] == [
        True,
        True,
        False,
    ]


def test_a_flood_of_strangers_resets_nobody_and_stays_within_its_bound() -> None:
    wanted, counters = policy("p", limit=100, per_s=60, burst=100), Counters(1024)
    for _ in range(100):
        assert counters.decide("victim", [wanted], 0).allowed
    for number in range(50_000):
        counters.decide(f"stranger {number}", [wanted], number)
    assert len(counters) <= 1024
    assert not counters.decide("victim", [wanted], 50_000).allowed
    # 50 each, on average, in place of one of their own: a newcomer still has a part of a burst
    left = sum(counters.decide("newcomer", [wanted], 50_000).allowed for _ in range(100))
    assert 20 < left < 80


def test_strangers_that_come_in_turns_have_no_more_than_their_limits() -> None:
    wanted, counters = policy("p", limit=3, per_s=3600, burst=3), Counters(1)
    allowed = dict.fromkeys(range(1000), 0)
    for _ in range(10):
        for number in allowed:
            allowed[number] += counters.decide(f"stranger {number}", [wanted], 1).allowed
    assert max(allowed.values()) <= 3


def test_who_has_all_of_a_burst_again_makes_room_for_newcomers() -> None:
    wanted, counters = policy("p", limit=1, per_s=1, burst=1), Counters(1)
    for second in range(1, 6):
        now_ns = second * 2 * NS_PER_S
        for number in range(128):
            assert counters.decide(f"{second} {number}", [wanted], now_ns).allowed
        assert len(counters) == 128
    assert not counters.decide("5 0", [wanted], now_ns).allowed


@given(
    some.lists(
        some.tuples(some.integers(0, 300), some.integers(0, NS_PER_S)), min_size=1, max_size=2000
    )
)
def test_nobody_has_more_than_the_limit_however_full_it_is(
    requests: list[tuple[int, int]],
) -> None:
    wanted, counters, now_ns = policy("p", limit=2, per_s=60, burst=2), Counters(1), 0
    logs: dict[int, list[int]] = {}
    for subject, wait_ns in requests:
        now_ns += wait_ns
        if counters.decide(str(subject), [wanted], now_ns).allowed:
            logs.setdefault(subject, []).append(now_ns)
    assert len(counters) <= gcra._ROW_SUBJECTS_MAX
    for times_ns in logs.values():
        for first_ns, third_ns in zip(times_ns, times_ns[2:], strict=False):
            assert third_ns - first_ns >= wanted.interval_ns
        assert all(earlier <= later for earlier, later in pairwise(times_ns))


def test_a_table_without_a_floor_just_forgets() -> None:
    table = Table(1, has_floor=False)
    for number in range(200):
        table.put(str(number), 1000 + number, 0)
    assert len(table) == 128
    assert table.time_ns("0", 0) == 0
    assert table.time_ns("199", 0) == 1199
