"""Sends the cases to a server, and judges what comes back."""

import asyncio
import contextlib
from collections import Counter
from dataclasses import dataclass

from tests.hostile.cases import Case

_QUIET_S = 2.0  # a server that says nothing for this long waits for more
_AT_ONCE = 12


@dataclass(frozen=True)
class Outcome:
    """What a server did with one case."""

    case: Case
    statuses: tuple[int, ...]  # of the final answers
    closed: bool
    is_readable: bool = True  # the answers could be told apart

    @property
    def is_right(self) -> bool:
        """Whether that is what the case demands."""
        case = self.case
        good = sum(status < 400 for status in self.statuses)
        has_error = any(status >= 400 for status in self.statuses)
        if case.verdict == "refuse":
            return good <= case.answers and (has_error or self.closed)
        if case.verdict == "accept":
            return self.is_readable and self.closed and not has_error and good == case.answers
        return True

    def __str__(self) -> str:
        told = " ".join(
            f"{n} × {s}" if n > 1 else f"{s}" for s, n in Counter(self.statuses).items()
        )
        return f"{told or 'none'}, {'closed' if self.closed else 'waits'}"


async def outcomes(port: int, cases: list[Case], *before: bytes) -> list[Outcome]:
    """The outcome of each case, in their order, from the server at this port.

    Args:
        before: good requests that are sent first on each connection, and answered.
    """
    turn = asyncio.Semaphore(_AT_ONCE)

    async def one(case: Case) -> Outcome:
        async with turn:
            return await _outcome(port, case, before)

    return await asyncio.gather(*map(one, cases))


async def _outcome(port: int, case: Case, before: tuple[bytes, ...]) -> Outcome:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for raw in before:
        writer.write(raw)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        await reader.readexactly(int(length))
    data, closed = b"", False
    sending = asyncio.create_task(_send(writer, case.sent))
    try:
        while not closed:
            part = await asyncio.wait_for(reader.read(1 << 16), _QUIET_S)
            closed = not part
            data += part
    except TimeoutError:
        pass
    except ConnectionError:
        closed = True
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    writer.transport.abort()
    statuses, is_readable = _statuses(data, to_head=case.raw.startswith(b"HEAD "))
    return Outcome(case, tuple(statuses), closed, is_readable)


async def _send(writer: asyncio.StreamWriter, raw: bytes) -> None:
    with contextlib.suppress(ConnectionError):  # the answer may have come before the end
        writer.write(raw)
        await writer.drain()


def _statuses(data: bytes, *, to_head: bool) -> tuple[list[int], bool]:
    """The final statuses, and whether the stream could be read to its end."""
    statuses: list[int] = []
    try:
        while data:
            head, end, data = data.partition(b"\r\n\r\n")
            first, *lines = head.split(b"\r\n")
            version, status = first.split(b" ")[:2]
            if not end or not version.startswith(b"HTTP/1."):
                return statuses, False
            fields = {
                n.strip().lower(): v.strip() for n, _, v in (li.partition(b":") for li in lines)
            }
            is_bare = int(status) < 200 or int(status) in (204, 304) or (to_head and not statuses)
            if int(status) >= 200:
                statuses.append(int(status))
            if not is_bare:
                data = _behind_body(data, fields)
    except ValueError:
        return statuses, False
    return statuses, True


def _behind_body(data: bytes, fields: dict[bytes, bytes]) -> bytes:
    if fields.get(b"transfer-encoding", b"").lower() == b"chunked":
        while True:
            size, end, data = data.partition(b"\r\n")
            length = int(size, 16)
            if not end or data[length : length + 2] != b"\r\n":
                raise ValueError("the body is cut off")
            data = data[length + 2 :]
            if not length:
                return data
    if b"content-length" in fields:
        length = int(fields[b"content-length"])
        if len(data) < length:
            raise ValueError("the body is cut off")
        return data[length:]
    return b""
