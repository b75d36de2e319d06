"""Where a balancer learns which backends there are: named once, in a file, or by DNS.

A source is read again and again. What it says goes to whoever balances; what cannot be read changes
nothing: a balancer with an old list serves, one without a list does not. The fourth source, the
registry of a cluster, is in `sources_store`.

Invariants:
- A list that is broken or empty is refused as a whole, and logged once.
- A backend that a source lets drain, only that source lets serve again.
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from perdure.balance.backends import Backends, Target
from perdure.base.clock import Clock
from perdure.base.codec import decoder
from perdure.base.errors import SourceError

log = logging.getLogger("perdure.balance")

_FILE_EVERY_S = 0.5
_FILE_BYTES_MAX = 1 << 20
_DNS_EVERY_S = 5.0
_DNS_ANSWER_S = 5.0
WEIGHT_MAX = 256  # as HAProxy has it
_PORT_MAX = 65_535


class Found(msgspec.Struct, frozen=True):
    """All backends there are, as a source has them."""

    targets: tuple[Target, ...]
    draining: frozenset[str] = frozenset()  # names of those that get nothing new
    owners: tuple[str | None, ...] | None = None
    """Which of them is at the owner, by shard; None there: nobody is. None for all: not asked."""


Take = Callable[[Found], None]


class Source(Protocol):
    """Something that can be read for backends."""

    @property
    def every_s(self) -> float | None:
        """How long after a reading comes the next; None: there is no other."""
        ...

    async def read(self) -> Found | None:
        """What it says now; None: the same as the last time. Raises SourceError."""
        ...

    async def close(self) -> None:
        """Read no more."""
        ...


async def follow(source: Source, take: Take, clock: Clock) -> None:
    """Read the source until cancelled, and hand on what changes."""
    complaint = ""
    taken: Found | None = None
    try:
        while True:
            try:
                found = await source.read()
                complaint = ""
            except SourceError as error:
                found = None
                if str(error) != complaint:  # a file stays broken for longer than once
                    complaint = str(error)
                    log.error("backends not read, those known stay", extra={"error": complaint})
            if found is not None and found != taken:
                taken = found
                take(found)
            if source.every_s is None:
                return
            await clock.sleep(source.every_s)
    finally:
        await source.close()


async def read_once(source: Source) -> Found:
    """What it says now; raises SourceError."""
    try:
        found = await source.read()
        assert found is not None, "a first reading always says something"
        return found
    finally:
        await source.close()


def into(backends: Backends) -> Take:
    """What hands on to the backends of the built-in balancer."""
    drained: frozenset[str] = frozenset()

    def take(found: Found) -> None:
        nonlocal drained
        backends.update(found.targets)
        for target in found.targets:
            if target.name in found.draining:
                backends.drain(target.name)
            elif target.name in drained:
                backends.undrain(target.name)
        drained = found.draining

    return take


# -- how a backend is written ----------------------------------------------------------------------


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One backend in JSON."""

    address: str
    name: str | None = None
    weight: int = 1
    draining: bool = False


_lines = decoder(list[_Line])


def target_of(address: str, *, name: str | None = None, weight: int = 1) -> Target:
    """The backend at `HOST:PORT`, `[IPV6]:PORT` or `unix:PATH`; raises SourceError.

    By default it has its address for a name: so all balancers give it the same one.
    """
    if not 0 <= weight <= WEIGHT_MAX:
        raise SourceError(f"{address}: the weight is {weight}, and not 0 to {WEIGHT_MAX}")
    if "://" in address:
        raise SourceError(
            f"{address!r} is not HOST:PORT: backends are spoken to in plain HTTP, without TLS"
        )
    if address.startswith("unix:/"):
        return Target(name or address, "localhost", 0, address.removeprefix("unix:"), weight)
    host, _, port = address.rpartition(":")
    if not host or not (port.isascii() and port.isdecimal()) or not 0 < int(port) <= _PORT_MAX:
        raise SourceError(f"{address!r} is not HOST:PORT, [IPV6]:PORT or unix:/PATH")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise SourceError(f"{address!r}: an IPv6 address stands in brackets")
    host = host.removeprefix("[").removesuffix("]")
    return Target(name or address, host, int(port), None, weight)


