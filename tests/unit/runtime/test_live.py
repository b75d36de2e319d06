"""Topics, subscriptions and `watch`, without a server."""

import asyncio
import json
from contextlib import aclosing
from typing import Annotated, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure import (
    Actor,
    App,
    DefinitionError,
    Limits,
    NotRunningError,
    OverloadedError,
    ReadOnlyError,
    StoppingError,
    StoreError,
    StoreFullError,
    expose,
    live,
    read,
    relaxed,
    watch,
)
from perdure.actor.methods import actor_type_of
from perdure.base.merge_patch import apply
from perdure.runtime.live import Frame, Subscription
from perdure.store.memory import MemoryStore
from perdure.testing import async_test, running, spin
from perdure.testing.scripted_store import ScriptedStore


class Board(Actor):
    content: dict[str, Any] = {}
    title: Annotated[str, live] = "empty"
    moves: Annotated[int, live] = 0
    hidden: int = 0

    async def put(self, content: dict[str, Any], title: str = "empty") -> None:
        self.content, self.title = content, title
        self.moves += 1

    async def hide(self) -> None:
        self.hidden += 1

    @relaxed(loss_max_s=0.01)
    async def move(self) -> None:
        self.moves += 1

    @expose
    @live
    async def view(self, only: str = "") -> dict[str, Any]:
        return {name: value for name, value in self.content.items() if name.startswith(only)}

    @live
    async def slow_view(self) -> int:
        await asyncio.sleep(0)
        return self.moves

    @live
    async def bad_view(self) -> int:
        if self.moves > 1:
            raise ValueError("too many moves")
        return self.moves

    @live
    async def writing_view(self) -> int:
        self.moves += 1
        return self.moves

    @read
    async def plain(self) -> int:
        return self.moves


class Ear:
    """A listener that takes everything at once, or nothing while it is `deaf`."""

    def __init__(self, subscription: Subscription, held: Any = None) -> None:
        self.subscription = subscription
        self.frames: list[Frame] = []
        self.value = held
        self.error: BaseException | None = None
        self.deaf = False
        subscription.listener = self
        subscription.tell()

    def news(self) -> None:
        if not self.deaf:
            self.take()

    def take(self) -> None:
        for frame in self.subscription.take():
            self.frames.append(frame)
            data = json.loads(frame.body)
            self.value = apply(self.value, data) if frame.event == "patch" else data

    def ended(self, error: BaseException) -> None:
        self.error = error

    @property
    def events(self) -> list[str]:
        return [frame.event for frame in self.frames]


def subscribe(app: App, name: str = "view", token: str | None = None, **arguments: Any) -> Any:
    actor_type = actor_type_of(Board)
    method = actor_type.live_fields if name == "" else actor_type.methods[name]
    assert method is not None
    assert app._node is not None
    wanted = method.arguments_from_python((), arguments)
    return app._node.live.subscribe(method, "a", wanted, token)


@async_test
async def test_a_watcher_sees_every_change_and_only_changes() -> None:
    async with running(Board) as app:
        ear = Ear(subscribe(app))
        await spin()
        assert ear.value == {}
        await Board.at("a").put({"tea": 1})
        await spin()
        await Board.at("a").hide()
        await Board.at("b").put({"tea": 7})
        await spin()
        await Board.at("a").put({"tea": 1, "mug": [1, 2, 3, 4]})
        await spin()
        assert ear.value == {"tea": 1, "mug": [1, 2, 3, 4]}
        assert ear.events == ["snapshot", "snapshot", "patch"]


@async_test
async def test_arguments_make_views_of_their_own() -> None:
    async with running(Board) as app:
        teas, mugs = Ear(subscribe(app, only="t")), Ear(subscribe(app, only="m"))
        again = Ear(subscribe(app, only="t"))
        await Board.at("a").put({"tea": 1, "mug": 2})
        await spin()
        assert teas.value == again.value == {"tea": 1}
        assert mugs.value == {"mug": 2}
        assert teas.frames[-1] is again.frames[-1]


