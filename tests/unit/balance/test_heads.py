"""Our parsers beside httptools: what we accept, it reads the same way."""

import contextlib

import httptools
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from perdure.balance.chunks import BadChunkError, ChunkReader, chunk
from perdure.balance.heads import REQUEST_LINE, Peer, parse_request
from perdure.web.request_head import RefusedError

PIECES = st.sampled_from(
    (
        b"GET |POST |/|/a?b|*| |HTTP/1.1|HTTP/1.0|\r\n|\n|\r|Host: a|Host:a|A:|A: 1| B: 2|\tC|A : 1"
        b"|Content-Length: 3|content-length: 0|Transfer-Encoding: chunked|Connection: close"
        b"|\x00|\xff"
    ).split(b"|")
)
ALMOST = st.lists(PIECES, max_size=8).map(
    lambda pieces: b"GET / HTTP/1.1\r\nHost: a\r\n" + b"".join(pieces) + b"\r\n\r\n"
)


class Read:
    def __init__(self) -> None:
        self.fields: list[tuple[bytes, bytes]] = []
        self.is_complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value.strip()))

    def on_headers_complete(self) -> None:
        self.is_complete = True


@given(ALMOST | st.lists(PIECES, max_size=12).map(b"".join))
@example(b"GET / HTTP/1.1\r\nHost: a\r\nA: 1\r\n\r\n")
def test_a_head_that_we_accept_has_the_same_fields_for_httptools(raw: bytes) -> None:
    end = raw.find(b"\r\n\r\n") + 4
    line = REQUEST_LINE.match(raw)
    if end < 4 or line is None:
        return
    try:
        head = parse_request(raw[line.end() : end], Peer("1.2.3.4", "http"))
    except RefusedError:
        return
    read = Read()
    parser = httptools.HttpRequestParser(read)
    with contextlib.suppress(httptools.HttpParserUpgrade):
        parser.feed_data(raw[:end])
    assert read.is_complete
    assert dict(read.fields) == head.fields


@given(st.lists(st.binary(min_size=1, max_size=50)), st.binary(max_size=20), st.integers(1, 30))
def test_chunks_come_apart_wherever_they_are_cut(
    pieces: list[bytes], behind: bytes, step: int
) -> None:
    framed = b"".join(chunk(piece) for piece in pieces) + b"0\r\nT: 1\r\n\r\n" + behind
    reader, content, rest = ChunkReader(), b"", b""
    for at in range(0, len(framed), step):
        if reader.is_done:
            rest += framed[at : at + step]
            continue
        part, over = reader.feed(framed[at : at + step])
        content += part
        rest += over
    assert reader.is_done
    assert content == b"".join(pieces)
    assert rest == behind


@pytest.mark.parametrize(
    "framed", [b"0x1\r\na", b"1\na\r\n", b"1\r\nab\r\n", b" 1\r\na", b"\r\n", b"g\r\n", b"f" * 9000]
)
def test_sloppy_chunks_are_refused(framed: bytes) -> None:
    with pytest.raises(BadChunkError):
        ChunkReader().feed(framed)
