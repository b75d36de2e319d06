"""Raw frames, written from RFC 6455 and RFC 7692, against our server with an app that echoes."""

import contextlib
import socket
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from tests.unit.web.serving import Running, read_until, running
from tests.unit.web.test_websocket import HANDSHAKE, echo_app

from perdure.base.limits import Limits

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
LIMITS = Limits(websocket_message_bytes_max=200_000)
DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate{}\r\n"
END = b"\x00\x00\xff\xff"


def frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, masked: bool = True
) -> bytes:
    """One frame as a client sends it."""
    head = bytes([fin << 7 | rsv << 4 | opcode])
    mark = 0x80 if masked else 0
    if len(payload) < 126:
        head += bytes([mark | len(payload)])
    elif len(payload) < 1 << 16:
        head += bytes([mark | 126]) + struct.pack("!H", len(payload))
    else:
        head += bytes([mark | 127]) + struct.pack("!Q", len(payload))
    if not masked:
        return head + payload
    key = b"\x01\x02\x03\x04"
    repeated = (key * (len(payload) // 4 + 1))[: len(payload)]
    hidden = int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")
    return head + key + hidden.to_bytes(len(payload), "big")


def closing(code: int, reason: bytes = b"") -> bytes:
    return frame(CLOSE, struct.pack("!H", code) + reason)


def frames_of(data: bytes) -> list[tuple[int, bytes]]:
    """First byte and payload of each whole frame that the server sent; it must not mask."""
    found = []
    while len(data) >= 2:
        size, at = data[1], 2
        assert size < 128, "the server masks"
        if size >= 126:
            at = 4 if size == 126 else 10
            if len(data) < at:
                break
            size = struct.unpack_from("!H" if at == 4 else "!Q", data, 2)[0]
        if len(data) < at + size:
            break
        found.append((data[0], data[at : at + size]))
        data = data[at + size :]
    return found


@dataclass(frozen=True)
class Case:
    section: str
    name: str
    sent: bytes
    came: list[tuple[int, bytes]]  # first byte and payload, before the server's close frame
    code: int | None  # of the close frame; None: it has no code


def whole(payload: bytes, opcode: int = TEXT) -> tuple[int, bytes]:
    return 0x80 | opcode, payload


BYE = closing(1000)
CASES: list[Case] = []


def good(section: str, name: str, sent: bytes, *came: tuple[int, bytes]) -> None:
    CASES.append(Case(section, name, sent, list(came), 1000))


def bad(section: str, name: str, sent: bytes, code: int = 1002) -> None:
    CASES.append(Case(section, name, sent + frame(TEXT, b"late"), [], code))


for size in (0, 1, 125, 126, 127, 65535, 65536, 200_000):
    good("5.2", f"text of {size}", frame(TEXT, b"a" * size), whole(b"a" * size))
good("5.6", "binary", frame(BINARY, b"\x00\xff" * 300), whole(b"\x00\xff" * 300, BINARY))
good("5.6", "text is UTF-8", frame(TEXT, "äöü€😀".encode()), whole("äöü€😀".encode()))
good(
    "5.4",
    "three fragments",
    frame(TEXT, b"a", fin=False) + frame(0, b"b", fin=False) + frame(0, b"c"),
    whole(b"abc"),
)
good(
    "5.4",
    "empty fragments",
    frame(TEXT, fin=False) + frame(0, fin=False) + frame(0, b"a", fin=False) + frame(0),
    whole(b"a"),
)
good(
    "5.4",
    "a character cut in two",
    frame(TEXT, "ä".encode()[:1], fin=False) + frame(0, "ä".encode()[1:]),
    whole("ä".encode()),
)
good(
    "5.4",
    "a ping between fragments",
    frame(TEXT, b"a", fin=False) + frame(PING, b"p") + frame(0, b"b"),
    whole(b"p", PONG),
    whole(b"ab"),
)
good("5.5.2", "ping without data", frame(PING), whole(b"", PONG))
good("5.5.2", "ping of 125", frame(PING, b"p" * 125), whole(b"p" * 125, PONG))
good("5.5.2", "ten pings", frame(PING, b"p") * 10, *[whole(b"p", PONG)] * 10)
good("5.5.3", "a pong nobody asked for", frame(PONG, b"p") + frame(PING), whole(b"", PONG))
good("5.4", "two messages at once", frame(TEXT, b"a") + frame(TEXT, b"b"), whole(b"a"), whole(b"b"))
bad("5.1", "not masked", frame(TEXT, b"a", masked=False))
bad("5.1", "ping not masked", frame(PING, masked=False))
for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15):
    bad("5.2", f"reserved opcode {opcode}", frame(opcode))
for rsv in (1, 2, 4):
    bad("5.2", f"reserved bit {rsv}", frame(TEXT, b"a", rsv=rsv))
bad("5.2", "reserved bit of a control frame", frame(PING, rsv=4))
bad("5.5", "ping of 126", frame(PING, b"p" * 126))
bad("5.5", "close of 126", frame(CLOSE, struct.pack("!H", 1000) + b"r" * 124))
bad("5.5", "ping in fragments", frame(PING, b"p", fin=False))
bad("5.4", "continuation of nothing", frame(0, b"a"))
bad("5.4", "continuation behind a pong", frame(PONG) + frame(0, b"b"))
bad("5.4", "a message within another", frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"))
bad("8.1", "text that is not UTF-8", frame(TEXT, b"\xff"), 1007)
bad("8.1", "text with a surrogate", frame(TEXT, b"\xed\xa0\x80"), 1007)
bad("8.1", "text in an overlong form", frame(TEXT, b"\xc0\xaf"), 1007)
bad("8.1", "text behind Unicode's end", frame(TEXT, b"\xf4\x90\x80\x80"), 1007)
bad("8.1", "text cut inside a character", frame(TEXT, "ä".encode()[:1]), 1007)
bad("8.1", "fragments that are not UTF-8", frame(TEXT, b"a", fin=False) + frame(0, b"\xff"), 1007)
bad("7.4.1", "over the limit", frame(TEXT, b"a" * 200_001), 1009)
bad(
    "7.4.1",
    "fragments over it",
    frame(TEXT, b"a" * 150_000, fin=False) + frame(0, b"a" * 60_000),
    1009,
)
bad("7.4.1", "a length of 2 to the 62", b"\x81\xff" + struct.pack("!Q", 1 << 62) + b"\0" * 8, 1009)
for close_code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999):
    CASES.append(Case("7.4", f"close with {close_code}", closing(close_code), [], close_code))
CASES.append(Case("7.1.5", "close without a code", frame(CLOSE), [], None))
CASES.append(Case("5.5.1", "a reason", closing(1000, "ä".encode()), [], 1000))
CASES.append(Case("5.5.1", "data behind close", closing(1000) + frame(TEXT, b"a"), [], 1000))
for close_code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65535):
    bad("7.4", f"close with {close_code}", closing(close_code))
