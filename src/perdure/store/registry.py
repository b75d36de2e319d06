"""The Registry protocol: what processes that share a database keep there about each other.

Two small tables. *Members*: one row per start of a process that owns actors, with its lease. And
*shards*: 4,096 rows, each with its owner. Both change only in transactions that say what they rest
on, so that any number of processes may try the same at once. All times are the database's own;
nobody's clock is compared with another's.

A third says where HTTP requests can be sent: the *doors*. Nothing that must be right rests on it.

Every member also has a *fence*: a row that each of its commits changes. Taking a member out removes
that row, and so waits for a commit under way and refuses all later ones.

The contract is written as tests in `perdure.testing.registry_contract`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol

import msgspec

from perdure.base.errors import FencedError, OtherClusterError
from perdure.base.shards import Cell

NOBODY = 0  # owns the shards that wait for an owner


class Member(msgspec.Struct, frozen=True):
    """One process that owns actors, or did until its lease ran out."""

    incarnation: int  # one for each start, rising; never used again
    name: str  # for people: its machine and pid
    address: str  # where its peers reach it: `tcp:HOST:PORT` or `unix:PATH`
    release: str  # of Perdure, for people
    state: Literal["active", "draining"] = "active"  # draining: by its own will, or asked to
    lease_left_ms: int = 0  # when it was read; negative: it is over


class View(msgspec.Struct, frozen=True):
    """Who is there and who owns what, as of one moment."""

    version: int  # rises whenever a member comes, goes or drains, or a shard changes its owner
    members: Sequence[Member]
    owners: Sequence[int] | None
    """The incarnation that owns each shard, by shard, or NOBODY; None: as in the version that the
    asker knows."""


class Door(msgspec.Struct, frozen=True):
    """An address where a process answers HTTP requests, as that process announced it.

    Web processes that share a listening socket announce the same address, each under its own name.
    """

    address: str  # `HOST:PORT`
    name: str  # of the process: its machine, a slash, and what tells it from all others there
    release: str  # of Perdure, for people
    state: Literal["active", "draining"] = "active"  # draining: send it no new requests


class Registry(Protocol):
    """Every method is one transaction and may raise StoreError."""

    session_lost: Callable[[], None]
    """Set by who has joined: called when the database may have no session of it any more, which a
    `take_over` takes for a sign of death. Where sessions do not tell, it is never called."""

    async def open(self, *, make_tables: bool = True) -> None:
        """Connect, and make the tables if they are not there; or else raise StoreError."""
        ...

    async def claim(self, cell: Cell) -> None:
        """Let the database be this cell for good. Raises OtherClusterError if it is another, or
        was in use before as the only one."""
        ...

    async def close(self) -> None:
        """Disconnect; memberships stay."""
        ...

    async def join(
        self, name: str, address: str, release: str, lease_ttl_s: float, key_fingerprint: str
    ) -> int:
        """Become a member that owns nothing yet; returns its incarnation.

        All members have the same fingerprint, or they could not reach each other. Members with
        another one are taken out if their leases are over. Raises OtherClusterError, and changes
        nothing, if one is not.
        """
        ...

    def stand_on(self, incarnation: int) -> None:
        """Be this member for the database: from now on it shows others a session of that name, as
        long as the member renews its lease."""
        ...

    async def renew(
        self,
        incarnation: int,
        lease_ttl_s: float,
        state: Literal["active", "draining"],
        known_version: int,
    ) -> View:
        """Let the lease end `lease_ttl_s` from now, and look around.

        Who was asked to drain is seen as draining, whatever it says of itself here.

        Raises FencedError when this is no member any more.
        """
        ...

    async def view(self, known_version: int) -> View:
        """Look around only."""
        ...

    async def take_over(
        self, victim: int, heirs: Mapping[int, int], *, seen_dead: bool
    ) -> View | None:
        """Take a member out, and give its shards away.

        It must have a lease that is over; or else the caller must have `seen_dead` that its process
        is gone, and the database must agree that it has no connection from it any more. Whatever
        the victim had committed is there when this returns, and nothing will follow.

        Args:
            victim: the member; or NOBODY, to give away shards without an owner.
            heirs: the new owner for each shard the victim may have. A shard that is not named, or
                whose heir is no member, goes to NOBODY.
            seen_dead: that the process is gone, and not only silent.

        Returns None, and changes nothing, if the victim may not be taken out or has been already,
        or has no such shard and is NOBODY. Raises StoreError also if a commit of the victim is
        under way and does not end soon.
        """
        ...

    async def hand_over(
        self, incarnation: int, heirs: Mapping[int, int], known_version: int
    ) -> View:
        """Give own shards to others; those that it does not own are left as they are, and those
        whose heir is no member stay its own. Raises FencedError.

        So do those that came to it after `known_version`: a hand-over that is delivered late, when
        its repetition was answered long ago and a shard has come back, must not take it away again.
        """
        ...

    async def ask_to_drain(self, incarnation: int) -> bool:
        """Let everybody, itself included, see this member as draining from now on, until it is none
        any more. False: it is none."""
        ...

    async def leave(self, incarnation: int) -> None:
        """Be a member no longer; shards that are left go to NOBODY. Nothing if it is none."""
        ...

    async def announce(self, door: Door, ttl_s: float) -> None:
        """Let others see this door, as it is now, for `ttl_s` from now on."""
        ...

    async def doors(self) -> list[Door]:
        """All doors whose time is not over, sorted by address and name."""
        ...

    async def withdraw(self, door: Door) -> None:
        """Let nobody see it any more: the one with its address and name, whatever its state."""
        ...


def fenced(incarnation: int) -> FencedError:
    """The error for a process that is no member any more."""
    return FencedError(
        f"process {incarnation} is no member any more: its lease ran out, or it was seen dead"
    )


def other_cluster(name: str) -> OtherClusterError:
    """The error for a process whose key is not that of the members; `name` is one of those."""
    return OtherClusterError(
        f"another cluster runs on this database: its member {name!r} uses another key; give this "
        "process the same one, or a database of its own"
    )


def other_cell(found: Cell, wanted: Cell) -> OtherClusterError:
    """The error for a database that holds other shards than it was named for."""
    return OtherClusterError(
        f"this database is {found}, and was named as {wanted}: name all databases, in the order in "
        "which they were named at first"
    )
