"""Random turns against a Map and a Log, compared with a dict and a list.

Turns read and write at random, fail in the middle, save, run while earlier ones are not durable,
interleave; between them the actor goes to sleep, the process ends, or a commit fails. Then what is
there must be what was acknowledged, or more, but never half a turn.
"""

import asyncio
import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perdure import Actor, App, DomainError, Log, Map, StoreError, interleave, read
from perdure.actor import collections
from perdure.actor.cursors import encode_cursor, fingerprint_of
from perdure.actor.entries import entry_of_int
from perdure.store.api import Store
from perdure.store.memory import MemoryStore
from perdure.store.sqlite import SqliteStore
from perdure.testing import spin
from perdure.testing.scripted_store import ScriptedStore

Step = tuple[Any, ...]


class Boom(DomainError):
    pass


class Subject(Actor):
    """Does what a script says, and tells what it saw."""

    map: Map[int, str] = Map()
    log: Log[str] = Log()

    async def run(self, script: list[Any]) -> list[Any]:
        return [await self._do(*step) for step in script]

    @interleave
    async def run_shared(self, script: list[Any]) -> list[Any]:
        return [await self._do(*step) for step in script]

    @read
    async def everything(self) -> list[Any]:
        return [
            [list(item) async for item in self.map.items()],
            [list(item) async for item in self.log.range()],
        ]

    async def _do(self, name: str, *arguments: Any) -> Any:
        return await getattr(self, f"_{name}")(*arguments)

    async def _put(self, key: int, value: str) -> None:
        self.map[key] = value

    async def _delete(self, key: int) -> None:
        del self.map[key]

    async def _append(self, value: str) -> int:
        return self.log.append(value)

    async def _drop_before(self, index: int, at_most: int) -> int:
        return self.log.drop_before(index, at_most=at_most)

    async def _clear(self, at_most: int) -> int:
        return await self.map.clear(at_most=at_most)

    async def _save(self) -> None:
        await self.save()

    async def _pause(self) -> None:
        await asyncio.sleep(0)

    async def _fail(self) -> None:
        raise Boom

    async def _get(self, key: int) -> Any:
        return await self.map.get(key)

    async def _count(self) -> int:
        return await self.map.count()

    async def _page(
        self, start: int | None, end: int | None, after: int | None, limit: int, descending: bool
    ) -> list[Any]:
        span = (
            "" if start is None else entry_of_int(start),
            None if end is None else entry_of_int(end),
        )
        fingerprint = fingerprint_of("subject", self.key, "map", span, descending)
        cursor = None if after is None else encode_cursor(fingerprint, ((), entry_of_int(after)))
        page = await self.map.page(
            start=start, end=end, cursor=cursor, limit=limit, descending=descending
        )
        return page.items

    async def _items(self, start: int | None, end: int | None, descending: bool) -> list[Any]:
        items = self.map.items(start=start, end=end, descending=descending)
        return [item async for item in items]

    async def _line(self, index: int) -> Any:
        return await self.log.get(index)

    async def _last(self, limit: int) -> list[str]:
        return await self.log.last(limit)

    async def _range(self, start: int, end: int | None, descending: bool) -> list[Any]:
        return [pair async for pair in self.log.range(start, end, descending=descending)]

    async def _size(self) -> list[int]:
        return [len(self.log), self.log.first, self.log.next]


