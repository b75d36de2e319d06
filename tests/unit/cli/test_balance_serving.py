"""`perdure balance` as a process: its TLS, its supervisor, its end."""

import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.faults.supervised import free_port, is_alive, until

COMMAND = (sys.executable, "-c", "from perdure.cli import main; main()", "balance")


def make(directory: Path, name: str) -> list[str]:
    """A certificate for `name` and its key, which replace those before."""
    files = directory / "tls.pem", directory / "tls.key"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}"]
    command += ["-out", "cert.new", "-keyout", "key.new"]
    subprocess.run(command, check=True, capture_output=True, cwd=directory)
    for new, file in zip(("cert.new", "key.new"), files, strict=True):
        (directory / new).replace(file)
    return ["--tls-cert", str(files[0]), "--tls-key", str(files[1])]


@contextmanager
def balancing(port: int, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [*COMMAND, "--listen", f"127.0.0.1:{port}", *options, "127.0.0.1:9"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert b"perdure balances" in process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.communicate()


def shown(port: int) -> str:
    """The name in the certificate that a handshake gets."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", port), 5) as plain,
        context.wrap_socket(plain) as it,
    ):
        raw = it.getpeercert(binary_form=True)
    assert raw is not None
    return "first" if b"first" in raw else "second" if b"second" in raw else "?"


def test_a_certificate_is_taken_up_while_it_serves_and_a_bad_one_is_not(tmp_path: Path) -> None:
    port = free_port()
    files = make(tmp_path, "first")
    with balancing(port, *files) as process:
        assert shown(port) == "first"
        make(tmp_path, "second")
        until(lambda: shown(port) == "second", "the new certificate")
        (tmp_path / "tls.pem").write_text("nonsense")
        assert process.stderr is not None
        os.set_blocking(process.stderr.fileno(), False)
        told = b""

        def complains() -> bool:
            nonlocal told
            told += process.stderr.read() or b""  # type: ignore[union-attr]
            return b"certificate not taken up" in told

        until(complains, "a line that says so")
        assert shown(port) == "second"


def test_a_bad_certificate_is_told_in_one_line_before_anything_is_bound(tmp_path: Path) -> None:
    files = make(tmp_path, "first")
    (tmp_path / "tls.pem").write_text("nonsense")
    done = subprocess.run(
        [*COMMAND, *files, "127.0.0.1:9"], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 2
    assert done.stderr.startswith("perdure: --tls-cert ")
    assert len(done.stderr.splitlines()) == 1


def _children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("mode", ["http", "tcp"])
def test_its_process_ends_with_it_however_it_ends(mode: str) -> None:
    for number, code in ((signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGKILL, -9)):
        with balancing(free_port(), "--mode", mode, "--grace", "0") as process:
            (child,) = _children(process.pid)
            process.send_signal(number)
            assert process.wait(20) == code
            until(lambda child=child: not is_alive(child), "the end of the process below it")


def test_a_second_signal_does_not_wait() -> None:
    with balancing(free_port(), "--grace", "20") as process:
        until(lambda: process.poll() is not None or process.terminate(), "its end", 10)
