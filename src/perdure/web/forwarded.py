"""Who a request comes from, by the word of proxies that are trusted. Pure functions.

Invariants:
- Fields of a peer that is not trusted are never looked at.
- The hops are read from the nearest to the farthest, and only as far as each was written by one
  that is trusted: what a client wrote itself is behind that.
- `Forwarded` and `X-Forwarded-For` that name two different clients are both disbelieved: a proxy
  that sets one of them passes the other on as the client wrote it.
"""

import ipaddress
import re
from collections.abc import Callable

import msgspec

_HOPS_MAX = 32
_SCHEMES = frozenset(("http", "https"))
_PAIR = re.compile(r'\s*([A-Za-z-]+)=("(?:[^"\\]|\\.)*"|[^\s;,"]*)\s*')

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Origin(msgspec.Struct, frozen=True):
    """Who sent a request, as far as it is known."""

    client: tuple[str, int]
    scheme: str


def origin_of(
    peer: Origin, header: Callable[[bytes], bytes | None], is_trusted: Callable[[str], bool]
) -> Origin:
    """The origin of a request that a trusted peer has passed on; the peer where it says nothing.

    Args:
        header: a header of the request by its lowercase name, repeated lines joined.
    """
    plain, standard = header(b"x-forwarded-for"), header(b"forwarded")
    scheme = _scheme(header(b"x-forwarded-proto"))
    found = []
    if plain is not None:
        clients = [(_address(one), scheme) for one in plain.decode("latin-1").split(",")]
        found.append(_farthest(peer, clients, is_trusted))
    if standard is not None:
        found.append(_farthest(peer, _elements(standard.decode("latin-1")), is_trusted))
    if not found:
        return Origin(peer.client, scheme or peer.scheme)
    if any(one.client[0] != found[0].client[0] for one in found):
        return peer
    return found[0]


Hop = tuple[tuple[str, int] | None, str | None]


def _farthest(peer: Origin, hops: list[Hop], is_trusted: Callable[[str], bool]) -> Origin:
    origin = peer
    for client, scheme in hops[: -_HOPS_MAX - 1 : -1]:
        if client is None:
            break  # who is behind that, nobody has said
        origin = Origin(client, scheme or origin.scheme)
        if not is_trusted(client[0]):
            break
    return origin


def _elements(value: str) -> list[Hop]:
    hops: list[Hop] = []
    position, pairs = 0, {}
    while found := _PAIR.match(value, position):
        text = found[2]
        if text.startswith('"'):
            text = re.sub(r"\\(.)", r"\1", text[1:-1])
        pairs[found[1].lower()] = text
        position = found.end()
        end = value[position : position + 1]
        if end != ";":
            hops.append((_address(pairs.get("for", "")), _scheme(pairs.get("proto", "").encode())))
            pairs = {}
        if not end:
            return hops
        position += 1
    return [(None, None)]  # not to be understood


def _address(text: str) -> tuple[str, int] | None:
    """Host and port, 0 if there is none, of `1.2.3.4`, `1.2.3.4:5`, `::1` or `[::1]:5`."""
    host, port = text.strip(), ""
    if host.startswith("["):
        host, _, port = host[1:].partition("]")
        port = port.removeprefix(":")
    elif host.count(":") == 1:
        host, _, port = host.partition(":")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return str(address), int(port) if port.isascii() and port.isdigit() and len(port) <= 5 else 0


def _scheme(value: bytes | None) -> str | None:
    last = (value or b"").decode("latin-1").rpartition(",")[2].strip().lower()
    return last if last in _SCHEMES else None
