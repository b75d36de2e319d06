"""Requests and answers through the balancer, with real sockets."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Coroutine
from typing import Any

import pytest
import uvloop
from tests.unit.balance.scripted import Front, balancing, ok, say, until

from perdure.balance.backends import Rules
from perdure.balance.health import HealthRules
from perdure.base.limits import BalanceLimits

GET = b"GET /a?b=c HTTP/1.1\r\nHost: shop.test\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"


def run(body: Coroutine[Any, Any, None]) -> None:
    uvloop.run(body)


def status_of(answer: bytes) -> int:
    return int(answer[9:12]) if answer else 0


def test_a_request_gets_its_answer_and_says_who_asked() -> None:
    async def body() -> None:
        async with balancing(say(ok())) as (front, (backend,)):
            answer = await front.ask(GET)
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            assert answer.endswith(b"\r\n\r\nok")
            assert backend.seen.startswith(b"GET /a?b=c HTTP/1.1\r\nhost: shop.test\r\n")
            assert b"x-forwarded-for: 127.0.0.1\r\n" in backend.seen
            assert b"x-forwarded-proto: http\r\n" in backend.seen
            assert b"x-forwarded-host: shop.test\r\n" in backend.seen
            assert b'forwarded: for=127.0.0.1;proto=http;host="shop.test"\r\n' in backend.seen

    run(body())


FORGED = (
    b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 6.6.6.6\r\nX_Forwarded_Proto: https\r\n"
    b"X-Forwarded-Host: evil\r\nForwarded: for=6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\n"
    b"Connection: x-hop\r\nX-Hop: 1\r\nTE: trailers\r\nKeep-Alive: 5\r\nX-Kept: 1\r\n\r\n"
)


def test_what_only_a_trusted_proxy_may_say_is_dropped() -> None:
    async def body() -> None:
        async with balancing(say(ok())) as (front, (backend,)):
            await front.ask(FORGED)
            for lost in (
                b"6.6.6.6",
                b"evil",
                b"proto: https",
                b"x-hop",
                b"trailers",
                b"keep-alive",
            ):
                assert lost not in backend.seen.lower()
            assert b"x-kept: 1" in backend.seen

    run(body())


def test_what_a_trusted_proxy_says_is_passed_on() -> None:
    async def body() -> None:
        async with balancing(say(ok()), is_trusted=lambda _: True) as (front, (backend,)):
            await front.ask(FORGED)
            assert b"x-forwarded-for: 6.6.6.6, 127.0.0.1\r\n" in backend.seen
            assert b"x-forwarded-host: evil\r\n" in backend.seen

    run(body())


def test_pipelined_requests_are_answered_in_order_over_one_backend_connection() -> None:
    async def echo_path(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            writer.write(ok(head.split(b" ")[1]))

    async def body() -> None:
        async with balancing(echo_path) as (front, (backend,)):
            wanted = [b"/%d" % number for number in range(200)]
            raw = b"".join(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % path for path in wanted)
            answer = await front.ask(raw + b"GET /z HTTP/1.0\r\n\r\n")
            bodies = [part.partition(b"HTTP/1.1")[0] for part in answer.split(b"\r\n\r\n")[1:]]
            assert bodies == [*wanted, b"/z"]
            assert backend.connections == 1

    run(body())


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        (CHUNKED + b"3;x=y\r\nabc\r\n0\r\nX-Trailer: 1\r\n\r\n", b"3\r\nabc\r\n0\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", b"d\r\nuntil the end\r\n0\r\n\r\n"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc", b"abc"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", b""),
        (b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + ok(), b"ok"),
    ],
)
def test_answers_of_every_framing_arrive(answer: bytes, wanted: bytes) -> None:
    async def body() -> None:
        async with balancing(say(answer, times=1)) as (front, _):
            told = await front.ask(GET)
            assert told.endswith(b"\r\n\r\n" + wanted)
            assert b"X-Trailer" not in told

    run(body())


def test_an_old_client_gets_a_chunked_answer_plain_and_closed() -> None:
    async def body() -> None:
        async with balancing(say(CHUNKED + b"3\r\nabc\r\n0\r\n\r\n")) as (front, _):
            told = await front.ask(b"GET / HTTP/1.0\r\n\r\n", ends=False)
            assert told.endswith(b"connection: close\r\n\r\nabc")

    run(body())


def test_head_has_no_body_and_the_connection_goes_on() -> None:
    async def body() -> None:
        head_only = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"
        async with balancing(say(head_only)) as (front, _):
            ask = b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"
            assert (await front.ask(ask * 2)).count(b"content-length: 5\r\n\r\n") == 2

    run(body())


async def echo_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers a chunked or sized request with its raw body."""
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        if b"expect: 100-continue" in head:
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if b"transfer-encoding: chunked" in head:
            writer.write(ok(await reader.readuntil(b"0\r\n\r\n")))
        else:
            length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
            writer.write(ok(await reader.readexactly(length)))
        await writer.drain()