bad("5.5.1", "close with half a code", frame(CLOSE, b"\x03"))
bad("5.5.1", "a reason that is not UTF-8", closing(1000, b"\xff"), 1007)


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(echo_app, LIMITS) as server:
        yield server


def opened(server: Running, extensions: str = "") -> tuple[socket.socket, bytes]:
    client = server.connect()
    client.sendall(HANDSHAKE + extensions.encode() + b"\r\n")
    head = read_until(client, b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    return client, head


def talked(
    server: Running, sent: list[bytes], answers: int, extensions: str = ""
) -> list[tuple[int, bytes]]:
    """The server's frames up to its close; BYE is sent behind so many others."""
    client, _ = opened(server, extensions)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    data, said_bye = b"", False
    with client:
        with contextlib.suppress(ConnectionError):
            for part in sent:
                client.sendall(part)
        while (found := frames_of(data))[-1:] == [] or found[-1][0] != 0x80 | CLOSE:
            if len(found) == answers and answers and not said_bye:
                said_bye = True
                client.sendall(BYE)
            part = client.recv(1 << 16)
            assert part, found
            data += part
    return found


def judge(case: Case, found: list[tuple[int, bytes]]) -> None:
    *came, last = found
    assert came == case.came
    assert last[0] == 0x80 | CLOSE
    assert last[1][:2] == (b"" if case.code is None else struct.pack("!H", case.code))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.section} {case.name}")
def test_frames_are_answered_as_the_rfc_demands(server: Running, case: Case) -> None:
    judge(case, talked(server, [case.sent], len(case.came)))


