"""Static files, over a socket."""

import gzip
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.web.serving import Response, Running, length_app, responses_of, running

from perdure.actor.model import Actor
from perdure.base.errors import DefinitionError
from perdure.web import files
from perdure.web.app import App
from perdure.web.sites import site_of

BIG = bytes(range(256)) * 5000  # five blocks


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret.txt").write_text("secret")
    root = tmp_path_factory.mktemp("public")
    (root / "a.txt").write_text("0123456789")
    (root / "empty.css").write_text("")
    (root / "big.bin").write_bytes(BIG)
    (root / ".env").write_text("secret")
    (root / "ä ö.html").write_text("umlauts")
    (root / "app.js").write_text("plain")
    (root / "app.js.gz").write_bytes(gzip.compress(b"plain", mtime=0))
    (root / "app.js.br").write_text("brotli")
    (root / "old.js").write_text("new")
    (root / "old.js.gz").write_bytes(b"stale")
    os.utime(root / "old.js.gz", (1, 1))
    (root / "sub").mkdir()
    (root / "sub" / "index.html").write_text("index")
    (root / "bare").mkdir()
    (root / "leak.txt").symlink_to(outside / "secret.txt")
    (root / "leaks").symlink_to(outside)
    (root / "inner.txt").symlink_to(root / "a.txt")
    os.mkfifo(root / "pipe")
    return root


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[Running]:
    with running(site_of({"/assets": root}, length_app, [])) as server:
        yield server


def ask(server: Running, path: str, *lines: str, method: str = "GET") -> Response:
    head = [f"{method} /assets{path} HTTP/1.1", "Host: a", "Connection: close", *lines]
    data = server.talk("\r\n".join(head).encode() + b"\r\n\r\n")
    (response,) = responses_of(data, to_head=method == "HEAD")
    return response


def test_a_file_is_sent_with_its_type_and_validators(server: Running) -> None:
    response = ask(server, "/a.txt")
    assert (response.status, response.body) == (200, b"0123456789")
    headers = response.headers
    assert headers[b"content-type"] == b"text/plain; charset=utf-8"
    assert headers[b"etag"].startswith(b'"')
    assert headers[b"last-modified"].endswith(b"gmt")
    assert headers[b"accept-ranges"] == b"bytes"
    assert headers[b"x-content-type-options"] == b"nosniff"
    assert b"vary" not in headers


