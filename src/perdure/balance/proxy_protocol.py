"""The PROXY protocol, version 2: what a balancer tells the next server about who is connected.

A header before the first byte of a connection. Read and written here as bytes only, without
sockets, so that any input can be tried. Who may send one is for the caller to say: anybody who may
can claim to be anyone.

Invariants:
- A header is understood completely or refused; nothing in it is skipped because it looks odd.
- Nothing behind the header is taken along, and what is waited for has a bound.

Version 1, which is text, is not read: its lines have no length, and every proxy speaks version 2.
"""

import socket
import struct
from collections.abc import Iterator

import msgspec

from perdure.base.errors import ProxyProtocolError

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_HEAD = struct.Struct("!12sBBH")
_EXTENSION = struct.Struct("!BH")
_LENGTH_MAX = 4096  # of what follows the head; addresses take 216 at most, certificates' names more
HEADER_BYTES_MAX = _HEAD.size + _LENGTH_MAX

_VERSION_LOCAL, _VERSION_PROXY = 0x20, 0x21
_CHECKSUM = 0x03  # an extension: the CRC-32C of the whole header, counted with zeros in its place
_CHECKSUM_BYTES = 4
_IPV4, _IPV6, _UNIX, _UNSPECIFIED = 1, 2, 3, 0
_FAMILIES = {_IPV4: socket.AF_INET, _IPV6: socket.AF_INET6}
_ADDRESS_BYTES = {_UNSPECIFIED: 0, _IPV4: 12, _IPV6: 36, _UNIX: 216}
_STREAM = 1

Endpoint = tuple[str, int]


class Header(msgspec.Struct, frozen=True):
    """What a header says. Without a source the connection is the proxy's own, as for a check of
    health, or its client has no address that could be told."""

    source: Endpoint | None = None
    destination: Endpoint | None = None


def encode(source: Endpoint | None, destination: Endpoint | None) -> bytes:
    """The header for a TCP connection that came from `source` to `destination`.

    Both are host, as numbers, and port; None, or two of different families: not told.
    """
    for family, kind in _FAMILIES.items():
        if source is None or destination is None:
            break
        try:
            hosts = socket.inet_pton(kind, source[0]) + socket.inet_pton(kind, destination[0])
        except OSError:
            continue
        body = hosts + struct.pack("!HH", source[1], destination[1])
        return _HEAD.pack(_SIGNATURE, _VERSION_PROXY, family << 4 | _STREAM, len(body)) + body
    return _HEAD.pack(_SIGNATURE, _VERSION_LOCAL, 0, 0)


def decode(received: bytes) -> tuple[Header, int] | None:
    """The header at the begin of what was received, and how many bytes it takes.

    None: more must be received, though never more than HEADER_BYTES_MAX in all. Raises
    ProxyProtocolError as soon as it can be none.
    """
    if received[: len(_SIGNATURE)] != _SIGNATURE[: len(received)]:
        raise ProxyProtocolError("the connection does not begin with a PROXY header")
    if len(received) < _HEAD.size:
        return None
    _, version, kind, length = _HEAD.unpack_from(received)
    if version not in (_VERSION_LOCAL, _VERSION_PROXY):
        raise ProxyProtocolError(f"PROXY version and command are {version:#04x}, not 2")
    if length > _LENGTH_MAX:
        raise ProxyProtocolError(f"PROXY header of {length} bytes, and {_LENGTH_MAX} are the most")
    end = _HEAD.size + length
    if len(received) < end:
        return None
    header = received[:end]
    family, transport = kind >> 4, kind & 15
    is_local = version == _VERSION_LOCAL
    if family not in _ADDRESS_BYTES or transport > 2:
        raise ProxyProtocolError(f"PROXY address family and protocol are {kind:#04x}")
    begin = _HEAD.size + (0 if is_local and not length else _ADDRESS_BYTES[family])
    if begin > end:
        raise ProxyProtocolError(f"PROXY header of {length} bytes is too short for its addresses")
    _check_extensions(header, begin)
    if is_local or family not in _FAMILIES:
        return Header(), end
    if transport != _STREAM:
        raise ProxyProtocolError("PROXY header for another protocol than TCP")
    return _addresses(header, _FAMILIES[family], begin), end


def _addresses(header: bytes, family: socket.AddressFamily, end: int) -> Header:
    hosts = header[_HEAD.size : end - 4]
    source_port, destination_port = struct.unpack("!HH", header[end - 4 : end])
    half = len(hosts) // 2
    return Header(
        (socket.inet_ntop(family, hosts[:half]), source_port),
        (socket.inet_ntop(family, hosts[half:]), destination_port),
    )


def _check_extensions(header: bytes, begin: int) -> None:
    for kind, value_at, length in _extensions(header, begin):
        if kind != _CHECKSUM:
            continue
        if length != _CHECKSUM_BYTES:
            raise ProxyProtocolError(f"PROXY checksum of {length} bytes")
        value_end = value_at + length
        blank = header[:value_at] + bytes(length) + header[value_end:]
        if crc32c(blank) != int.from_bytes(header[value_at:value_end], "big"):
            raise ProxyProtocolError("PROXY header with a wrong checksum")


def _extensions(header: bytes, begin: int) -> Iterator[tuple[int, int, int]]:
    at = begin
    while at < len(header):
        if at + _EXTENSION.size > len(header):
            raise ProxyProtocolError("PROXY header ends in the middle of an extension")
        kind, length = _EXTENSION.unpack_from(header, at)
        at += _EXTENSION.size
        if at + length > len(header):
            raise ProxyProtocolError("PROXY extension is longer than its header")
        yield kind, at, length
        at += length


def _table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_TABLE = _table()


def crc32c(covered: bytes) -> int:
    """The Castagnoli checksum; Python has only the other one."""
    rest = 0xFFFFFFFF
    for byte in covered:
        rest = rest >> 8 ^ _TABLE[(rest ^ byte) & 0xFF]
    return rest ^ 0xFFFFFFFF
