"""The real network: addresses, files of Unix sockets, options of TCP, TLS."""

import asyncio
import os
import socket
import stat
import subprocess
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop
from tests.unit.cluster.wiring import (
    KEY,
    LIMITS,
    Process,
    Recorder,
    caught_logs,
    identity,
    member,
    new_link,
    passes,
    until,
)

from perdure.base.clock import SystemClock
from perdure.base.errors import HandshakeError, OverloadedError
from perdure.base.limits import Limits
from perdure.cluster.frames import Answer, Changed
from perdure.cluster.handshake import ClientHandshake, ServerHandshake
from perdure.cluster.sockets import SocketNetwork, tls_contexts

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine on each of the two event loops, within a deadline."""

    async def bounded(body: Coroutine[Any, Any, None]) -> None:
        async with asyncio.timeout(15):
            await body

    runner = asyncio.run if request.param == "asyncio" else uvloop.run
    return lambda body: runner(bounded(body))


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory whose path is short enough for a socket."""
    return tmp_path_factory.mktemp("s")


def process(
    incarnation: int, network: SocketNetwork | None = None, limits: Limits = LIMITS
) -> Process:
    return Process(network or SocketNetwork(), incarnation, clock=SystemClock(), limits=limits)


async def talk(here: Process, there: Process, address: str) -> None:
    """Connect the two, and pass a large frame and a small one each way."""
    address = await there.links.listen(address)
    there.handler.on_frame = lambda link, frame: link.send(frame)
    here.links.want([member(2, address)])
    await until(lambda: here.links.link_to(2, address))
    link = here.links.link_to(2, address)
    assert link is not None
    frames = [Answer(1, bytes(3_000_000)), Changed("Cart", "anna")]
    for frame in frames:
        link.send(frame)
    await until(lambda: len(here.handler.frames) == 2)
    assert here.handler.frames == there.handler.frames == frames


async def end(*processes: Process) -> None:
    for one in processes:
        await one.links.close()
    await passes()


def test_processes_talk_over_a_unix_socket(run: Run, place: Path) -> None:
    async def body() -> None:
        here, there = process(1), process(2)
        await talk(here, there, f"unix:{place}/socket")
        assert stat.S_IMODE((place / "socket").stat().st_mode) == 0o600
        await end(here, there)
        assert os.listdir(place) == []

    run(body())


def test_processes_talk_over_tcp(run: Run) -> None:
    async def body() -> None:
        here, there = process(1), process(2)
        await talk(here, there, "tcp:127.0.0.1:0")
        for one in (here, there):
            link = next(one.links.open_links())
            assert link._transport is not None
            used = link._transport.get_extra_info("socket")
            assert used.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert used.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        await end(here, there)

    run(body())


def test_a_host_name_may_stand_for_several_addresses(run: Run) -> None:
    async def body() -> None:
        here, there = process(1), process(2)
        await talk(here, there, "tcp:localhost:0")
        await end(here, there)

    run(body())


def test_a_port_where_nobody_listens_is_a_refusal(run: Run) -> None:
    async def body() -> None:
        listener = await SocketNetwork().listen("tcp:127.0.0.1:0", asyncio.Protocol)
        port = listener.address.rpartition(":")[2]
        listener.close()
        await passes()
        for host in ("127.0.0.1", "localhost"):
            with pytest.raises(ConnectionRefusedError):
                await SocketNetwork().connect(f"tcp:{host}:{port}", asyncio.Protocol)

    run(body())


def test_a_socket_file_without_a_listener_is_a_refusal(run: Run, place: Path) -> None:
    async def body() -> None:
        here = process(1)
        with pytest.raises(FileNotFoundError):
            await SocketNetwork().connect(f"unix:{place}/none", asyncio.Protocol)
        left_behind(place / "socket")
        with pytest.raises(ConnectionRefusedError):
            await SocketNetwork().connect(f"unix:{place}/socket", asyncio.Protocol)
        here.links.want([member(2, f"unix:{place}/socket")])
        await until(lambda: here.handler.refusals)
        await end(here)

    run(body())