def test_a_big_file_arrives_whole_and_in_blocks(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    pread = os.pread

    def counting(descriptor: int, size: int, position: int) -> bytes:
        sizes.append(size)
        assert threading.current_thread() is not threading.main_thread()
        return pread(descriptor, size, position)

    monkeypatch.setattr(files.os, "pread", counting)
    assert ask(server, "/big.bin").body == BIG
    assert max(sizes) == files._BLOCK_BYTES
    assert len(sizes) == 10


def test_an_empty_file_has_no_body(server: Running) -> None:
    response = ask(server, "/empty.css")
    assert (response.status, response.headers[b"content-length"]) == (200, b"0")


def test_head_says_what_get_would_send(server: Running) -> None:
    response = ask(server, "/a.txt", method="HEAD")
    assert (response.status, response.body) == (200, b"")
    assert response.headers[b"content-length"] == b"10"


def test_a_known_file_is_not_sent_again(server: Running) -> None:
    tag = ask(server, "/a.txt").headers[b"etag"].decode()
    response = ask(server, "/a.txt", f"If-None-Match: {tag}")
    assert (response.status, response.body) == (304, b"")
    assert response.headers[b"etag"].decode() == tag
    assert ask(server, "/a.txt", 'If-Match: "other"').status == 412


def test_one_range(server: Running) -> None:
    response = ask(server, "/a.txt", "Range: bytes=2-4")
    assert (response.status, response.body) == (206, b"234")
    assert response.headers[b"content-range"] == b"bytes 2-4/10"


def test_a_range_of_a_big_file_reads_no_more_than_it(server: Running) -> None:
    response = ask(server, "/big.bin", "Range: bytes=300000-900000")
    assert response.body == BIG[300_000:900_001]


def test_several_ranges_come_as_one_multipart_answer(server: Running) -> None:
    response = ask(server, "/a.txt", "Range: bytes=0-1,-1")
    kind, _, boundary = response.headers[b"content-type"].partition(b"; boundary=")
    assert (response.status, kind) == (206, b"multipart/byteranges")
    parts = response.body.split(b"--" + boundary)
    assert parts[-1] == b"--\r\n"
    assert b"content-range: bytes 0-1/10\r\n\r\n01\r\n" in parts[1]
    assert b"content-range: bytes 9-9/10\r\n\r\n9\r\n" in parts[2]


def test_a_range_behind_the_end_is_told(server: Running) -> None:
    response = ask(server, "/a.txt", "Range: bytes=10-")
    assert (response.status, response.headers[b"content-range"]) == (416, b"bytes */10")


def test_if_range_of_another_version_gets_the_whole(server: Running) -> None:
    response = ask(server, "/a.txt", "Range: bytes=2-4", 'If-Range: "other"')
    assert (response.status, response.body) == (200, b"0123456789")


@pytest.mark.parametrize(
    ("accepted", "coding", "body"),
    [
        ("gzip", b"gzip", gzip.compress(b"plain", mtime=0)),
        ("gzip, br", b"br", b"brotli"),
        ("br;q=0, gzip;q=0.1", b"gzip", gzip.compress(b"plain", mtime=0)),
        ("identity", None, b"plain"),
        ("zstd", None, b"plain"),
    ],
)
def test_a_ready_compressed_variant_is_sent_to_who_likes_it(
    server: Running, accepted: str, coding: bytes | None, body: bytes
) -> None:
    response = ask(server, "/app.js", f"Accept-Encoding: {accepted}")
    assert response.headers.get(b"content-encoding") == coding
    assert response.headers[b"vary"] == b"accept-encoding"
    assert response.headers[b"content-type"] == b"text/javascript; charset=utf-8"
    assert len(response.body) == len(body)


def test_each_variant_has_a_tag_of_its_own(server: Running) -> None:
    tags = {ask(server, "/app.js", f"Accept-Encoding: {c}").headers[b"etag"] for c in ("br", "x")}
    assert len(tags) == 2


def test_a_variant_older_than_its_original_is_not_sent(server: Running) -> None:
    assert ask(server, "/old.js", "Accept-Encoding: gzip").body == b"new"


@pytest.mark.parametrize(
    "path",
    [
        "/missing",
        "/../a.txt",
        "/sub/../a.txt",
        "/sub/..%2Fa.txt",
        "/sub%2Findex.html",
        "/%2e%2e/a.txt",
        "/..%5Ca.txt",
        "/a.txt%00.html",
        "/.env",
        "/%2eenv",
        "/leak.txt",
        "/leaks/secret.txt",
        "/leaks/",
        "/leaks",
        "//a.txt",
        "//etc/passwd",
        "/a.txt/",
        "/a.txt/b",
        "/bare",
        "/bare/",
        "/pipe",
        "/%ff",
        "/" + "a" * 300,
        "/",
    ],
)
def test_what_is_no_file_below_the_directory_is_not_found(server: Running, path: str) -> None:
    response = ask(server, path)
    assert response.status == 404
    assert b"secret" not in response.body


def test_a_link_inside_and_a_name_with_umlauts_are_found(server: Running) -> None:
    assert ask(server, "/inner.txt").status == 200
    assert ask(server, "/%C3%A4%20%C3%B6.html").body == b"umlauts"


def test_a_directory_shows_its_index_behind_a_slash(server: Running) -> None:
    assert ask(server, "/sub/").body == b"index"
    response = ask(server, "/sub")
    assert (response.status, response.headers[b"location"]) == (308, b"./sub/")


def test_files_are_only_read(server: Running) -> None:
    response = ask(server, "/a.txt", "Content-Length: 0", method="POST")
    assert (response.status, response.headers[b"allow"]) == (405, b"get, head")


def test_what_is_behind_no_prefix_goes_to_the_mounted_app(server: Running) -> None:
    data = server.talk(
        b"POST /assetsx HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2\r\n\r\nab"
    )
    assert responses_of(data)[0].body == b"2"


def test_a_file_that_became_shorter_ends_the_connection(root: Path, caplog: Any) -> None:
    (root / "shrinks").write_bytes(b"x" * 10)
    pread = os.pread
    with running(site_of({"/assets": root}, None, [])) as server, pytest.MonkeyPatch.context() as m:
        m.setattr(files.os, "pread", lambda d, s, p: pread(d, 4, p) if p < 4 else b"")
        data = server.talk(b"GET /assets/shrinks HTTP/1.1\r\nHost: a\r\n\r\n")
    assert b"content-length: 10" in data
    assert len(data.partition(b"\r\n\r\n")[2]) <= 4


def test_no_file_stays_open(server: Running) -> None:
    ask(server, "/a.txt")
    before = len(os.listdir("/proc/self/fd"))
    for line in ("X: y", "Range: bytes=99-", 'If-Match: "b"', "Accept-Encoding: gzip"):
        ask(server, "/app.js", line)
    ask(server, "/pipe")
    server.wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before)
    assert len(os.listdir("/proc/self/fd")) <= before


def test_without_a_mounted_app_all_else_is_not_found(root: Path) -> None:
    with running(site_of({"/assets": root}, None, [])) as server:
        data = server.talk(b"GET /other HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert responses_of(data)[0].status == 404


def test_the_longest_prefix_wins(root: Path) -> None:
    with running(site_of({"/": root, "/sub": root / "bare"}, None, [])) as server:
        data = server.talk(b"GET /sub/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert responses_of(data)[0].status == 404
        data = server.talk(b"GET /a.txt HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert responses_of(data)[0].body == b"0123456789"


class Cart(Actor):
    """Hides files."""


@pytest.mark.parametrize("prefix", ["assets", "/assets/", "", "/cart", "/cart/x"])
def test_a_prefix_that_cannot_work_is_refused(root: Path, prefix: str) -> None:
    with pytest.raises(DefinitionError, match="static"):
        App(Cart, static={prefix: root})


def test_a_directory_that_is_not_there_is_refused(root: Path) -> None:
    with pytest.raises(DefinitionError, match="no directory"):
        App(static={"/assets": root / "missing"})
    with pytest.raises(DefinitionError, match="hide"):
        App(static={"/": root}, mount=length_app)
