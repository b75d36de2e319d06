"""The PROXY protocol, written and read; and whatever else may come instead."""

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.balance.proxy_protocol import HEADER_BYTES_MAX, Header, crc32c, decode, encode
from perdure.base.errors import ProxyProtocolError

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
IPV4 = bytes([10, 0, 0, 1, 10, 0, 0, 2]) + struct.pack("!HH", 50_000, 443)
PORTS = st.integers(0, 65_535)
HOSTS = (
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda one: socket.inet_ntop(socket.AF_INET6, one.packed)),
)


def raw(body: bytes = IPV4, version: int = 0x21, kind: int = 0x11, length: int | None = None):
    return (
        SIGNATURE
        + struct.pack("!BBH", version, kind, len(body) if length is None else length)
        + body
    )


def extension(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


@given(st.sampled_from(HOSTS).flatmap(lambda one: st.tuples(one, one)), PORTS, PORTS, st.binary())
def test_what_is_written_is_read_back_and_nothing_behind_it(hosts, port, other, rest) -> None:
    source, destination = (hosts[0], port), (hosts[1], other)
    written = encode(source, destination)
    assert decode(written + rest) == (Header(source, destination), len(written))
    for end in range(len(written)):
        assert decode(written[:end]) is None


@pytest.mark.parametrize(
    ("source", "destination"),
    [(None, None), (("10.0.0.1", 1), None), (("10.0.0.1", 1), ("::1", 1)), (("x", 1), ("y", 2))],
)
def test_what_cannot_be_told_is_written_as_the_proxys_own(source, destination) -> None:
    written = encode(source, destination)
    assert written == SIGNATURE + b"\x20\0\0\0"
    assert decode(written) == (Header(), 16)


def test_a_known_header_is_written_byte_for_byte() -> None:
    assert encode(("10.0.0.1", 50_000), ("10.0.0.2", 443)) == raw()
    assert encode(("::1", 1), ("::2", 2)).startswith(SIGNATURE + b"\x21\x21\0\x24")


def test_extensions_are_passed_over() -> None:
    body = (
        IPV4 + extension(0x02, b"shop.example") + extension(0x04, bytes(100)) + extension(0xE0, b"")
    )
    found = decode(raw(body) + b"GET /")
    assert found == (Header(("10.0.0.1", 50_000), ("10.0.0.2", 443)), 16 + len(body))


@pytest.mark.parametrize(
    "header",
    [
        raw(b"", 0x20, 0x00),
        raw(IPV4, 0x20, 0x11),  # a check of health that tells addresses all the same
        raw(b"", 0x20, 0x11),
        raw(b"", 0x21, 0x00),
        raw(bytes(216), 0x21, 0x31),
        raw(extension(0x04, b"\0\0"), 0x21, 0x00),
    ],
)
def test_headers_without_a_client_are_taken(header: bytes) -> None:
    assert decode(header) == (Header(), len(header))


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(b"GET / HTTP/1.1\r\n", id="a request"),
        pytest.param(b"\r\n\r\n\0\r\nQUIT\r", id="nearly the signature"),
        pytest.param(b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n", id="version 1"),
        pytest.param(raw(version=0x11), id="version 1 in binary"),
        pytest.param(raw(version=0x31), id="version 3"),
        pytest.param(raw(version=0x22), id="no such command"),
        pytest.param(raw(kind=0x41), id="no such family"),
        pytest.param(raw(kind=0x13), id="no such protocol"),
        pytest.param(raw(kind=0x12), id="UDP"),
        pytest.param(raw(IPV4[:-1]), id="too short for IPv4"),
        pytest.param(raw(IPV4, kind=0x21), id="too short for IPv6"),
        pytest.param(raw(bytes(215), kind=0x31), id="too short for a Unix socket"),
        pytest.param(raw(b""), id="without addresses"),
        pytest.param(raw(IPV4 + b"\x04"), id="half an extension"),
        pytest.param(raw(IPV4 + b"\x04\0\x05abcd"), id="an extension that is too long"),
        pytest.param(raw(IPV4 + extension(0x03, b"\0\0\0")), id="half a checksum"),
        pytest.param(raw(IPV4 + extension(0x03, bytes(4))), id="a wrong checksum"),
        pytest.param(raw(b"", length=4097), id="too long, before it came"),
        pytest.param(raw(b"", length=0xFFFF), id="much too long"),
    ],
)
def test_what_is_no_header_is_refused(header: bytes) -> None:
    with pytest.raises(ProxyProtocolError):
        decode(header)


def test_a_right_checksum_is_taken() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    blank = raw(IPV4 + extension(0x04, b"x") + extension(0x03, bytes(4)))
    whole = blank[:-4] + crc32c(blank).to_bytes(4, "big")
    assert decode(whole) == (Header(("10.0.0.1", 50_000), ("10.0.0.2", 443)), len(whole))
    broken = whole.replace(socket.inet_aton("10.0.0.1"), socket.inet_aton("10.0.0.9"))
    with pytest.raises(ProxyProtocolError, match="wrong checksum"):
        decode(broken)


@given(st.one_of(st.binary(max_size=300), st.binary(max_size=300).map(lambda one: SIGNATURE + one)))
def test_any_bytes_are_read_refused_or_waited_for(received: bytes) -> None:
    try:
        found = decode(received)
    except ProxyProtocolError:
        return
    if found is None:
        assert len(received) < HEADER_BYTES_MAX
        return
    header, end = found
    assert 16 <= end <= len(received)
    assert decode(received[:end]) == (header, end)


@given(st.data())
def test_a_header_with_a_byte_changed_never_reads_past_its_end(data) -> None:
    body = IPV4 + extension(0x04, b"abc")
    broken = bytearray(raw(body) + b"GET / HTTP/1.1\r\n")
    at = data.draw(st.integers(0, 15 + len(body)))
    broken[at] = data.draw(st.integers(0, 255))
    try:
        found = decode(bytes(broken))
    except ProxyProtocolError:
        return
    assert found is None or found[1] == 16 + int.from_bytes(broken[14:16], "big")
    if at < 12:
        assert broken[:12] == SIGNATURE  # or else it would have been refused


@given(st.binary(max_size=4096), st.integers(0, 4))
def test_a_header_cut_anywhere_is_waited_for_as_long_as_it_may_be_one(body, family) -> None:
    whole = raw(body, kind=family << 4 | 1)
    for end in range(0, len(whole), 97):
        try:
            if decode(whole[:end]) is not None:
                raise AssertionError("half a header was taken")
        except ProxyProtocolError:
            with pytest.raises(ProxyProtocolError):
                decode(whole)
            break