@async_test
async def test_watch_gives_results_as_python_values_and_live_fields_as_attributes() -> None:
    async with running(Board):
        async with aclosing(watch(Board.at("a").view, only="t")) as views:  # type: ignore[type-var]
            assert await anext(views) == {}
            await Board.at("a").put({"tea": 1, "mug": 2}, "shop")
            assert await anext(views) == {"tea": 1}
        async for fields in watch(Board.at("a")):
            assert (fields.title, fields.moves) == ("shop", 1)
            assert not hasattr(fields, "hidden")
            break


@async_test
async def test_a_method_that_waits_can_be_live() -> None:
    async with running(Board):
        values = watch(Board.at("a").slow_view)
        assert await anext(values) == 0
        await Board.at("a").put({})
        assert await anext(values) == 1


@async_test
async def test_what_is_not_live_cannot_be_watched() -> None:
    async with running(Board):
        for what in (Board.at("a").plain, print, "cart"):
            with pytest.raises(DefinitionError):
                watch(what)  # type: ignore[arg-type]
    with pytest.raises(NotRunningError):
        watch(Board.at("a"))


def test_a_method_called_live_has_no_room_beside_live_fields() -> None:
    class Both(Actor):
        value: Annotated[int, live] = 0

        @expose
        async def live(self) -> int:
            return self.value

    with pytest.raises(DefinitionError, match="live fields"):
        App(Both, store="memory:")


@async_test
async def test_nothing_is_seen_before_its_commit_and_nothing_of_a_failed_one() -> None:
    store = ScriptedStore()
    async with running(Board, store=store) as app:
        ear = Ear(subscribe(app))
        await spin()
        store.hold()
        losing = asyncio.create_task(Board.at("a").put({"tea": 1}))
        await store.next_commit()
        await spin()
        late = Ear(subscribe(app, only="t"))
        await spin()
        assert ear.value == {}
        assert late.frames == []  # its run waits at the gate
        store.fail(StoreFullError("the disk is full"))
        store.open_up()
        with pytest.raises(StoreFullError):
            await losing
        while not late.frames:
            await asyncio.sleep(0.01)
        assert ear.events == ["snapshot"]
        assert ear.value == late.value == {}
        await Board.at("a").put({"tea": 2})
        await spin()
        assert ear.value == late.value == {"tea": 2}
        assert ear.error is None


@async_test
async def test_commits_that_come_while_news_are_given_out_share_a_frame() -> None:
    store = ScriptedStore()
    async with running(Board, store=store) as app:
        ears = [Ear(subscribe(app, "")) for _ in range(300)]
        await spin()
        puts = [asyncio.create_task(Board.at("a").put({"n": n})) for n in range(20)]
        await asyncio.gather(*puts)
        for n in range(20):
            await Board.at("a").put({"n": n})
        await spin(200)
        assert {ear.value["moves"] for ear in ears} == {40}
        assert len(store.batches) > 20
        assert all(len(ear.frames) < len(store.batches) for ear in ears)
        assert all(ear.events[1:] == ["patch"] * (len(ear.frames) - 1) for ear in ears)


@async_test
async def test_the_event_loop_is_not_held_while_many_are_told() -> None:
    async with running(Board) as app:
        ears = [Ear(subscribe(app, "")) for _ in range(1000)]
        await spin()
        await Board.at("a").put({})
        passes = 0
        while not all(ear.value["moves"] for ear in ears):
            told = sum(ear.value["moves"] for ear in ears)
            await asyncio.sleep(0)
            assert sum(ear.value["moves"] for ear in ears) - told <= 64
            passes += 1
        assert passes >= 1000 // 64


@async_test
async def test_who_writes_and_then_watches_sees_what_they_wrote() -> None:
    async with running(Board) as app:
        keeper = Ear(subscribe(app, ""))
        for n in range(1, 30):
            await Board.at("a").put({})
            late = Ear(subscribe(app, ""))
            await spin(n % 5)
            while not late.frames:
                await asyncio.sleep(0)
            assert late.value["moves"] == n
            late.subscription.close()
        assert keeper.error is None


