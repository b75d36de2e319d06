"""Header blocks that came before: whatever a client sends, the parser decides what it means."""

import asyncio
from types import SimpleNamespace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.hostile.table import CASES

from perdure.base.limits import Limits
from perdure.web.exchange import Exchange
from perdure.web.http import HttpProtocol
from perdure.web.known_heads import KnownHeads
from perdure.web.shared import Shared

BLOCK = b"Host: a\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n"
POST = b"POST /call/x?y=1 HTTP/1.1\r\n" + BLOCK + b"{}"
GET = b"GET /call/x HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n"


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.is_over = False

    def get_extra_info(self, name: str, default: object = None) -> object:
        return default

    def write(self, data) -> None:
        self.written += bytes(data)

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.is_over

    def close(self) -> None:
        self.is_over = True

    abort = close

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.is_over = True

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Endpoint:
    """Answers what begins with /call, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple] = []

    def match(self, _method: bytes, path: bytes) -> object | None:
        return path if path.startswith(b"/call") else None

    def handle(self, _route: object, exchange: Exchange) -> None:
        self.asked.append(
            (
                exchange.method,
                exchange.path,
                exchange.query,
                list(exchange.headers),
                dict(exchange.fields),
                exchange.body,
                exchange.keep_alive,
                exchange.is_plain,
                exchange.http_version,
            )
        )
        exchange.reply(200, exchange.body)

    def subscriber(self, _route: object) -> None:
        return None


class Side:
    """One connection, without a socket."""

    def __init__(self, *, knows: bool, limits: Limits | None = None, app=None) -> None:
        self.endpoint = Endpoint()
        shared = Shared(self.endpoint, app, limits or Limits(), {}, "")
        shared.dates.line = shared.dates.json_ok = b""
        self.protocol = HttpProtocol(shared)
        if not knows:
            self.protocol._known_heads = SimpleNamespace(
                find=lambda _data: None, learn=lambda _headers, _fields: None, forget=list
            )
        self.transport = Transport()
        self.protocol.connection_made(self.transport)

    def send(self, data: bytes) -> None:
        if not self.transport.is_over:
            self.protocol.data_received(data)

    @property
    def seen(self) -> tuple:
        return self.endpoint.asked, self.transport.written, self.transport.is_over


async def both(parts: list[bytes]) -> tuple[Side, Side]:
    knowing, forgetful = Side(knows=True), Side(knows=False)
    for part in parts:
        for side in (knowing, forgetful):
            side.send(part)
    return knowing, forgetful


def compare(parts: list[bytes]) -> None:
    knowing, forgetful = asyncio.run(both(parts))
    assert knowing.seen == forgetful.seen


REQUESTS = [POST, GET, POST.replace(b"POST", b"PUT"), POST.replace(b"/call/x", b"/other")]
NOISE = [
    b"\r",
    b"\n",
    b"\r\n",
    b" ",
    b"\t",
    b":",
    b"#",
    b"?",
    b"%",
    b"\0",
    b"\x80",
    b"0",
    b"HTTP/1.1",
]


@st.composite
def sendings(draw) -> bytes:
    data = draw(st.sampled_from(REQUESTS))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(data)))
        noise = draw(st.sampled_from(NOISE))
        match draw(st.sampled_from(["insert", "replace", "cut", "double"])):
            case "insert":
                data = data[:at] + noise + data[at:]
            case "replace":
                data = data[:at] + noise + data[at + len(noise) :]
            case "cut":
                data = data[:at]
            case "double":
                data = data + data[:at]
    return data


@settings(max_examples=400, deadline=None)
@given(st.lists(sendings(), max_size=4))
@example([POST[:-1], b"}" + POST])
@example([GET[:-2], GET])
@example([GET.replace(b" /call", b" http://a/call"), GET.replace(b"/call/x", b"*")])
@example([b"\r\n" + POST, POST])
@example([POST.replace(b"Host: a", b"Host: a\r\n b"), POST])
def test_what_came_before_changes_nothing_of_what_a_request_means(parts):
    compare([POST, GET, *parts, POST, GET])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_every_raw_case_has_the_same_answer_behind_itself(case):
    behind_good = [POST, GET, case.raw, case.raw, POST]
    compare(behind_good)


def test_a_request_whose_block_is_known_does_not_come_to_the_parser():
    async def asked() -> int:
        side = Side(knows=True)
        side.send(POST)
        side.protocol._parser = None  # from here on it would fail
        for number in range(20):
            side.send(POST.replace(b"/x", b"/%d" % number))
        return len(side.endpoint.asked)

    assert asyncio.run(asked()) == 21


def test_a_block_known_from_the_app_does_not_let_more_through_to_an_actor():
    async def app(_scope, _receive, _send) -> None: ...

    async def refused(path: bytes) -> int:
        limits = Limits(call_body_bytes_max=1, asgi_body_bytes_max=64)
        side = Side(knows=True, limits=limits, app=app)
        side.send(POST.replace(b"/call", b"/other"))
        side.send(POST.replace(b"/call", path))
        return side.protocol.shared.requests_refused

    assert asyncio.run(refused(b"/call")) == 1
    assert asyncio.run(refused(b"/other")) == 0


def learn(heads: KnownHeads, data: bytes, *headers: tuple[bytes, bytes]) -> None:
    assert heads.find(data) is None
    heads.learn(list(headers), dict(headers))


def test_a_block_in_which_lines_could_be_seen_differently_is_not_learned():
    headers = ((b"host", b"a"), (b"x", b"1"))
    for block in (b"Host: a\r\nX: 1\n", b"Host: a\rX: 1\r\n", b"Host: a\r\nX: 1\r\n 2", b"Host: a"):
        heads = KnownHeads()
        data = b"GET / HTTP/1.1\r\n" + block + b"\r\n\r\n"
        learn(heads, data, *headers)
        assert heads.find(data) is None
    heads = KnownHeads()
    data = b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n\r\n"
    learn(heads, data, *headers)
    assert heads.find(data) is not None


def test_a_connection_keeps_few_blocks_and_none_when_it_is_idle():
    heads = KnownHeads()
    sent = [b"GET / HTTP/1.1\r\nHost: %d\r\n\r\n" % number for number in range(9)]
    for number, data in enumerate(sent):
        learn(heads, data, (b"host", b"%d" % number))
    known = [data for data in sent if heads.find(data) is not None]
    assert 0 < len(known) <= 4
    heads.forget()
    assert [data for data in known if heads.find(data) is not None] == []


def test_a_client_that_never_says_the_same_is_not_listened_to_for_long():
    heads = KnownHeads()
    for number in range(30):
        learn(heads, b"GET / HTTP/1.1\r\nHost: %d\r\n\r\n" % number, (b"host", b"%d" % number))
    last = b"GET / HTTP/1.1\r\nHost: 29\r\n\r\n"
    assert heads.find(last) is None
