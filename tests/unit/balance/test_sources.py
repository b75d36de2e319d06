"""Where the backends come from: the command line, a file, DNS."""

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.balance.backends import Backends, Target
from perdure.balance.sources import (
    DnsSource,
    FileSource,
    FixedSource,
    Found,
    follow,
    found_in_text,
    into,
    target_of,
)
from perdure.base.errors import SourceError
from perdure.testing import VirtualClock, async_test

A, B = "10.0.0.1:8000", "10.0.0.2:8000"


def names(found: Found | None) -> list[str]:
    assert found is not None
    return [target.name for target in found.targets]


@pytest.mark.parametrize(
    ("address", "target"),
    [
        (A, Target(A, "10.0.0.1", 8000)),
        ("shop-1.internal:80", Target("shop-1.internal:80", "shop-1.internal", 80)),
        ("[::1]:8000", Target("[::1]:8000", "::1", 8000)),
        ("unix:/run/a", Target("unix:/run/a", "localhost", 0, "/run/a")),
    ],
)
def test_a_backend_is_written_as_an_address(address: str, target: Target) -> None:
    assert target_of(address) == target


@pytest.mark.parametrize(
    "text",
    ["10.0.0.1", ":80", "a:", "a:x", "a:0", "a:65536", "::1:80", "unix:relative", "a:٣", ""],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(SourceError):
        target_of(text)


def test_lines_and_json_say_the_same() -> None:
    lines = f"# all\n\n{A} weight=3 name=a  # the big one\n{B} draining\n"
    objects = [{"address": A, "weight": 3, "name": "a"}, {"address": B, "draining": True}]
    expected = Found((Target("a", "10.0.0.1", 8000, None, 3), target_of(B)), frozenset({B}))
    assert found_in_text(lines) == found_in_text(json.dumps(objects)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n",
        "[]",
        "[",
        '[{"address": "10.0.0.1:80", "wait": 1}]',
        f"{A}\n{A}\n",
        f"{A} weight=-1\n",
        f"{A} weight=257\n",
        f"{A} name=\n",
        f"{A} up\n",
        f"{A}\nx\n",
    ],
)
def test_a_list_that_is_broken_or_empty_is_refused_as_a_whole(text: str) -> None:
    with pytest.raises(SourceError):
        found_in_text(text)


@given(st.text(' \n#[]{}:10ax=weight,"', max_size=40))
def test_any_text_is_a_list_or_refused(text: str) -> None:
    with contextlib.suppress(SourceError):
        assert found_in_text(text).targets


@async_test
async def test_what_the_command_line_names_stays() -> None:
    backends = Backends()
    await follow(
        FixedSource([target_of(A), target_of(B)]), into(backends), VirtualClock()
    )  # and ends
    assert [one.target.name for one in backends.all()] == [A, B]


@async_test
async def test_a_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "backends"
    path.write_text(A)
    source = FileSource(path)
    assert names(await source.read()) == [A]
    assert await source.read() is None
    path.write_text(f"{A}\n{B}\n")
    assert names(await source.read()) == [A, B]
    other = tmp_path / "other"
    other.write_text(f"{B}\n{B[:-1]}1\n")
    other.replace(path)
    assert names(await source.read()) == [B, B[:-1] + "1"]
    path.touch()
    assert await source.read() is None


@async_test
async def test_a_file_that_is_bad_or_gone_keeps_the_old_list_and_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "backends"
    path.write_text(A)
    clock, taken = VirtualClock(), []
    caplog.set_level(logging.ERROR)
    following = asyncio.create_task(follow(FileSource(path), taken.append, clock))

    async def until(condition: Callable[[], bool]) -> None:
        while not condition():  # or the test's own time is over
            await asyncio.sleep(0.002)  # it is read in a thread
            await clock.advance(0.5)

    def put(text: str) -> None:
        other = tmp_path / "other"
        other.write_text(text)
        other.replace(path)

    await until(lambda: len(taken) == 1)
    put("nonsense")
    await until(lambda: len(caplog.records) == 1)
    for _ in range(5):
        await asyncio.sleep(0.002)
        await clock.advance(0.5)
    put(f"{A}\n{B}")
    await until(lambda: len(taken) == 2)
    assert len(caplog.records) == 1
    path.unlink()
    await until(lambda: len(caplog.records) == 2)
    put(B)
    await until(lambda: len(taken) == 3)
    assert [names(found) for found in taken] == [[A], [A, B], [B]]
    following.cancel()


@async_test
async def test_every_address_of_a_name_is_a_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = ["10.0.0.2", "10.0.0.1", "2001:db8::1", "10.0.0.1"]

    async def resolve(_host: str, port: int, **_: object) -> list[object]:
        if not answers:
            raise socket.gaierror("no such name")
        return [(0, 0, 0, "", (host, port)) for host in answers]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve, raising=False)
    source = DnsSource("shop.internal:8000")
    found = await source.read()
    assert found is not None
    assert [(one.host, one.port) for one in found.targets] == [
        ("10.0.0.1", 8000),
        ("10.0.0.2", 8000),
        ("2001:db8::1", 8000),
    ]
    answers.clear()
    with pytest.raises(SourceError, match="not resolved"):
        await source.read()


@async_test
async def test_a_name_is_asked_for_again() -> None:
    source = DnsSource("localhost:8000")
    found = await source.read()
    assert found is not None
    assert {one.host for one in found.targets} <= {"127.0.0.1", "::1"}
    assert source.every_s is not None


def test_only_what_the_source_let_drain_it_lets_serve_again() -> None:
    backends = Backends()
    take = into(backends)
    targets = (target_of(A), target_of(B))
    take(Found(targets, frozenset({A})))
    backends.drain(B)  # somebody else did
    assert [one.state for one in backends.all()] == ["draining", "draining"]
    take(Found(targets))
    assert [one.state for one in backends.all()] == ["up", "draining"]