@async_test
async def test_a_slow_subscriber_gets_the_newest_snapshot_and_no_queue() -> None:
    async with running(Board) as app:
        slow, fast = Ear(subscribe(app)), Ear(subscribe(app))
        await spin()
        slow.deaf = True
        for n in range(5):
            await Board.at("a").put({"n": n, "constant": "x" * 50})
            await spin()
        assert slow.value == {}
        slow.take()
        assert slow.events == ["snapshot", "snapshot"]
        assert slow.value == fast.value == {"n": 4, "constant": "x" * 50}
        slow.deaf = False
        await Board.at("a").put({"n": 5, "constant": "x" * 50})
        await spin()
        assert slow.events[2:] == ["patch"]


@async_test
async def test_an_actor_that_sleeps_is_still_watched() -> None:
    async with running(Board) as app:
        ear = Ear(subscribe(app, ""))
        await spin()
        catalog = app._node._catalog  # type: ignore[union-attr]
        for _ in range(3):
            catalog.put_idle_to_sleep()
            catalog.put_idle_to_sleep()
            assert len(catalog) == 0
            await Board.at("a").put({})
            await spin()
        assert ear.value["moves"] == 3
        ear.subscription.close()
        assert not catalog._watchers
        assert app.statistics()["live_subscribers"] == 0
        await Board.at("a").put({})
        await spin()
        assert ear.value["moves"] == 3


@async_test
async def test_an_error_ends_the_view_for_all_who_watch_it() -> None:
    async with running(Board) as app:
        ears = [Ear(subscribe(app, "bad_view")) for _ in range(3)]
        await Board.at("a").put({})
        await spin()
        assert {ear.value for ear in ears} == {1}
        await Board.at("a").put({})
        await spin()
        assert all(isinstance(ear.error, ValueError) for ear in ears)
        with pytest.raises(ValueError, match="too many moves"):
            await anext(watch(Board.at("a").bad_view))
        with pytest.raises(ReadOnlyError):
            await anext(watch(Board.at("a").writing_view))


@async_test
async def test_operating_trouble_is_given_some_time_and_then_told() -> None:
    store = ScriptedStore()
    async with running(Board, store=store):
        store.load_error = StoreError("away for a moment")
        assert await anext(watch(Board.at("a").view)) == {}

    class Broken(MemoryStore):
        async def load(self, _actor_type: str, _key: str) -> Any:
            raise StoreError("away for good")

    async with running(Board, store=Broken()):
        with pytest.raises(StoreError, match="for good"):
            await anext(watch(Board.at("a").view))


@async_test
async def test_relaxed_changes_are_seen_once_they_are_committed() -> None:
    async with running(Board) as app:
        ear = Ear(subscribe(app, ""))
        await spin()
        await Board.at("a").move()
        await spin()
        assert ear.value["moves"] == 0
        while ear.value["moves"] == 0:
            await asyncio.sleep(0.005)
        assert ear.value["moves"] == 1


@async_test
async def test_more_views_or_watchers_than_the_limits_are_refused_at_once() -> None:
    limits = Limits(live_topics_max=2, live_subscribers_max=3)
    async with running(Board, limits=limits) as app:
        first, second = Ear(subscribe(app, only="a")), Ear(subscribe(app, only="b"))
        with pytest.raises(OverloadedError):
            subscribe(app, only="c")
        third = Ear(subscribe(app, only="a"))
        with pytest.raises(OverloadedError):
            subscribe(app, only="a")
        second.subscription.close()
        second.subscription.close()
        fourth = Ear(subscribe(app, only="c"))
        await spin()
        assert first.value == third.value == fourth.value == {}


