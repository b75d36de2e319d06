"""Who should own which shard: rendezvous hashing, so that a member that comes or goes moves only
what it gets or had.

Every member computes the same from the same list of members; nobody has to be asked. (Thaler and
Ravishankar, "Using name-based mappings to increase hit rates", 1998.)

Computing it anew takes one hash for each member and shard, which for a hundred members would keep
the event loop for a tenth of a second. So it is derived from the most similar list that was asked
for lately: who came competes with the winners, and only what was won by those who went is played
again. The result is the same whatever it was derived from.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

import xxhash

from perdure.base.shards import SHARDS
from perdure.store.registry import NOBODY, Member

_LATELY_MAX = 8  # lists that are remembered: as now, and without those who may be dead


def targets(members: Iterable[Member]) -> Sequence[int]:
    """The incarnation that should own each shard; NOBODY if there is no active member."""
    return _won_by(members).winners


def share_of(incarnation: int, members: Iterable[Member]) -> AbstractSet[int]:
    """The shards that this member should own: it asks after everything that it hears."""
    won = _won_by(members)
    share = won.shares.get(incarnation)
    if share is None:
        share = won.shares[incarnation] = frozenset(
            [shard for shard, one in enumerate(won.winners) if one == incarnation]
        )
    return share


def heirs(members: Iterable[Member], shards: Iterable[int]) -> Mapping[int, int]:
    """For each of these shards the member that should own it."""
    wanted = targets(members)
    return {shard: wanted[shard] for shard in shards}


def _won_by(members: Iterable[Member]) -> "_Won":
    wanted = frozenset([one.incarnation for one in members if one.state == "active"])
    won = _lately.get(wanted)
    if won is None:
        base = min(_lately, key=lambda one: len(one ^ wanted), default=_NO_ONE)
        if len(base ^ wanted) > len(wanted):
            base = _NO_ONE
        won = _lately[wanted] = _derived(_lately.get(base, _UNCLAIMED), base, wanted)
        if len(_lately) > _LATELY_MAX:
            _lately.popitem(last=False)
    _lately.move_to_end(wanted)
    return won


class _Won(NamedTuple):
    """By shard, who has the highest digest, and which that is. Never changed once it is made, but
    for the shares, which are found when they are asked for."""

    winners: Sequence[int]
    digests: Sequence[int]
    shares: dict[int, frozenset[int]]


_NO_ONE: frozenset[int] = frozenset()
_UNCLAIMED = _Won((NOBODY,) * SHARDS, (-1,) * SHARDS, {})
_SHARD_NAMES = [b"%d" % shard for shard in range(SHARDS)]

_lately: OrderedDict[frozenset[int], _Won] = OrderedDict()  # the latest last


def _derived(won: _Won, base: frozenset[int], wanted: frozenset[int]) -> _Won:
    winners, digests = list(won.winners), list(won.digests)
    gone = base - wanted
    if gone:
        free = [shard for shard, one in enumerate(winners) if one in gone]
        for shard in free:
            winners[shard], digests[shard] = NOBODY, -1
        for incarnation in base & wanted:
            _compete(winners, digests, incarnation, free)
    for incarnation in wanted - base:
        _compete(winners, digests, incarnation, range(SHARDS))
    return _Won(winners, digests, {})


def _compete(
    winners: list[int], digests: list[int], incarnation: int, shards: Iterable[int]
) -> None:
    digest_of, prefix = xxhash.xxh64_intdigest, b"%d:" % incarnation
    for shard in shards:
        digest = digest_of(prefix + _SHARD_NAMES[shard])
        if digest > digests[shard] or (digest == digests[shard] and incarnation > winners[shard]):
            winners[shard], digests[shard] = incarnation, digest