def test_a_chunked_request_is_framed_anew() -> None:
    async def body() -> None:
        async with balancing(echo_body) as (front, _):
            told = await front.ask(
                b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
                b"2;evil=1\r\nab\r\n1\r\nc\r\n0\r\nT: 1\r\n\r\n"
            )
            assert told.endswith(b"\r\n\r\n3\r\nabc\r\n0\r\n\r\n")

    run(body())


def test_large_bodies_pass_both_ways_with_a_slow_reader() -> None:
    async def body() -> None:
        size = 8 << 20
        async with balancing(echo_body) as (front, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
            writer.write(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
            writer.write(bytes(size))
            head = await reader.readuntil(b"\r\n\r\n")
            assert status_of(head) == 200
            assert await reader.readexactly(size) == bytes(size)
            writer.close()

    run(body())


def test_expect_gets_its_continue_from_the_backend() -> None:
    async def body() -> None:
        async with balancing(echo_body) as (front, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
            head = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"
            writer.write(head + b"Content-Length: 2\r\n\r\n")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
            writer.write(b"hi")
            assert status_of(await reader.readuntil(b"\r\n\r\n")) == 200
            writer.close()

    run(body())


def test_events_arrive_at_once() -> None:
    async def body() -> None:
        proceed = asyncio.Event()

        async def events(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: 1\n\n")
            await proceed.wait()
            writer.write(b"data: 2\n\n")

        async with balancing(events) as (front, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
            writer.write(GET)
            await reader.readuntil(b"data: 1\n\n")
            proceed.set()
            await reader.readuntil(b"data: 2\n\n")
            writer.close()

    run(body())


def test_a_websocket_is_a_tunnel_once_the_backend_agrees() -> None:
    async def upgrade(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"connection: upgrade\r\nupgrade: websocket\r\n" in head
        writer.write(
            b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n!"
        )
        while data := await reader.read(100):
            writer.write(data.upper())
        writer.write(b"bye")

    async def body() -> None:
        async with balancing(upgrade) as (front, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
            writer.write(GET[:-2] + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly")
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101 ")
            assert b"upgrade: websocket" in head
            assert await reader.readexactly(6) == b"!EARLY"
            writer.write(b"later")
            assert await reader.readexactly(5) == b"LATER"
            writer.write_eof()
            assert await reader.read() == b"bye"
            await until(lambda: not front.shared.clients)  # both have ended: nothing is left open
            assert front.shared.backends.all()[0].in_flight == 0
            writer.close()

    run(body())


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\n\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nA: 1\r\n folded: 2\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nA : 1\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"nonsense\r\n\r\n",
    ],
)
def test_an_answer_that_is_not_clear_is_a_502_without_its_words(answer: bytes) -> None:
    async def body() -> None:
        async with balancing(say(answer)) as (front, (backend,)):
            told = await front.ask(GET)
            assert status_of(told) == 502
            assert b"application/problem+json" in told
            assert b"ok" not in told.partition(b"\r\n\r\n")[2]
            assert backend.connections == 1

    run(body())


def test_bytes_behind_an_answer_never_become_the_next_one() -> None:
    async def body() -> None:
        async with balancing(say(ok() + ok(b"poison"))) as (front, (backend,)):
            told = await front.ask(GET + GET)
            assert b"poison" not in told
            assert told.count(b"200 OK") == 2
            assert backend.connections == 2

    run(body())


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",
        CHUNKED + b"5\r\nabc",
        CHUNKED + b"zz\r\nabc",
        CHUNKED + b"3\r\nabcX\r\n0\r\n\r\n",
    ],
)
def test_half_an_answer_is_never_taken_for_a_whole_one(answer: bytes) -> None:
    async def body() -> None:
        async with balancing(say(answer, times=1)) as (front, _):
            told = b"cut off"
            with contextlib.suppress(ConnectionResetError):
                told = await front.ask(GET, ends=False)
            assert not told.endswith(b"\r\n0\r\n\r\n")
            assert b"0123456789" not in told

    run(body())


def test_a_backend_that_is_away_costs_no_request() -> None:
    async def body() -> None:
        async with balancing(say(ok()), say(ok())) as (front, (gone, there)):
            await gone.close()
            for raw in (GET, POST, GET, POST):
                assert status_of(await front.ask(raw)) == 200
            assert gone.connections == 0
            assert there.connections >= 1

    run(body())


def test_a_request_that_may_be_repeated_is_and_another_is_not() -> None:
    async def body() -> None:
        async with balancing(say(b"", times=1), say(b"", times=1), policy="peak-ewma") as (
            front,
            backends,
        ):
            assert status_of(await front.ask(GET)) == 502
            assert [backend.connections for backend in backends] == [1, 1]
            assert status_of(await front.ask(POST)) == 502
            assert sum(backend.connections for backend in backends) == 3
            keyed = POST.replace(b"Host", b"Idempotency-Key: 1\r\nHost")
            assert status_of(await front.ask(keyed)) == 502
            assert sum(backend.connections for backend in backends) == 5
            assert sum(backend.seen.count(b"\r\n\r\nhi") for backend in backends) == 3

    run(body())


def test_a_connection_closed_while_idle_is_replaced_without_blame() -> None:
    async def body() -> None:
        async with balancing(say(ok(), times=1)) as (front, (backend,)):
            for _ in range(10):
                assert status_of(await front.ask(GET)) == 200
            assert backend.connections == 10
            assert front.shared.backends.all()[0].failures_in_a_row == 0

    run(body())


def test_retries_end_with_their_budget() -> None:
    async def body() -> None:
        limits = BalanceLimits(retries_min=2, retry_share=0)
        never = Rules(eject_after_failures=1_000)
        async with balancing(say(b"", times=1), say(b"", times=1), limits=limits, rules=never) as (
            front,
            backends,
        ):
            for _ in range(10):
                assert status_of(await front.ask(GET)) == 502
            assert sum(backend.connections for backend in backends) == 12

    run(body())


def test_a_backend_that_is_stopping_has_its_request_taken_elsewhere() -> None:
    async def body() -> None:
        stopping = b"HTTP/1.1 503 Busy\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"
        async with balancing(say(stopping), say(ok())) as (front, _):
            for _ in range(4):
                assert status_of(await front.ask(GET)) == 200

    run(body())


def test_failures_in_a_row_leave_a_backend_out() -> None:
    async def body() -> None:
        bad = b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n"
        async with balancing(say(bad), say(ok())) as (front, _):
            statuses = [status_of(await front.ask(GET)) for _ in range(30)]
            assert statuses.count(500) == 5
            assert statuses[12:] == [200] * 18

    run(body())


def test_no_backend_is_a_503() -> None:
    async def body() -> None:
        async with balancing() as (front, _):
            told = await front.ask(GET)
            assert status_of(told) == 503
            assert b"retry-after: 1" in told
            ready = b"GET /-/balance/ready HTTP/1.1\r\nHost: a\r\n\r\n"
            assert status_of(await front.ask(ready)) == 503

    run(body())


@pytest.mark.parametrize(
    ("limits", "raw", "status"),
    [
        (BalanceLimits(answer_s=0.1), GET[:-2] + b"Connection: close\r\n\r\n", 504),
        (BalanceLimits(header_timeout_s=0.1), b"GET / HT", 408),
        (BalanceLimits(body_timeout_s=0.1), POST[:-1], 408),
        (BalanceLimits(idle_timeout_s=0.1, header_timeout_s=0.1), b"", 0),
    ],
)
def test_every_wait_ends(limits: BalanceLimits, raw: bytes, status: int) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def body() -> None:
        async with balancing(silent, limits=limits) as (front, _):
            assert status_of(await front.ask(raw, ends=False)) == status

    run(body())


def test_a_client_that_leaves_takes_its_request_along() -> None:
    async def body() -> None:
        left = asyncio.Event()

        async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            try:
                await reader.read()
            finally:
                left.set()

        async with balancing(wait) as (front, _):
            _, writer = await asyncio.open_connection("127.0.0.1", front.port)
            writer.write(GET)
            await until(lambda: front.shared.backends.all()[0].in_flight == 1)
            connection = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            async with asyncio.timeout(5):
                await left.wait()
            assert front.shared.backends.all()[0].in_flight == 0
            assert front.shared.backends.all()[0].failures_in_a_row == 0

    run(body())


def test_health_checks_decide_who_gets_requests() -> None:
    async def body() -> None:
        bad = b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"
        health = HealthRules(path="/up", interval_s=0.02)
        async with balancing(say(bad), say(ok()), health=health) as (front, (sick, _)):
            sick_one = front.shared.backends.all()[0]
            await until(lambda: sick_one.state == "down")
            assert b"GET /up HTTP/1.1" in sick.seen
            assert {status_of(await front.ask(GET)) for _ in range(6)} == {200}
            sick.script = say(ok())
            await until(lambda: sick_one.state == "up")

    run(body())


async def _load(front: Front, count: int, statuses: list[int], raw: bytes = GET) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
    for _ in range(count):
        writer.write(raw)
        head = await reader.readuntil(b"\r\n\r\n")
        told = await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
        assert told == b"ok", told
        statuses.append(status_of(head))
    writer.close()


def test_a_backend_that_dies_under_load_costs_no_request_that_may_be_repeated() -> None:
    async def body() -> None:
        async with balancing(say(ok()), say(ok()), say(ok())) as (front, backends):
            statuses: list[int] = []
            async with asyncio.TaskGroup() as group:
                for _ in range(8):
                    group.create_task(_load(front, 200, statuses))
                await until(lambda: len(statuses) > 300)
                await backends[0].close()
            assert statuses == [200] * 1600

    run(body())


def test_a_drained_backend_costs_no_request_at_all() -> None:
    async def body() -> None:
        async with balancing(say(ok()), say(ok()), say(ok())) as (front, backends):
            statuses: list[int] = []
            post = POST.replace(b"Content-Length: 2", b"Content-Length: 0")[:-2]
            async with asyncio.TaskGroup() as group:
                for _ in range(8):
                    group.create_task(_load(front, 200, statuses, post))
                await until(lambda: len(statuses) > 300)
                drained = front.shared.backends.all()[0]
                front.shared.backends.drain(drained.target.name)
                await until(lambda: drained.in_flight == 0)
                await backends[0].close()
            assert statuses == [200] * 1600

    run(body())


def test_a_graceful_stop_ends_what_is_under_way() -> None:
    async def body() -> None:
        proceed = asyncio.Event()

        async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            await proceed.wait()
            writer.write(ok())

        async with balancing(slow) as (front, _):
            asked = asyncio.create_task(front.ask(GET, ends=False))
            await until(lambda: front.shared.backends.all()[0].in_flight == 1)
            stopped = asyncio.create_task(front.balancer.drain(0))
            await until(lambda: front.shared.closing)
            proceed.set()
            told = await asked
            assert status_of(told) == 200
            assert b"connection: close\r\n" in told
            async with asyncio.timeout(5):
                await stopped

    run(body())


def test_one_empty_line_before_a_request_is_ignored() -> None:
    async def body() -> None:
        async with balancing(say(ok())) as (front, _):
            assert (await front.ask(b"\r\n" + GET + b"\r\n" + GET)).count(b"200 OK") == 2
            assert status_of(await front.ask(b"\r\n\r\n" + GET)) == 400

    run(body())