class Model:
    """The same with a dict and a list."""

    def __init__(self) -> None:
        self.map: dict[int, str] = {}
        self.lines: list[str] = []
        self.first = 0

    def everything(self) -> list[Any]:
        lines = [[at, line] for at, line in enumerate(self.lines)][self.first :]
        return [[list(item) for item in sorted(self.map.items())], lines]

    def do(self, name: str, *arguments: Any) -> Any:
        return getattr(self, name)(*arguments)

    def put(self, key: int, value: str) -> None:
        self.map[key] = value

    def delete(self, key: int) -> None:
        self.map.pop(key, None)

    def append(self, value: str) -> int:
        self.lines.append(value)
        return len(self.lines) - 1

    def drop_before(self, index: int, at_most: int) -> int:
        before = self.first
        self.first = max(before, min(index, before + at_most, len(self.lines)))
        return self.first - before

    def clear(self, at_most: int) -> int:
        going = sorted(self.map)[:at_most]
        for key in going:
            del self.map[key]
        return len(going)

    def fail(self) -> None:
        raise Boom

    def get(self, key: int) -> Any:
        return self.map.get(key)

    def count(self) -> int:
        return len(self.map)

    def items(self, start: int | None, end: int | None, descending: bool) -> list[Any]:
        keys = [
            key
            for key in sorted(self.map, reverse=descending)
            if (start is None or key >= start) and (end is None or key < end)
        ]
        return [[key, self.map[key]] for key in keys]

    def page(
        self, start: int | None, end: int | None, after: int | None, limit: int, descending: bool
    ) -> list[Any]:
        items = self.items(start, end, descending)
        if after is not None:
            items = [at for at in items if (at[0] < after if descending else at[0] > after)]
        return items[:limit]

    def line(self, index: int) -> Any:
        return self.lines[index] if self.first <= index < len(self.lines) else None

    def last(self, limit: int) -> list[str]:
        return self.lines[self.first :][-limit:]

    def range(self, start: int, end: int | None, descending: bool) -> list[Any]:
        end = len(self.lines) if end is None else min(end, len(self.lines))
        pairs = [[at, self.lines[at]] for at in range(max(start, self.first), end)]
        return pairs[::-1] if descending else pairs

    def size(self) -> list[int]:
        return [len(self.lines) - self.first, self.first, len(self.lines)]


def turn_of(model: Model, script: list[Step]) -> tuple[list[Any] | None, list[Model]]:
    """What a turn answers, None if it fails, and the models after each of its commits."""
    commits = [model]
    working = copy.deepcopy(model)
    seen: list[Any] = []
    for name, *arguments in script:
        if name in {"save", "pause"}:
            commits.append(copy.deepcopy(working))
            seen.append(None)
        elif name == "fail":
            return None, commits
        else:
            seen.append(working.do(name, *arguments))
    return seen, [*commits, working]


KEYS = st.integers(-3, 8)
BOUNDS = st.none() | KEYS
TEXTS = st.text(max_size=3)
WRITES = st.one_of(
    st.tuples(st.just("put"), KEYS, TEXTS),
    st.tuples(st.just("put"), KEYS, TEXTS),
    st.tuples(st.just("delete"), KEYS),
    st.tuples(st.just("append"), TEXTS),
    st.tuples(st.just("drop_before"), st.integers(-1, 9), st.integers(1, 4)),
    st.tuples(st.just("clear"), st.integers(1, 3)),
)
READS = st.one_of(
    st.tuples(st.just("get"), KEYS),
    st.tuples(st.just("count")),
    st.tuples(st.just("page"), BOUNDS, BOUNDS, BOUNDS, st.integers(1, 4), st.booleans()),
    st.tuples(st.just("items"), BOUNDS, BOUNDS, st.booleans()),
    st.tuples(st.just("line"), st.integers(-1, 9)),
    st.tuples(st.just("last"), st.integers(1, 4)),
    st.tuples(st.just("range"), st.integers(-1, 5), st.none() | st.integers(0, 9), st.booleans()),
    st.tuples(st.just("size")),
)
READ_NAMES = {"get", "count", "page", "items", "line", "last", "range", "size", "clear"}
ENDS = st.one_of(st.just([]), st.just([]), st.just([("fail",)]))
SCRIPTS = st.builds(
    lambda body, end: body + end,
    st.lists(st.one_of(WRITES, READS, st.just(("save",))), min_size=1, max_size=8),
    ENDS,
)
SHARED = st.builds(
    lambda body, end: body + end,
    st.lists(st.one_of(WRITES, WRITES, st.just(("pause",)), READS), min_size=1, max_size=8),
    ENDS,
)
ACTIONS = st.one_of(
    st.tuples(st.just("together"), st.lists(SCRIPTS, min_size=1, max_size=4)),
    st.tuples(st.just("shared"), SHARED),
    st.tuples(st.just("sleep")),
    st.tuples(st.just("restart")),
    st.tuples(
        st.just("broken"),
        st.lists(SCRIPTS, min_size=1, max_size=4),
        st.lists(st.booleans(), max_size=4),
    ),
)


