"""Answers that nobody takes have one bound for all of them, and it hits who is behind longest."""

import socket
from contextlib import ExitStack

from tests.unit.web.serving import Running, errors_of, read_all, responses_of, running

from perdure.base.limits import Limits
from perdure.web.exchange import Exchange

MB = 1 << 20
ASK = b"GET /later/%d HTTP/1.1\r\nHost: a\r\n\r\n"
LIMITS = Limits(unread_bytes_max=20 * MB)


def asked(server: Running, client: socket.socket, count: int = 1) -> list[Exchange]:
    """Sends requests, and gives their exchanges, for the test to answer."""
    kept = server.endpoint.kept
    before = len(kept)
    client.sendall(b"".join(ASK % number for number in range(count)))
    server.wait_until(lambda: len(kept) == before + count)
    return kept[before:]


def answer(server: Running, exchange: Exchange, size_bytes: int) -> None:
    server.call(lambda: exchange.reply(200, b"x" * size_bytes))


def test_who_takes_nothing_for_longest_is_cut_off_and_the_others_are_not(caplog) -> None:
    with (
        running(limits=LIMITS) as server,
        server.connect() as slowest,
        server.connect() as slow,
        server.connect() as late,
    ):
        for client in (slowest, slow):
            answer(server, asked(server, client)[0], 9 * MB)
        assert server.server.statistics().connections == 3
        answer(server, asked(server, late)[0], 9 * MB)
        server.wait_until(lambda: server.server.statistics().connections == 2)
        assert len(read_all(slowest)) < 9 * MB
        for client in (slow, late):
            client.shutdown(socket.SHUT_WR)
            (response,) = responses_of(read_all(client))
            assert len(response.body) == 9 * MB
    assert errors_of(caplog) == ["slow reader cut off"]


def test_one_that_asks_for_all_of_it_is_cut_off_itself() -> None:
    with running(limits=LIMITS) as server, server.connect() as greedy, server.connect() as other:
        for exchange in asked(server, greedy, 4):
            answer(server, exchange, 9 * MB)
        server.wait_until(lambda: server.server.statistics().connections == 1)
        answer(server, asked(server, other)[0], 9 * MB)
        other.shutdown(socket.SHUT_WR)
        assert len(responses_of(read_all(other))[0].body) == 9 * MB


def test_who_catches_up_is_not_counted_any_more() -> None:
    with running(limits=LIMITS) as server, ExitStack() as stack:
        for number in range(4):
            client = stack.enter_context(server.connect())
            answer(server, asked(server, client)[0], 9 * MB)
            left_bytes = 9 * MB
            while left_bytes > 0:
                left_bytes -= len(client.recv(1 << 20))
            assert server.server.statistics().connections == number + 1


def test_who_leaves_is_not_counted_any_more() -> None:
    with running(limits=LIMITS) as server:
        for _ in range(3):
            with server.connect() as client:
                answer(server, asked(server, client)[0], 9 * MB)
            server.wait_until(lambda: server.server.statistics().connections == 0)
        with server.connect() as first, server.connect() as second:
            for client in (first, second):
                answer(server, asked(server, client)[0], 9 * MB)
            assert server.server.statistics().connections == 2


def test_the_kernel_takes_little_of_what_a_client_does_not() -> None:
    with running() as server, server.connect() as client:
        (exchange,) = asked(server, client)
        transport = exchange.connection.transport  # type: ignore[attr-defined]
        answer(server, exchange, 9 * MB)
        lowat = transport.get_extra_info("socket").getsockopt(
            socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT
        )
        assert lowat == 128 << 10
