"""Texts that no store can hold are refused at the edge, and the same way on every store."""

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from perdure import Actor, Caller
from perdure.base.errors import BadArgumentsError, InvalidKeyError, UnencodableError
from perdure.base.texts import holds_nul, unstorable
from perdure.testing import async_test, running
from perdure.testing.postgres import fresh_database


class Note(Actor):
    text: str = ""

    async def put(self, text: str) -> str:
        self.text = text
        return text

    async def remind(self, name: str) -> None:
        self.timers.set(name, after=timedelta(hours=1), call="put", text="late")


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "postgresql":
        yield fresh_database()
    else:
        yield {"memory": "memory:", "sqlite": f"sqlite:{tmp_path}"}[request.param]


@async_test
async def test_a_turn_that_leaves_nul_is_refused_and_its_neighbours_are_not(store: str) -> None:
    async with running(Note, store=store):
        texts = ["a", "b\0", "c", "\\u0000 in letters", "d"]
        calls = [Note.at(str(n)).put(text) for n, text in enumerate(texts)]
        ended = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(ended[1], UnencodableError)
        assert [*ended[:1], *ended[2:]] == [*texts[:1], *texts[2:]]
        assert await Note.at("1").put("now without") == "now without"


HOSTILE = ["\0", "a\0b", "\ud800", "a\udfff"]


@pytest.mark.parametrize("text", HOSTILE)
@async_test
async def test_names_that_no_store_can_hold_are_refused(text: str) -> None:
    async with running(Note):
        with pytest.raises(BadArgumentsError):
            Note.at("a", request_id=text)
        with pytest.raises(BadArgumentsError):
            await Note.at("a").remind(text)
        with pytest.raises(InvalidKeyError):
            Note.at(text)
        with pytest.raises(BadArgumentsError):
            Caller(text)


def test_only_nul_and_halves_of_pairs_are_unstorable() -> None:
    assert [unstorable(text) for text in HOSTILE] == [
        *["a NUL character"] * 2,
        *["a lone surrogate"] * 2,
    ]
    assert [unstorable(text) for text in ("", "a", "ä", "😀", "\x01", "\uffff")] == [None] * 6


def test_an_escaped_backslash_before_u0000_is_no_nul() -> None:
    assert [holds_nul(one) for one in (rb'"\u0000"', rb'"\\\u0000"', rb'"a\u0000"')] == [True] * 3
    assert [holds_nul(one) for one in (rb'"\\u0000"', rb'"u0000"', rb'"\\\\u0000"')] == [False] * 3
