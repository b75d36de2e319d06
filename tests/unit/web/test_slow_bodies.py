"""A body may come slowly, but not for ever: it has to keep up with a rate."""

import asyncio
import socket
import time
from typing import Any

from tests.unit.web.serving import WAIT_S, length_app, read_all, responses_of, running

from perdure.base.limits import Limits
from perdure.web.asgi import BODY_BUFFER_BYTES

LIMITS = Limits(body_timeout_s=0.4, body_bytes_per_s_min=1_000)
PAUSE_S = 0.05
BODY = b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: 10000\r\nConnection: close\r\n\r\n"


def answer_to_pieces(client: socket.socket, piece: bytes, count: int) -> bytes:
    """Sends a piece after each pause, until an answer comes or all are sent; gives the answer."""
    client.settimeout(PAUSE_S)
    for _ in range(count):
        client.sendall(piece)
        try:
            return client.recv(1 << 16)
        except TimeoutError:
            continue  # that was the pause
    client.settimeout(WAIT_S)
    return read_all(client)


def test_a_body_that_drips_is_cut_off_although_it_never_stands_still() -> None:
    for path in (b"/call/x", b"/app"):
        with running(length_app, LIMITS) as server, server.connect() as client:
            client.sendall(BODY % path)
            began_s = time.monotonic()
            (response,) = responses_of(answer_to_pieces(client, b"x", 200))
            took_s = time.monotonic() - began_s
        assert response.status == 408, path
        assert LIMITS.body_timeout_s <= took_s < 200 * PAUSE_S


def test_a_body_that_keeps_up_may_take_its_time() -> None:
    for path in (b"/call/x", b"/app"):
        with running(length_app, LIMITS) as server, server.connect() as client:
            client.sendall(BODY % path)
            began_s = time.monotonic()
            (response,) = responses_of(answer_to_pieces(client, b"x" * 400, 25))
            took_s = time.monotonic() - began_s
        assert response.status == 200, path
        assert took_s > 2 * LIMITS.body_timeout_s


def test_a_client_is_not_late_while_the_application_makes_it_wait() -> None:
    taking = asyncio.Event()

    async def slow_app(scope: Any, receive: Any, send: Any) -> None:
        await taking.wait()
        await length_app(scope, receive, send)

    length = BODY_BUFFER_BYTES + 2  # all but one byte is read, and then reading pauses
    with running(slow_app, LIMITS) as server, server.connect() as client:
        client.sendall((BODY % b"/app").replace(b"10000", b"%d" % length) + b"x" * (length - 1))
        assert is_silent(client, 3 * LIMITS.body_timeout_s)
        server.call(taking.set)
        assert is_silent(client, LIMITS.body_timeout_s / 2)  # it has a new chance from here on
        client.sendall(b"x")
        (response,) = responses_of(read_all(client))
    assert (response.status, response.body) == (200, b"%d" % length)


def is_silent(client: socket.socket, for_s: float) -> bool:
    """Whether nothing comes, and no end either."""
    client.settimeout(for_s)
    try:
        client.recv(1)
    except TimeoutError:
        return True
    finally:
        client.settimeout(WAIT_S)
    return False
