"""Where the processes of this machine listen for each other, and which key they show.

With `--cluster-listen HOST:PORT` they listen on TCP ports from PORT on: one for each process that
owns actors, and one more, since during a roll-out there is one process more. Otherwise they listen
on Unix sockets in a directory that nobody else may enter.

That directory lies in a SQLite store's own, which nothing tidies up; what sweeps /tmp may take a
live socket for a stale file. Where there is none, or its path is too long for a socket, a temporary
directory has to do.
"""

import contextlib
import itertools
import os
import secrets
import shutil
import socket
import tempfile
from pathlib import Path
from typing import Self

from perdure.cli.address import PORT_MAX, is_any_address, joined, split
from perdure.cli.cluster_key import no_key, read_key
from perdure.cli.failures import Failure
from perdure.cli.layout import ClusterOptions, Layout
from perdure.runtime.place import Place, Role

_PATH_BYTES_MAX = 90  # of a Unix socket, as `cluster.sockets` has it, which is heavy to import
_NAME_BYTES_MAX = 16  # of a socket in the directory, its slash included
_KEY_BYTES = 32


class Places:
    """Gives each process its place, and another process of its kind one beside it.

    Use as a context manager: leaving it removes what was made for the sockets.
    """

    def __init__(self, layout: Layout, cluster: ClusterOptions, store: str) -> None:
        self.door: str | None = None  # where HTTP is answered, if the store can tell it others
        self._layout = layout
        self._cluster = cluster
        self._host = socket.gethostname()
        self._ports = _Ports(layout, cluster) if cluster.listen is not None else None
        self._key = _key_for(layout, cluster)
        self._store = store
        self._made: Path | None = None
        self._directory: Path | None = None
        self._numbers = itertools.count(1)

    def __enter__(self) -> Self:
        if self._key and self._ports is None:
            self._directory = _inside_of(self._store)
            if self._directory is None:
                self._directory = self._made = Path(tempfile.mkdtemp(prefix="perdure-"))
        return self

    def __exit__(self, *_: object) -> None:
        if self._made is not None:
            shutil.rmtree(self._made, ignore_errors=True)

    def take(self, role: Role, number: int) -> Place:
        """The place of a process that is about to start."""
        if not self._key:
            return Place(role)
        listen, advertise = (None, None) if role == "web" else self._address()
        alone = role == "web" and not self._layout.has_registry
        return Place(
            role,
            f"{self._host}/{role}-{number}" if number else f"{self._host}/{role}",
            self._key,
            listen,
            advertise,
            door=None if role == "state" else self.door,
            cell=max(number - 1, 0) % self._layout.cells if role == "state" else 0,
            state_at=self._only_owner() if alone else None,
            certificate=_text(self._cluster.certificate),
            private_key=_text(self._cluster.private_key),
            authority=_text(self._cluster.authority),
        )

    def give_back(self, place: Place) -> None:
        """The process that had this place has ended."""
        if self._ports is not None and place.listen is not None:
            self._ports.give_back(place.listen)
        elif self._layout.has_registry and place.listen is not None:
            with contextlib.suppress(OSError):  # it did so itself, unless it was killed
                Path(place.listen.removeprefix("unix:")).unlink()

    def _address(self) -> tuple[str, str | None]:
        if self._ports is not None:
            return self._ports.take()
        if self._layout.has_registry:
            return f"unix:{self._directory}/state-{next(self._numbers)}", None
        # One path for all who come after each other: the web processes stay, and know only this.
        return self._only_owner(), None

    def _only_owner(self) -> str:
        return f"unix:{self._directory}/state"


class _Ports:
    """The TCP ports of `--cluster-listen`, and under which ones others see them."""

    def __init__(self, layout: Layout, cluster: ClusterOptions) -> None:
        assert cluster.listen is not None
        self._host, first = split(cluster.listen, "--cluster-listen 10.0.0.5:7000")
        count = (layout.state or 1) + 1
        if first + count - 1 > PORT_MAX:
            raise Failure(f"--cluster-listen takes {count} ports from {first} on: too few are left")
        self._free = list(range(first, first + count)) if first else [0] * count
        self._advertise = _advertised(cluster, self._host, first)
        self._shift = self._advertise[1] - first if self._advertise else 0

    def take(self) -> tuple[str, str | None]:
        port = self._free.pop(0)
        listen = f"tcp:{joined(self._host, port)}"
        if self._advertise is None:
            return listen, None
        return listen, f"tcp:{joined(self._advertise[0], port + self._shift)}"

    def give_back(self, listen: str) -> None:
        self._free.append(int(listen.rpartition(":")[2]))


def _advertised(cluster: ClusterOptions, host: str, port: int) -> tuple[str, int] | None:
    if cluster.advertise is None:
        if is_any_address(host):
            raise Failure(
                f"no other machine can reach {host}, on which --cluster-listen listens",
                "say how they reach this one: --advertise HOST:PORT",
            )
        return None
    advertised = split(cluster.advertise, "--advertise shop-1.internal:7000")
    if not port or not advertised[1]:
        raise Failure("--advertise needs a fixed port, and so does --cluster-listen")
    return advertised


def _key_for(layout: Layout, cluster: ClusterOptions) -> bytes:
    """The key to show, or b"" if there is nobody to show it to."""
    if layout.is_one and not layout.has_registry:
        return b""
    given = read_key(cluster.key_file)
    if not given and cluster.listen is not None:
        raise no_key("--cluster-listen")
    if not given and layout.state == 0:
        raise no_key("a machine that only serves requests")
    return given or secrets.token_bytes(_KEY_BYTES)


def _inside_of(store: str) -> Path | None:
    """A private directory inside that of a SQLite store, or None."""
    scheme, _, rest = store.partition(":")
    if scheme != "sqlite":
        return None
    directory = Path(rest.removeprefix("//") or ".").absolute() / "links"
    if len(os.fsencode(directory)) + _NAME_BYTES_MAX > _PATH_BYTES_MAX:
        return None
    try:
        directory.mkdir(0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
    except OSError:  # what is wrong with the data directory, its owner will say better
        return None
    return directory


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path.absolute())
