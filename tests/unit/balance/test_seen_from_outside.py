"""TLS, the policy `hash`, metrics and the access log."""

import asyncio
import logging
import re
import shutil
import socket
import ssl
import subprocess
from pathlib import Path

import pytest
import uvloop
from tests.unit.balance.scripted import balancing, ok, say

GET = b"GET /a?secret=1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate with openssl")
def test_https_is_told_to_the_backend(tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=a"]
    files = ["-keyout", key, "-out", certificate, "-addext", "subjectAltName=DNS:a"]
    subprocess.run([*command, *files], check=True, capture_output=True)
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.load_cert_chain(certificate, key)
    theirs = ssl.create_default_context(cafile=str(certificate))

    async def body() -> None:
        async with balancing(say(ok()), ssl_context=ours) as (front, (backend,)):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", front.port, ssl=theirs, server_hostname="a"
            )
            writer.write(GET)
            assert (await reader.read()).endswith(b"\r\n\r\nok")
            assert b"x-forwarded-proto: https\r\n" in backend.seen
            writer.close()

    uvloop.run(body())


@pytest.mark.parametrize(
    ("key", "raw"),
    [
        ("header:X-Tenant", b"GET / HTTP/1.1\r\nHost: a\r\nx-tenant: %d\r\n\r\n"),
        ("cookie:sid", b"GET / HTTP/1.1\r\nHost: a\r\nCookie: a=b; sid=%d\r\n\r\n"),
        ("path:2", b"GET /cart/%d?x HTTP/1.1\r\nHost: a\r\n\r\n"),
    ],
)
def test_the_same_key_goes_to_the_same_backend(key: str, raw: bytes) -> None:
    async def body() -> None:
        scripts = [say(ok(b"%d" % number)) for number in range(3)]
        async with balancing(*scripts, policy="hash", hash_key=key) as (front, _):
            where = [{(await front.ask(raw % n))[-1:] for _ in range(4)} for n in range(12)]
            assert all(len(places) == 1 for places in where)
            assert len(set.union(*where)) > 1

    uvloop.run(body())


def test_metrics_count_what_happened() -> None:
    async def body() -> None:
        admin = socket.create_server(("127.0.0.1", 0))
        port = admin.getsockname()[1]
        async with balancing(say(ok()), admin=admin) as (front, _):
            for _ in range(3):
                await front.ask(GET)
            await front.ask(b"nonsense\r\n\r\n")
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
            head, _, text = (await reader.read()).partition(b"\r\n\r\n")
            writer.close()
            assert head.startswith(b"HTTP/1.1 200 ")
            name = front.shared.backends.all()[0].target.name.encode()
            for line in (
                b'requests_total{backend="%b",status="2xx"} 3' % name,
                b'requests_total{backend="",status="4xx"} 1',
                b'latency_seconds_count{backend="%b"} 3' % name,
                b'latency_seconds_bucket{backend="%b",le="+Inf"} 3' % name,
                b'in_flight{backend="%b"} 0' % name,
                b'backend_state{backend="%b",state="up"} 1' % name,
                b"connections_total 4",
            ):
                assert b"\nperdure_balance_" + line + b"\n" in text
            for line in text.splitlines():
                assert re.fullmatch(rb"# (HELP|TYPE) .+|[a-z_]+(\{[^{}]+\})? [0-9.e+-]+", line)

    uvloop.run(body())


def test_the_access_log_tells_the_path_and_no_query(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with balancing(say(ok())) as (front, _):
            await front.ask(GET)

    with caplog.at_level(logging.INFO, "perdure.balance.access"):
        uvloop.run(body())
    (record,) = [one for one in caplog.records if one.name == "perdure.balance.access"]
    told = vars(record)
    assert (told["method"], told["path"], told["status"]) == ("GET", "/a", 200)
    assert "secret" not in str(told)
