"""A process's place in its cluster: what it does there, and how others reach it."""

from typing import Literal

import msgspec

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
    state_at: str | None = None  # of a `web` process, where the store has no registry: the owner
    certificate: str | None = None  # PEM files; with them all links are TLS, checked both ways
    private_key: str | None = None
    authority: str | None = None

    def __repr__(self) -> str:
        return f"Place({self.role!r}, {self.name!r})"  # the key is a secret