@pytest.mark.parametrize("case", [c for c in CASES if len(c.sent) < 1000], ids=lambda c: c.name)
def test_the_answer_does_not_depend_on_how_the_bytes_arrive(server: Running, case: Case) -> None:
    sent = case.sent.removesuffix(frame(TEXT, b"late"))  # it may be answered with a reset
    judge(case, talked(server, [sent[i : i + 1] for i in range(len(sent))], len(case.came)))


def test_there_are_enough_cases_and_each_has_a_name_of_its_own() -> None:
    assert len(CASES) > 75
    assert len({(case.section, case.name) for case in CASES}) == len(CASES)


def deflated(data: bytes) -> bytes:
    compressor = zlib.compressobj(9, zlib.DEFLATED, -12)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)).removesuffix(END)


def inflated(data: bytes) -> bytes:
    return zlib.decompressobj(-12).decompress(data + END)  # 12: the server's window is that small


NOISE = bytes(i * i % 251 for i in range(1000)) * 250
OFFER = DEFLATE.format("; client_max_window_bits")


@pytest.mark.parametrize(
    ("offered", "agreed"),
    [
        ("", b"server_max_window_bits=12"),
        ("; client_max_window_bits", b"client_max_window_bits=12"),
        ("; client_max_window_bits=9", b"client_max_window_bits=9"),
        ("; server_max_window_bits=10", b"server_max_window_bits=10"),
        ("; server_no_context_takeover", b"server_no_context_takeover"),
    ],
)
def test_windows_are_never_larger_than_four_kibibytes(
    server: Running, offered: str, agreed: bytes
) -> None:
    client, head = opened(server, DEFLATE.format(offered))
    client.close()
    assert agreed in head
    assert b"server_max_window_bits=1" in head


@pytest.mark.parametrize(
    "offered", ["; server_max_window_bits=7", "; server_max_window_bits=16", "; unknown", "; x=1"]
)
def test_an_offer_that_is_not_understood_is_declined(server: Running, offered: str) -> None:
    client, head = opened(server, DEFLATE.format(offered))
    client.close()
    assert b"permessage-deflate" not in head


def test_a_compressed_message_is_inflated_and_its_answer_too(server: Running) -> None:
    sent = frame(TEXT, deflated(b"tea " * 1000), rsv=4)
    (first, payload), _ = talked(server, [sent], 1, OFFER)
    assert first == 0x80 | 0x40 | TEXT
    assert inflated(payload) == b"tea " * 1000


def test_fragments_of_one_compressed_message_and_a_plain_one_are_understood(
    server: Running,
) -> None:
    data = deflated(b"tea " * 1000)
    sent = frame(TEXT, data[:5], fin=False, rsv=4) + frame(PING) + frame(0, data[5:])
    pong, (_, payload), (_, plain), _ = talked(server, [sent + frame(TEXT, b"plain")], 3, OFFER)
    assert pong == (0x80 | PONG, b"")
    assert inflated(payload) == b"tea " * 1000
    assert plain


@pytest.mark.parametrize(
    ("sent", "codes"),
    [
        (frame(TEXT, deflated(b"a" * 200_001), rsv=4), (1009,)),
        (frame(TEXT, deflated(b"a" * 50_000_000), rsv=4), (1009,)),
        (
            frame(TEXT, deflated(NOISE)[:300], fin=False, rsv=4) + frame(0, deflated(NOISE)[300:]),
            (1009,),
        ),
        (frame(TEXT, b"\xff" * 20, rsv=4), (1002, 1007)),
        (frame(TEXT, deflated(b"\xff"), rsv=4), (1007,)),
        (frame(TEXT, deflated(b"a"), fin=False, rsv=4) + frame(0, b"", rsv=4), (1002,)),
        (frame(PING, b"p", rsv=4), (1002,)),
        (frame(TEXT, b"a", rsv=6), (1002,)),
    ],
)
def test_what_inflates_too_far_or_not_at_all_closes(
    server: Running, sent: bytes, codes: tuple[int, ...]
) -> None:
    (opcode, payload), *rest = talked(server, [sent], 0, OFFER)
    assert (opcode, rest) == (0x80 | CLOSE, [])
    assert struct.unpack("!H", payload[:2])[0] in codes
