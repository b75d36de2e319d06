"""Relaxed turns share their flush."""

import asyncio

import pytest

from perdure import Actor, App, relaxed
from perdure.actor.activation import Activation
from perdure.runtime.node import Node


class Counter(Actor):
    n: int = 0

    @relaxed(loss_max_s=60.0)
    async def tick(self) -> int:
        self.n += 1
        return self.n

    @relaxed(loss_max_s=5.0)
    async def tick_soon(self) -> int:
        self.n += 1
        return self.n


def test_many_relaxed_turns_ask_for_one_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def flush_later(_node: Node, _activation: Activation, loss_max_s: float) -> None:
        asked.append(loss_max_s)

    monkeypatch.setattr(Node, "flush_later", flush_later)

    async def run() -> None:
        async with App(Counter, store="memory:"):
            for _ in range(100):
                await Counter.at("a").tick()
            assert asked == [60.0]
            for _ in range(100):
                await Counter.at("a").tick_soon()
            assert asked == [60.0, 5.0]  # what may lose less asks for an earlier one
            assert await Counter.at("a").tick() == 201
            assert asked == [60.0, 5.0]

    asyncio.run(run())


def test_a_flush_that_came_a_tick_early_is_not_taken_for_one_to_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Activation] = []

    def flush_later(_node: Node, activation: Activation, _loss_max_s: float) -> None:
        asked.append(activation)

    monkeypatch.setattr(Node, "flush_later", flush_later)

    async def run() -> None:
        async with App(Counter, store="memory:"):
            await Counter.at("a").tick()
            asked[0].flush()  # event loops may fire a timer up to a millisecond early
            await Counter.at("a").tick()
            assert len(asked) == 2

    asyncio.run(run())
