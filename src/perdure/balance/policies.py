"""Which of several backends gets the next request: four pure functions.

They exist apart from sockets and clocks so that their properties can be tested: each is told all it
needs, and returns a position among the candidates. `backends` keeps what they know between calls.

Invariants:
- No candidate with weight above 0 is starved while all are equally good.
- `rendezvous` depends on nothing but the key, the names and the weights: two balancers that see the
  same backends agree without talking, and a backend that leaves moves no key but its own.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import xxhash

PolicyName = Literal["peak-ewma", "least-connections", "round-robin", "hash"]

# A number from 0 up to 1, any as likely as another.
Draw = Callable[[], float]

_TWO_TO_53 = 1 << 53


class Candidate(Protocol):
    """What a choice may look at."""

    weight: float
    in_flight: int

    def cost(self, now_s: float) -> float:
        """How long a request more would probably take, in any unit that all share."""
        ...


def two_choices(
    candidates: Sequence[Candidate], now_s: float, draw: Draw, *, is_weighted: bool
) -> int:
    """The cheaper of two candidates drawn at random.

    Taking the best of all was rejected: several balancers, or one with figures a moment old, would
    send everything to the same backend. Weights say how often a candidate is drawn, not what it
    costs: else the lighter of two idle backends would never get anything.
    """
    count = len(candidates)
    if count == 1:
        return 0
    if is_weighted:
        first, second = _drawn(candidates, draw), _drawn(candidates, draw)
        if first == second:
            return first
    else:
        first = int(draw() * count)
        second = int(draw() * (count - 1))
        if second >= first:
            second += 1
    return second if candidates[second].cost(now_s) < candidates[first].cost(now_s) else first


def least_connections(candidates: Sequence[Candidate], draw: Draw) -> int:
    """The candidate with the least in flight for its weight; one of the equally good at random."""
    best: list[int] = []
    best_load = math.inf
    for index, candidate in enumerate(candidates):
        load = candidate.in_flight / candidate.weight
        if load < best_load:
            best_load = load
            best = [index]
        elif load == best_load:
            best.append(index)
    if len(best) == 1:
        return best[0]
    return best[_drawn([candidates[index] for index in best], draw)]


def round_robin(weights: Sequence[float], standings: Sequence[float]) -> tuple[int, list[float]]:
    """Whose turn it is, and the standings for the next call; they begin as zeros.

    Each gets its weight as credit, the richest pays the sum of all. So turns of a heavy backend lie
    apart instead of in a row.
    """
    raised = [credit + weight for credit, weight in zip(standings, weights, strict=True)]
    chosen = max(range(len(raised)), key=raised.__getitem__)
    raised[chosen] -= sum(weights)
    return chosen, raised


def rendezvous(key_hash: int, seeds: Sequence[int], weights: Sequence[float]) -> int:
    """The candidate with the highest score for this key (weighted rendezvous hashing).

    Args:
        key_hash: `hash_of` the key.
        seeds: `hash_of` each candidate's name.
        weights: the configured ones, not those of a slow start: keys must not move twice.
    """
    best, best_score = 0, -math.inf
    for index, seed in enumerate(seeds):
        mixed = xxhash.xxh3_64_intdigest(key_hash.to_bytes(8, "big"), seed)
        score = -weights[index] / math.log(((mixed >> 11) + 0.5) / _TWO_TO_53)
        if score > best_score:
            best, best_score = index, score
    return best


def hash_of(key: bytes) -> int:
    """64 bits that are the same on every machine and in every version."""
    return xxhash.xxh3_64_intdigest(key)


def _drawn(candidates: Sequence[Candidate], draw: Draw) -> int:
    point = draw() * sum(candidate.weight for candidate in candidates)
    for index, candidate in enumerate(candidates):
        point -= candidate.weight
        if point < 0:
            return index
    return len(candidates) - 1
