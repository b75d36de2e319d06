"""Who should own which shard: rendezvous hashing, so that a member that comes or goes moves only
what it gets or had.

Every member computes the same from the same list of members; nobody has to be asked. (Thaler and
Ravishankar, "Using name-based mappings to increase hit rates", 1998.)
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

import xxhash

from perdure.base.shards import SHARDS
from perdure.store.registry import NOBODY, Member


def targets(members: Iterable[Member]) -> Sequence[int]:
    """The incarnation that should own each shard; NOBODY if there is no active member."""
    return _targets(tuple(sorted(one.incarnation for one in members if one.state == "active")))


def heirs(members: Iterable[Member], shards: Iterable[int]) -> Mapping[int, int]:
    """For each of these shards the member that should own it."""
    wanted = targets(members)
    return {shard: wanted[shard] for shard in shards}


@lru_cache(maxsize=8)
def _targets(incarnations: tuple[int, ...]) -> tuple[int, ...]:
    if not incarnations:
        return (NOBODY,) * SHARDS
    digest = xxhash.xxh64_intdigest
    prefixes = [(b"%d:" % one, one) for one in incarnations]
    return tuple(
        max((digest(prefix + b"%d" % shard), one) for prefix, one in prefixes)[1]
        for shard in range(SHARDS)
    )
