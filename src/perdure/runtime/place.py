"""A process's place in its cluster: what it does there, and how others reach it."""

from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Literal

import msgspec

from perdure.base.ids import new_id

Role = Literal["all", "state", "web"]


class Place(msgspec.Struct, frozen=True):
    """What a process is told about the others. The default: it is alone.

    `all` serves requests and owns actors, `state` only owns actors, and `web` only serves: it sends
    every call to where its actor is.
    """

    role: Role = "all"
    name: str = ""  # for people; empty: made of machine and pid
    key: bytes = b""  # that all processes of the cluster share
    listen: str | None = None  # `tcp:HOST:PORT` or `unix:PATH`, for the other processes
    advertise: str | None = None  # where they reach it, if that is not where it listens
    door: str | None = None  # `HOST:PORT` where it answers HTTP, to be told in the registry
    cell: int = 0  # whose actors it may own, where there are several databases
    state_at: str | None = None  # of a `web` process, where the store has no registry: the owner
    certificate: str | None = None  # PEM files; with them all links are TLS, checked both ways
    private_key: str | None = None
    authority: str | None = None

    def __repr__(self) -> str:
        return f"Place({self.role!r}, {self.name!r})"  # the key is a secret


@contextmanager
def private_place() -> Iterator[Place]:
    """The place of a process that shares its database with nobody, or is refused.

    It joins, since only members are kept apart from all others that commit; but with a key that
    nobody else has, at an address where nobody else comes. The address goes after the block.
    """
    with TemporaryDirectory(prefix="perdure-") as directory:  # only its user may enter it
        yield Place(key=(new_id() + new_id()).encode(), listen=f"unix:{directory}/alone")
