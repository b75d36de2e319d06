"""A small HTTP/1.1 client: one connection, one request at a time.

A general client would do, but it spends more time on a request than the server does, and the
figures would be its own.
"""

import asyncio
from typing import NamedTuple

_HEAD_BYTES_MAX = 16 << 10


class Answer(NamedTuple):
    """What came back."""

    status: int
    body: bytes


class Connection:
    """Connects when first used, and anew after it was lost."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def request(
        self, method: str, target: str, headers: str = "", body: bytes = b"", *, timeout_s: float
    ) -> Answer:
        """Send and wait for the answer; `headers` are lines that end in CRLF.

        Raises OSError, EOFError or TimeoutError: then nobody knows whether the server did it.
        """
        head = (
            f"{method} {target} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n{headers}"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        try:
            async with asyncio.timeout(timeout_s):
                if self._streams is None:
                    self._streams = await asyncio.open_connection(
                        self._host, self._port, limit=_HEAD_BYTES_MAX
                    )
                reader, writer = self._streams
                writer.write(head.encode() + body)
                return await self._answer(reader)
        except BaseException:
            self.close()
            raise

    async def _answer(self, reader: asyncio.StreamReader) -> Answer:
        lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
        headers = dict(line.split(b": ", 1) for line in lines[1:] if b": " in line)
        body = await reader.readexactly(int(headers[b"content-length"]))
        if headers.get(b"connection") == b"close":
            self.close()
        return Answer(int(lines[0].split()[1]), body)

    def close(self) -> None:
        """Give the connection up; the next request makes a new one."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None
