"""The four policies as pure functions."""

import random
from collections import Counter
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from perdure.balance.policies import (
    hash_of,
    least_connections,
    rendezvous,
    round_robin,
    two_choices,
)


@dataclass
class Known:
    weight: float = 1.0
    in_flight: int = 0
    latency_s: float = 0.001

    def cost(self, now_s: float) -> float:
        return self.latency_s * (self.in_flight + 1)


def test_of_two_backends_the_cheaper_one_is_always_taken() -> None:
    draw = random.Random(1).random
    pair = [Known(latency_s=0.02), Known(latency_s=0.01)]
    assert {two_choices(pair, 0, draw, is_weighted=False) for _ in range(100)} == {1}


@given(st.integers(1, 9), st.integers(0, 2**32))
def test_the_dearest_of_several_is_never_taken_by_two_choices(count: int, seed: int) -> None:
    draw = random.Random(seed).random
    candidates = [Known(in_flight=index) for index in range(count)]
    chosen = {two_choices(candidates, 0, draw, is_weighted=False) for _ in range(50)}
    assert chosen <= set(range(max(1, count - 1)))


def test_two_choices_give_equal_backends_equal_parts() -> None:
    draw = random.Random(2).random
    candidates = [Known() for _ in range(4)]
    counts = Counter(two_choices(candidates, 0, draw, is_weighted=False) for _ in range(8000))
    assert all(1800 < counts[index] < 2200 for index in range(4))


def test_two_choices_give_idle_backends_parts_by_weight() -> None:
    draw = random.Random(3).random
    candidates = [Known(weight=3), Known(weight=1)]
    counts = Counter(two_choices(candidates, 0, draw, is_weighted=True) for _ in range(8000))
    # Both drawn: the first named of equals is taken, and each is named first by its weight.
    assert 5700 < counts[0] < 6300


def test_the_least_busy_for_its_weight_is_taken() -> None:
    draw = random.Random(4).random
    candidates = [Known(weight=1, in_flight=2), Known(weight=4, in_flight=4), Known(in_flight=3)]
    assert least_connections(candidates, draw) == 1


def test_the_equally_busy_share() -> None:
    draw = random.Random(5).random
    candidates = [Known(in_flight=1), Known(in_flight=0), Known(in_flight=0)]
    counts = Counter(least_connections(candidates, draw) for _ in range(1000))
    assert counts[0] == 0
    assert min(counts[1], counts[2]) > 400


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_a_round_gives_each_exactly_its_weight(weights: list[int]) -> None:
    standings = [0.0] * len(weights)
    counts: Counter[int] = Counter()
    for _ in range(sum(weights)):
        chosen, standings = round_robin(weights, standings)
        counts[chosen] += 1
    assert [counts[index] for index in range(len(weights))] == weights
    assert all(standing == 0 for standing in standings)


NAMES = st.lists(st.binary(min_size=1, max_size=8), min_size=2, max_size=8, unique=True)


@given(NAMES, st.lists(st.binary(), min_size=1, max_size=20), st.data())
def test_a_backend_that_leaves_moves_only_its_own_keys(
    names: list[bytes], keys: list[bytes], data: st.DataObject
) -> None:
    gone = data.draw(st.sampled_from(names))
    left = [name for name in names if name != gone]
    for key in keys:
        before = names[_rendezvous(key, names)]
        after = left[_rendezvous(key, left)]
        assert before == gone or after == before


@given(NAMES, st.binary(), st.randoms())
def test_the_order_of_the_backends_does_not_matter(
    names: list[bytes], key: bytes, shuffler: random.Random
) -> None:
    others = names[:]
    shuffler.shuffle(others)
    assert names[_rendezvous(key, names)] == others[_rendezvous(key, others)]


def test_keys_are_spread_by_weight() -> None:
    seeds = [hash_of(name) for name in (b"a", b"b", b"c")]
    counts = Counter(rendezvous(hash_of(b"%d" % n), seeds, [1, 1, 2]) for n in range(8000))
    assert 1850 < counts[0] < 2150
    assert 1850 < counts[1] < 2150
    assert 3800 < counts[2] < 4200


def test_a_key_goes_where_it_went_in_every_version() -> None:
    """Were this to change, balancers of two versions side by side would not agree."""
    names = [b"10.0.0.1:80", b"10.0.0.2:80", b"10.0.0.3:80"]
    assert [_rendezvous(b"key-%d" % n, names) for n in range(12)] == VECTOR


VECTOR = [1, 2, 2, 1, 1, 1, 2, 2, 0, 0, 2, 1]


def _rendezvous(key: bytes, names: list[bytes]) -> int:
    return rendezvous(hash_of(key), [hash_of(name) for name in names], [1] * len(names))
