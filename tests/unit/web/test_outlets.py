"""Webhooks and e-mail, against small servers of their own."""

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from perdure import BadArgumentsError, Delivery, Mail, Webhooks
from perdure.testing import VirtualClock, async_test


def delivery(**values: object) -> Delivery:
    return Delivery("an-id", "order/7", values, 1)


@asynccontextmanager
async def http(status: int) -> AsyncIterator[tuple[str, list[bytes]]]:
    requests: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        requests.append(head + await reader.readexactly(size))
        writer.write(b"HTTP/1.1 %d X\r\ncontent-length: 0\r\n\r\n" % status)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook", requests


@asynccontextmanager
async def smtp() -> AsyncIterator[tuple[str, list[bytes]]]:
    letters: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 here\r\n")
        while line := await reader.readline():
            verb = line[:4].upper()
            if verb == b"DATA":
                writer.write(b"354 go on\r\n")
                letters.append(await reader.readuntil(b"\r\n.\r\n"))
            writer.write(b"250 fine\r\n" if verb != b"QUIT" else b"221 bye\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"smtp://127.0.0.1:{server.sockets[0].getsockname()[1]}", letters


@async_test
async def test_a_webhook_is_posted_under_its_id_and_signed() -> None:
    async with http(204) as (url, requests):
        hooks = Webhooks(secret="s3cret", clock=VirtualClock(1_700_000_000_000))
        await hooks(delivery(url=url, json={"order": "ä"}, headers={"x-shop": "1"}))
    head, _, body = requests[0].partition(b"\r\n\r\n")
    assert json.loads(body) == {"order": "ä"}
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    assert fields[b"idempotency-key"] == fields[b"webhook-id"] == b"an-id"
    assert fields[b"x-shop"] == b"1"
    digest = hmac.digest(b"s3cret", b"an-id.1700000000." + body, hashlib.sha256)
    assert b"webhook-signature: v1," + base64.b64encode(digest) in head


@async_test
async def test_what_the_receiver_does_not_take_is_a_failure() -> None:
    for status in (302, 404, 500):
        async with http(status) as (url, _):
            with pytest.raises(OSError, match=f"answered {status}"):
                await Webhooks()(delivery(url=url))
    with pytest.raises(Exception, match="connect"):
        await Webhooks()(delivery(url=url))


@async_test
async def test_values_that_do_not_fit_are_told() -> None:
    with pytest.raises(BadArgumentsError, match="http"):
        await Webhooks()(delivery(url="file:///etc/passwd"))
    with pytest.raises(BadArgumentsError, match="url"):
        await Webhooks()(delivery(json=1))
    with pytest.raises(BadArgumentsError, match="subject"):
        await Mail("smtp://localhost", "shop@example.com")(delivery(to="a@b.c"))
    with pytest.raises(BadArgumentsError):
        Mail("http://localhost", "shop@example.com")


@async_test
async def test_a_letter_is_sent() -> None:
    async with smtp() as (server, letters):
        mail = Mail(server, "shop@example.com")
        await mail(delivery(to="ann@example.com", subject="Your tea", text="is on its way"))
        with pytest.raises(ValueError):
            await mail(delivery(to="a@example.com\r\nBcc: all@example.com", subject="x", text="x"))
    assert b"Message-ID: <an-id@example.com>" in letters[0]
    assert b"is on its way" in letters[0]
    assert len(letters) == 1
