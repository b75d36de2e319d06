"""Shards: the portions in which actors change owners.

A key belongs to one of 4,096 shards for ever; who owns a shard changes. The number is far above any
number of processes, so that shares come out even, and far below any number of actors. The hash is
xxHash32 of the key's UTF-8, seed 0, which load balancers know too. The class does not count: actors
with the same key live together, and calls between them stay in one process.

Where one database is not enough, several hold the actors: each is a *cell*, and a shard belongs to
one of them for ever. A cell is a cluster of its own; which shards are its own follows from its
number alone.
"""

import msgspec
import xxhash

SHARDS = 4096

_hash = xxhash.xxh32_intdigest


def shard_of(key: str) -> int:
    """The shard of all actors with this key."""
    return _hash(key.encode()) % SHARDS


class Cell(msgspec.Struct, frozen=True):
    """One of the databases that hold the actors; the default: there is only one."""

    number: int = 0  # from 0 on, in the order in which the databases are named
    count: int = 1

    def __str__(self) -> str:
        return f"cell {self.number + 1} of {self.count}"

    def has(self, key: str) -> bool:
        """True if actors with this key are stored here."""
        return cell_of(key, self.count) == self.number

    @property
    def shards(self) -> range:
        """The shards of this cell."""
        return range(self.number, SHARDS, self.count)


ONLY = Cell()


def cell_of(key: str, count: int) -> int:
    """The number of the cell, of so many, that holds all actors with this key."""
    return 0 if count == 1 else shard_of(key) % count