def test_a_listener_that_goes_is_a_refusal_at_once_and_comes_back(run: Run, place: Path) -> None:
    async def body() -> None:
        here, there = process(1), process(2)
        address = f"unix:{place}/socket"
        await talk(here, there, address)
        await there.links.close()
        await until(lambda: here.handler.refusals)
        again = process(2)
        await again.links.listen(address)
        await until(lambda: here.links.link_to(2, address))
        assert len(here.handler.opened_links) == 2
        await end(here, again)

    run(body())


# --- files


def test_a_socket_that_was_left_behind_is_replaced(run: Run, place: Path) -> None:
    async def body() -> None:
        left_behind(place / "socket")
        here, there = process(1), process(2)
        await talk(here, there, f"unix:{place}/socket")
        await end(here, there)

    run(body())


def test_a_socket_that_is_in_use_is_not_replaced(run: Run, place: Path) -> None:
    async def body() -> None:
        here, there, third = process(1), process(2), process(3)
        with pytest.raises(OSError, match="another process listens"):
            await there.links.listen(f"unix:{place}/socket")
            await third.links.listen(f"unix:{place}/socket")
        assert os.listdir(place) == ["socket"]
        here.links.want([member(2, f"unix:{place}/socket")])
        await until(lambda: here.handler.opened_links)
        await end(here, there, third)

    run(body())


def test_another_kind_of_file_is_not_replaced(run: Run, place: Path) -> None:
    async def body() -> None:
        (place / "socket").write_text("precious")
        (place / "link").symlink_to(place / "none")
        for name in ("socket", "link"):
            with pytest.raises(FileExistsError, match="not a socket"):
                await SocketNetwork().listen(f"unix:{place}/{name}", asyncio.Protocol)
        assert (place / "socket").read_text() == "precious"

    run(body())


def test_a_listener_removes_only_its_own_socket(run: Run, place: Path) -> None:
    async def body() -> None:
        address = f"unix:{place}/socket"
        first = await SocketNetwork().listen(address, asyncio.Protocol)
        (place / "socket").unlink()
        second = await SocketNetwork().listen(address, asyncio.Protocol)
        first.close()
        assert (place / "socket").exists()
        second.close()
        second.close()
        assert not (place / "socket").exists()
        await passes()

    run(body())


def test_a_path_too_long_for_a_socket_is_told(run: Run, place: Path) -> None:
    async def body() -> None:
        path = place / ("x" * 90)
        with pytest.raises(ValueError, match=r"has \d+ bytes; 90 is the most"):
            await SocketNetwork().listen(f"unix:{path}", asyncio.Protocol)

    run(body())


@pytest.mark.parametrize(
    "address", ["", "tcp:", "unix:", "http://x", "tcp:host", "tcp::1", "tcp:h:x", "tcp:h:70000"]
)
def test_what_is_no_address_is_told(address: str) -> None:
    async def body() -> None:
        for attempt in (SocketNetwork().listen, SocketNetwork().connect):
            with pytest.raises(ValueError, match="no address: write tcp:HOST:PORT"):
                await attempt(address, asyncio.Protocol)

    asyncio.run(body())


def left_behind(path: Path) -> None:
    """A socket file as a killed process leaves it."""
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))


def test_both_ends_log_their_versions_when_they_have_none_in_common(run: Run, place: Path) -> None:
    """The refusing end must not cut the connection before its answer has left."""

    async def body() -> None:
        handlers = Recorder(), Recorder()
        links = [
            new_link(handler, dials=dials, clock=SystemClock())
            for handler, dials in zip(handlers, (True, False), strict=True)
        ]
        links[0]._handshake = ClientHandshake(identity(1), KEY, versions=(1, 2))
        links[1]._handshake = ServerHandshake(identity(2), KEY, versions=(3, 4))
        network = SocketNetwork()
        listener = await network.listen(f"unix:{place}/socket", lambda: links[1])
        with caught_logs() as records:
            await network.connect(f"unix:{place}/socket", lambda: links[0])
            await until(lambda: handlers[0].errors and handlers[1].errors)
        listener.close()
        await passes()
        refusals = [one for one in records if one.levelname == "ERROR"]
        assert sorted(one.versions for one in refusals) == [[1, 2], [3, 4]]
        assert sorted(one.peer_versions for one in refusals) == [[1, 2], [3, 4]]
        errors = [*handlers[0].errors, *handlers[1].errors]
        assert [type(error) for error in errors] == [HandshakeError] * 2

    run(body())


