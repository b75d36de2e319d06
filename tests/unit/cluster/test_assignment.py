"""Who should own which shard."""

import random
import time

import pytest
import xxhash

from perdure.base.shards import SHARDS
from perdure.cluster import assignment
from perdure.cluster.assignment import heirs, targets
from perdure.store.registry import NOBODY, Member


@pytest.fixture(autouse=True)
def _nothing_remembered():
    assignment._lately.clear()


def members(*incarnations, state="active"):
    return [Member(one, "", "", "", state) for one in incarnations]


def anew(incarnations):
    """The definition: the highest hash of member and shard wins."""
    return [
        max((xxhash.xxh64_intdigest(b"%d:%d" % (one, shard)), one) for one in incarnations)[1]
        for shard in range(SHARDS)
    ]


def test_without_an_active_member_nobody_should_own_anything():
    assert set(targets([])) == {NOBODY}
    assert set(targets(members(1, 2, state="draining"))) == {NOBODY}


def test_one_member_should_own_everything_and_who_drains_nothing():
    assert set(targets([*members(7), *members(8, state="draining")])) == {7}


def test_whatever_it_is_derived_from_the_result_is_the_same():
    seeded = random.Random(4)
    there = {1, 2, 3}
    for _ in range(30):
        there ^= set(seeded.sample(range(1, 15), seeded.randint(1, 4)))
        if there:
            assert list(targets(members(*there))) == anew(there), there


def test_an_older_result_is_not_changed_by_what_is_derived_from_it():
    before = targets(members(1, 2, 3))
    copy = list(before)
    targets(members(1, 2))
    targets(members(1, 2, 3, 4))
    assert list(before) == copy


def test_a_member_that_comes_or_goes_moves_only_what_it_gets_or_had():
    three, four = targets(members(1, 2, 3)), targets(members(1, 2, 3, 4))
    moved = [shard for shard in range(SHARDS) if three[shard] != four[shard]]
    assert {four[shard] for shard in moved} == {4}
    assert len(moved) == four.count(4)


def test_shards_are_spread_evenly():
    counts = [targets(members(*range(1, 11))).count(one) for one in range(1, 11)]
    assert min(counts) > 0.8 * SHARDS / 10
    assert max(counts) < 1.2 * SHARDS / 10


def test_only_some_lists_are_remembered():
    for one in range(1, 40):
        targets(members(one))
    assert len(assignment._lately) == assignment._LATELY_MAX


def test_heirs_are_the_targets_of_the_shards_asked_for():
    wanted = targets(members(1, 2))
    assert heirs(members(1, 2), [5, 9]) == {5: wanted[5], 9: wanted[9]}


def test_one_of_a_hundred_more_or_less_takes_no_long():
    hundred = members(*range(1, 101))
    targets(hundred)
    took_s = []
    for changed in ([*hundred, *members(101)], hundred[1:], hundred[:50] + hundred[51:]):
        began_s = time.perf_counter()
        targets(changed)
        took_s.append(time.perf_counter() - began_s)
    assert min(took_s) < 0.02  # the first time takes more than 100 ms
