"""Static files, as an ASGI application: conditional requests, ranges, ready-compressed variants.

It exists so that a small site needs no second server. As an ASGI application it has the
back-pressure, the timeouts and the limits of any other, and works under every server.

Invariants:
- Disks are read in threads, never on the event loop, and one block at a time: memory does not grow
  with the file.
- A file that becomes shorter while it is sent ends its connection: half a file never looks whole.
- An open file is closed however its answer ends.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

from perdure.base.ids import new_id
from perdure.web.conditions import UnsatisfiableError, ranges_of, status_of_conditions
from perdure.web.file_lookup import FoundDirectory, OpenFile, open_file, segments_of
from perdure.web.problems import CONTENT_TYPE, problem

_BLOCK_BYTES = 128 << 10

Headers = list[tuple[bytes, bytes]]


class Files:
    """The files below one directory."""

    def __init__(self, directory: str | Path) -> None:
        self._root = os.path.realpath(directory)

    async def answer(self, raw_path: bytes, scope: Any, send: Any) -> None:
        """Answer a request for the path below the prefix."""
        if scope["method"] not in ("GET", "HEAD"):
            await _problem(send, 405, "method-not-allowed", [(b"allow", b"GET, HEAD")])
            return
        fields = _fields_of(scope["headers"])
        segments = segments_of(raw_path)
        accepted = fields.get(b"accept-encoding")
        found = None
        if segments is not None:
            found = await asyncio.to_thread(open_file, self._root, segments, accepted)
        if found is None:
            await _problem(send, 404, "not-found", [])
        elif isinstance(found, FoundDirectory):
            # Relative, so that it holds behind any prefix; with a dot, so that no name is a scheme.
            here = b"./" + raw_path.rpartition(b"/")[2] + b"/"
            await _send(send, 308, [(b"location", here), (b"content-length", b"0")], b"")
        else:
            try:
                await _answer_file(found, fields, send, is_head=scope["method"] == "HEAD")
            finally:
                os.close(found.descriptor)


async def _answer_file(
    file: OpenFile, fields: dict[bytes, bytes], send: Any, *, is_head: bool
) -> None:
    headers = _headers_of(file)
    status = status_of_conditions(fields, file.validators)
    if status == 304:
        await _send(send, 304, headers, b"")
        return
    if status == 412:
        await _problem(send, 412, "precondition-failed", headers)
        return
    try:
        ranges = ranges_of(fields, file.size_bytes, file.validators)
    except UnsatisfiableError:
        whole = b"bytes */%d" % file.size_bytes
        await _problem(send, 416, "range-not-satisfiable", [*headers, (b"content-range", whole)])
        return
    status, parts, content_type = _parts_of(file, ranges)
    length = sum(len(part) if isinstance(part, bytes) else part[1] - part[0] + 1 for part in parts)
    headers += [(b"content-type", content_type), (b"content-length", b"%d" % length)]
    if len(ranges) == 1:
        headers.append((b"content-range", _content_range(ranges[0], file)))
    if is_head or not length:
        await _send(send, status, headers, b"")
        return
    await send({"type": "http.response.start", "status": status, "headers": headers})
    async for block in _blocks(file, parts):
        length -= len(block)
        await send({"type": "http.response.body", "body": block, "more_body": length > 0})


def _fields_of(headers: Headers) -> dict[bytes, bytes]:
    """The fields by name, repeated lines joined (RFC 9110, 5.3)."""
    fields: dict[bytes, bytes] = {}
    for name, value in headers:
        fields[name] = fields[name] + b", " + value if name in fields else value
    return fields


def _headers_of(file: OpenFile) -> Headers:
    headers = [
        (b"etag", file.validators.tag),
        (b"last-modified", formatdate(file.validators.modified_s, usegmt=True).encode()),
        (b"accept-ranges", b"bytes"),
        # Browsers may keep it, and ask each time; the answer is mostly a 304.
        (b"cache-control", b"no-cache"),
        (b"x-content-type-options", b"nosniff"),
    ]
    if file.has_variants:
        headers.append((b"vary", b"accept-encoding"))
    if file.coding is not None:
        headers.append((b"content-encoding", file.coding.encode()))
    return headers


def _parts_of(
    file: OpenFile, ranges: list[tuple[int, int]]
) -> tuple[int, list[bytes | tuple[int, int]], bytes]:
    """The status, the body in ready bytes and spans of the file, and the content type."""
    if not ranges:
        whole: list[bytes | tuple[int, int]] = [(0, file.size_bytes - 1)]
        return 200, whole if file.size_bytes else [], file.content_type
    if len(ranges) == 1:
        return 206, [ranges[0]], file.content_type
    boundary = new_id().encode()
    parts: list[bytes | tuple[int, int]] = []
    for span in ranges:
        parts += [
            b"--%b\r\ncontent-type: %b\r\ncontent-range: %b\r\n\r\n"
            % (boundary, file.content_type, _content_range(span, file)),
            span,
            b"\r\n",
        ]
    parts.append(b"--%b--\r\n" % boundary)
    return 206, parts, b"multipart/byteranges; boundary=" + boundary


def _content_range(span: tuple[int, int], file: OpenFile) -> bytes:
    return b"bytes %d-%d/%d" % (*span, file.size_bytes)


async def _blocks(file: OpenFile, parts: list[bytes | tuple[int, int]]) -> AsyncIterator[bytes]:
    for part in parts:
        if isinstance(part, bytes):
            yield part
            continue
        position, last = part
        while position <= last:
            size = min(_BLOCK_BYTES, last - position + 1)
            block = await asyncio.to_thread(os.pread, file.descriptor, size, position)
            if not block:
                raise OSError("the file became shorter while it was sent")
            position += len(block)
            yield block


async def _problem(send: Any, status: int, name: str, headers: Headers) -> None:
    body = problem(status, name, _TITLES[name])
    headers = [header for header in headers if header[0] not in (b"content-encoding", b"etag")]
    headers += [(b"content-type", CONTENT_TYPE), (b"content-length", b"%d" % len(body))]
    await _send(send, status, headers, body)


_TITLES = {
    "not-found": "Nothing is here",
    "method-not-allowed": "Files are only read",
    "precondition-failed": "The file is another one by now",
    "range-not-satisfiable": "The file is not that long",
}


async def _send(send: Any, status: int, headers: Headers, body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