class WaitingStore(ScriptedStore):
    """Its reads suspend, as those of a database on another machine would."""

    reads_never_wait = False

    async def entry(self, *arguments: Any) -> bytes | None:
        await asyncio.sleep(0)
        found = await super().entry(*arguments)
        await asyncio.sleep(0)
        return found

    async def entries(self, *arguments: Any, **named: Any) -> list[tuple[str, bytes]]:
        await asyncio.sleep(0)
        found = await super().entries(*arguments, **named)
        await asyncio.sleep(0)
        return found

    async def count_entries(self, *arguments: Any) -> int:
        await asyncio.sleep(0)
        return await super().count_entries(*arguments)


class Lab:
    """One actor on a store, and the model of what it must hold."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.model = Model()
        self.app = App(Subject, store=store)

    async def start(self) -> None:
        await self.app.__aenter__()

    async def stop(self) -> None:
        await self.app.__aexit__(None, None, None)

    async def check(self) -> None:
        assert await Subject.at("s").everything() == self.model.everything()

    async def restart(self) -> None:
        await self.stop()
        self.app = App(Subject, store=self.store)
        await self.start()

    async def sleep(self) -> None:
        catalog = self.app._node._catalog
        while len(catalog):
            catalog.put_idle_to_sleep()
            await asyncio.sleep(0)

    async def together(self, scripts: list[list[Step]]) -> None:
        """Turns that are sent at once: later ones run before earlier ones are durable."""
        calls = [asyncio.create_task(Subject.at("s").run(script)) for script in scripts]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        for script, answer in zip(scripts, answers, strict=True):
            expected, commits = turn_of(self.model, script)
            self.model = commits[-1]
            assert_same(answer, expected)

    async def shared(self, script: list[Step]) -> None:
        may_wait = {"items", "range", "count"} if self.store.reads_never_wait else READ_NAMES
        if script[-1] == ("fail",) and may_wait & {step[0] for step in script}:
            script = script[:-1]  # a read that waits ends a stretch, which then stays
        if not script:
            return
        answers = await asyncio.gather(Subject.at("s").run_shared(script), return_exceptions=True)
        expected, commits = turn_of(self.model, script)
        self.model = commits[-1]
        assert_same(answers[0], expected)

    async def broken(self, scripts: list[list[Step]], outcomes: list[bool]) -> None:
        """The same, and some commit fails."""
        store = self.store
        if not isinstance(store, ScriptedStore):
            return
        store.hold()
        calls = [asyncio.create_task(Subject.at("s").run(script)) for script in scripts]
        possible = [self.model]
        acknowledged = 0
        expectations = []
        for script in scripts:
            expected, commits = turn_of(possible[-1], script)
            possible += commits
            expectations.append((expected, len(possible) - 1))
        await spin()
        for succeeds in [*outcomes, False]:
            if store.waiting:
                if succeeds:
                    store.release()
                else:
                    store.fail(StoreError("broken"))
                    break
            await spin()
        await spin()
        store.open_up()
        answers = await asyncio.gather(*calls, return_exceptions=True)
        for answer, (expected, position) in zip(answers, expectations, strict=True):
            if not isinstance(answer, StoreError):
                assert_same(answer, expected)
                acknowledged = position
        found = await Subject.at("s").everything()
        self.model = next(one for one in possible[acknowledged:] if one.everything() == found)


def assert_same(answer: Any, expected: list[Any] | None) -> None:
    if expected is None:
        assert isinstance(answer, Boom)
    else:
        assert not isinstance(answer, BaseException), repr(answer)
        assert msgspec.to_builtins(answer) == msgspec.json.decode(msgspec.json.encode(expected))


async def run_history(store: Store, history: list[Step]) -> None:
    lab = Lab(store)
    await lab.start()
    try:
        for name, *arguments in history:
            await getattr(lab, name)(*arguments)
            await lab.check()
        await lab.restart()
        await lab.check()
    finally:
        await lab.stop()


@pytest.mark.parametrize("make_store", [MemoryStore, ScriptedStore, WaitingStore])
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(history=st.lists(ACTIONS, max_size=8))
def test_collections_are_what_a_dict_and_a_list_would_be(
    make_store: Callable[[], Store], history: list[Step]
) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await run_history(make_store(), history)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collections, "_PAGE", 2)  # iterations go over many pages
        asyncio.run(bounded())


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(history=st.lists(ACTIONS, max_size=6))
def test_the_same_on_sqlite(history: list[Step]) -> None:
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(collections, "_PAGE", 2)
        asyncio.run(run_history(SqliteStore(Path(folder)), history))