# --- bounds


def test_a_process_that_does_not_read_is_cut_off(run: Run, place: Path) -> None:
    """Over a real socket: its buffers fill, then the link's, and then it ends."""

    async def body() -> None:
        here, there = process(1, limits=Limits(link_bytes_max=1_000_000)), process(2)
        address = await there.links.listen(f"unix:{place}/socket")
        here.links.want([member(2, address)])
        await until(lambda: here.links.link_to(2, address))
        link = here.links.link_to(2, address)
        assert link is not None
        await until(lambda: there.handler.opened_links)
        reader = there.handler.opened_links[0]._transport
        assert reader is not None
        reader.pause_reading()
        was_congested = False
        with caught_logs():
            for number in range(300):
                link.send(Answer(number, bytes(100_000)))
                await asyncio.sleep(0)
                was_congested = was_congested or link.is_congested
            await until(lambda: here.handler.closed_links)
        assert [type(error) for error in here.handler.errors] == [OverloadedError]
        assert was_congested
        reader.resume_reading()
        await end(here, there)

    run(body())


# --- TLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two authorities, `ours` and `theirs`, and a certificate `one` of each."""
    place = tmp_path_factory.mktemp("tls")
    for name in ("ours", "theirs"):
        authority = [f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}"]
        request = [f"{name}-one.key", "-out", f"{name}-one.csr", "-subj", "/CN=one"]
        sign = ["-CA", f"{name}.pem", "-CAkey", f"{name}.key", "-CAcreateserial", "-days", "2"]
        fresh = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout"]
        for command in (
            ["req", "-x509", "-days", "2", *fresh, *authority],
            ["req", *fresh, *request],
            ["x509", "-req", "-in", f"{name}-one.csr", "-out", f"{name}-one.pem", *sign],
        ):
            subprocess.run(["openssl", *command], cwd=place, check=True, capture_output=True)
    return place


def tls(place: Path, name: str, authority: str) -> SocketNetwork:
    server, client = tls_contexts(
        place / f"{name}-one.pem", place / f"{name}-one.key", place / f"{authority}.pem"
    )
    return SocketNetwork(server_ssl=server, client_ssl=client)


def test_processes_talk_over_tls(run: Run, certificates: Path) -> None:
    async def body() -> None:
        network = tls(certificates, "ours", "ours")
        here, there = process(1, network), process(2, network)
        await talk(here, there, "tcp:127.0.0.1:0")
        link = next(here.links.open_links())
        assert link._transport is not None
        assert link._transport.get_extra_info("cipher")[1] == "TLSv1.3"
        await end(here, there)

    run(body())


@pytest.mark.parametrize("stranger", ["without TLS", "of another authority", "believes anybody"])
def test_without_a_certificate_of_ours_nobody_gets_in(
    run: Run, certificates: Path, stranger: str
) -> None:
    async def body() -> None:
        there = process(2, tls(certificates, "ours", "ours"))
        address = await there.links.listen("tcp:127.0.0.1:0")
        network = {
            "without TLS": SocketNetwork(),
            "of another authority": tls(certificates, "theirs", "theirs"),
            "believes anybody": tls(certificates, "theirs", "ours"),
        }[stranger]
        here = process(1, network, Limits(link_handshake_s=0.3))
        with caught_logs():
            here.links.want([member(2, address)])
            await until(lambda: here.handler.failures)
        assert here.handler.opened_links + there.handler.opened_links == []
        assert here.handler.refusals == []
        await end(here, there)

    run(body())


def test_a_server_of_another_authority_is_not_believed(run: Run, certificates: Path) -> None:
    async def body() -> None:
        there = process(2, tls(certificates, "theirs", "ours"))
        address = await there.links.listen("tcp:127.0.0.1:0")
        here = process(1, tls(certificates, "ours", "ours"))
        here.links.want([member(2, address)])
        await until(lambda: here.handler.failures)
        assert here.handler.opened_links + there.handler.opened_links == []
        await end(here, there)

    run(body())