@async_test
async def test_a_stop_ends_what_is_watched() -> None:
    async with running(Board) as app:
        ear = Ear(subscribe(app))
        values = watch(Board.at("a").view)
        await anext(values)
        live_views = app._node.live  # type: ignore[union-attr]
    with pytest.raises(StoppingError):
        await anext(values)
    assert isinstance(ear.error, StoppingError)
    with pytest.raises(StoppingError):
        live_views.subscribe(actor_type_of(Board).methods["plain"], "a", None)  # type: ignore[arg-type]


CONTENTS = st.dictionaries(
    st.sampled_from("abcd"),
    st.none() | st.integers(0, 3) | st.text("xy", max_size=40) | st.lists(st.integers(0, 1)),
)
STEPS = st.lists(st.one_of(CONTENTS, st.sampled_from(["leave", "pass"])), max_size=25)


@given(STEPS, st.booleans())
@settings(max_examples=150, deadline=None)
def test_whoever_comes_back_with_a_token_misses_nothing_and_gets_nothing_twice(
    steps: list[Any], kept: bool
) -> None:
    @async_test
    async def play() -> None:
        async with running(Board) as app:
            keeper = Ear(subscribe(app))
            if not kept:
                keeper.subscription.close()
            ear, truth, token = Ear(subscribe(app)), {}, None
            for step in steps:
                if step == "leave":
                    ear.subscription.close()
                    token = ear.frames[-1].token if ear.frames else token
                    ear = Ear(subscribe(app, token=token), ear.value)
                elif step == "pass":
                    await spin()
                    assert ear.value == truth
                else:
                    truth = step
                    await Board.at("a").put(step)
            await spin()
            assert ear.value == truth

    play()


@async_test
async def test_a_token_in_the_ring_gets_just_the_patches_after_it() -> None:
    async with running(Board) as app:
        keeper = Ear(subscribe(app))
        await spin()
        for n in range(6):
            await Board.at("a").put({"n": n, "constant": "x" * 50})
            await spin()
        tokens = [frame.token for frame in keeper.frames]
        assert keeper.events == ["snapshot"] * 2 + ["patch"] * 5
        for index in range(1, 7):
            back = Ear(subscribe(app, token=tokens[index]))
            assert back.frames == keeper.frames[index + 1 :]
        for unknown in (tokens[0], "", "0" * 32):
            assert Ear(subscribe(app, token=unknown)).events == ["snapshot"]


@async_test
async def test_the_ring_holds_no_more_than_a_snapshot_is_worth() -> None:
    async with running(Board) as app:
        keeper = Ear(subscribe(app))
        for n in range(300):
            await Board.at("a").put({"n": n, "text": f"{n:0100}", "constant": "x" * 200})
            await spin(5)
        topic = keeper.subscription._topic
        assert 10 < len(topic._ring) < 50
        assert topic._ring_bytes == sum(len(frame.body) for frame in topic._ring)
        oldest = keeper.frames[-len(topic._ring) - 1]
        assert topic._ring_base == oldest.token
        back = Ear(subscribe(app, token=oldest.token))
        assert back.frames == list(topic._ring)
        assert Ear(subscribe(app, token=keeper.frames[-40].token)).events == ["snapshot"]


@async_test
async def test_after_a_restart_the_token_says_whether_anything_changed() -> None:
    store = MemoryStore()
    async with running(Board, store=store) as app:
        ear = Ear(subscribe(app))
        await Board.at("a").put({"tea": 1})
        await spin()
        token = ear.frames[-1].token
    async with running(Board, store=store) as app:
        same = Ear(subscribe(app, token=token))
        await spin()
        assert same.frames == []
        await Board.at("a").put({"tea": 2, "mug": "x" * 20})
        await spin()
        assert same.events == ["snapshot"] or same.frames[0].event == "patch"
    async with running(Board, store=store) as app:
        other = Ear(subscribe(app, token=token))
        await spin()
        assert other.events == ["snapshot"]
        assert other.value == {"tea": 2, "mug": "x" * 20}
