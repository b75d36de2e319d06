"""Shards: the portions in which actors change owners.

A key belongs to one of 4,096 shards for ever; who owns a shard changes. The number is far above any
number of processes, so that shares come out even, and far below any number of actors. The hash is
xxHash32 of the key's UTF-8, seed 0, which load balancers know too. The class does not count: actors
with the same key live together, and calls between them stay in one process.
"""

import xxhash

SHARDS = 4096

_hash = xxhash.xxh32_intdigest


def shard_of(key: str) -> int:
    """The shard of all actors with this key."""
    return _hash(key.encode()) % SHARDS