def found_in_text(text: str) -> Found:
    """What a file says; raises SourceError.

    A line is `ADDRESS`, and behind it in any order `name=NAME`, `weight=N`, `draining`; what
    follows a # is for people. JSON is a list of objects with these fields and `address`.
    """
    try:
        if text.lstrip().startswith("["):
            return _found(_lines.decode(text))
        lines = [line.partition("#")[0].split() for line in text.splitlines()]
        return _found([_line_of(words) for words in lines if words])
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise SourceError(f"not a list of backends: {error}") from None


def _line_of(words: Sequence[str]) -> _Line:
    given: dict[str, object] = {}
    for word in words[1:]:
        option, _equals, value = word.partition("=")
        if word == "draining":
            given["draining"] = True
        elif option == "name" and value:
            given["name"] = value
        elif option == "weight" and value.isascii() and value.isdecimal():
            given["weight"] = int(value)
        else:
            raise SourceError(f"{words[0]}: {word!r} is not name=NAME, weight=N or draining")
    return msgspec.convert({"address": words[0], **given}, _Line)


def _found(lines: Iterable[_Line]) -> Found:
    lines = list(lines)
    targets = tuple(target_of(one.address, name=one.name, weight=one.weight) for one in lines)
    names = [target.name for target in targets]
    if not names:
        # whoever writes a file empties it first: that no backend is left must not be true so easily
        raise SourceError("there is no backend in it")
    for name in names:
        if names.count(name) > 1:
            raise SourceError(f"two backends have the name {name!r}")
    draining = [name for name, one in zip(names, lines, strict=True) if one.draining]
    return Found(targets, frozenset(draining))


# -- the sources -----------------------------------------------------------------------------------


class FixedSource:
    """Backends that were named when the balancer was started."""

    every_s = None

    def __init__(self, targets: Sequence[Target]) -> None:
        self._found = Found(tuple(targets))

    async def read(self) -> Found | None:
        return self._found

    async def close(self) -> None:
        """Nothing."""


class FileSource:
    """A file with one backend a line, or JSON; it is looked at twice a second.

    A notification by the system was rejected: it does not tell of changes on mounted directories,
    and a rename, with which files are replaced, has to be watched for in another place.
    """

    every_s = _FILE_EVERY_S

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, ...] = ()
        self._text: str | None = None

    async def read(self) -> Found | None:
        return await asyncio.to_thread(self._read)  # the directory may be mounted from far away

    def _read(self) -> Found | None:
        try:
            status = self._path.stat()
            seen = (status.st_mtime_ns, status.st_size, status.st_ino)
            if seen == self._seen:
                return None
            if status.st_size > _FILE_BYTES_MAX:
                raise SourceError(f"{self._path} has more than {_FILE_BYTES_MAX:,} bytes")
            text = self._path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SourceError(f"{self._path}: {error}") from None
        if text == self._text:
            self._seen = seen
            return None
        try:
            found = found_in_text(text)
        except SourceError as error:
            raise SourceError(f"{self._path}: {error}") from None
        self._seen, self._text = seen, text
        return found

    async def close(self) -> None:
        """Nothing."""


class DnsSource:
    """All addresses, of both kinds, that a name has; it is asked for every few seconds.

    Its time to live is not known: the system's resolver keeps it, and does not tell.
    """

    every_s = _DNS_EVERY_S

    def __init__(self, address: str) -> None:
        """`NAME:PORT`; raises SourceError."""
        target = target_of(address)
        self._host, self._port = target.host, target.port

    async def read(self) -> Found | None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_DNS_ANSWER_S):
                answers = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except (OSError, TimeoutError, UnicodeError) as error:
            reason = str(error) or "no answer in time"
            raise SourceError(f"{self._host} is not resolved: {reason}") from None
        hosts = sorted({str(answer[4][0]) for answer in answers})
        written = [f"[{host}]" if ":" in host else host for host in hosts]
        return _found([_Line(f"{host}:{self._port}") for host in written])

    async def close(self) -> None:
        """Nothing."""
