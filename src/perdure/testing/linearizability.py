"""Checks whether what callers saw of one object can be explained by calls one at a time.

A history is *linearizable* if each operation seems to happen at one moment between its call and its
answer, in an order in which every answer is right. The search is that of Wing and Gong with the
memory of Lowe, as in Porcupine: take some operation that may come next, see whether its answer fits
the state, and go on; a set of operations that was tried with a state is not tried again.

An operation whose caller never heard of it may have happened at any time after its call, or never.
So it may come next whenever that helps, and need not come at all.
"""

from collections.abc import Hashable, Sequence
from typing import Any, Literal, Protocol

import msgspec

Verdict = Literal["ok", "violated", "gave up"]

_STATES_MAX = 200_000


class Operation(msgspec.Struct):
    """One call and what came of it. Times are of any clock that never shows the same twice."""

    client: str
    kind: str
    argument: Any
    called_at: int
    returned_at: int | None = None  # None: nobody knows what became of it
    result: Any = None

    def __str__(self) -> str:
        told = "?" if self.returned_at is None else repr(self.result)
        ended = "" if self.returned_at is None else self.returned_at
        return f"[{self.called_at}–{ended}] {self.client}: {self.kind}({self.argument!r}) → {told}"


class Model(Protocol):
    """What the object should do. A state is never changed, but made anew."""

    initial: Hashable

    def step(self, state: Hashable, kind: str, argument: Any) -> tuple[Hashable, Any]:
        """The state after the operation, and the right answer."""
        ...


class Register:
    """`read()`, `write(value)` → None, `cas((old, new))` → whether it was `old`."""

    def __init__(self, initial: Hashable = 0) -> None:
        self.initial = initial

    def step(self, state: Hashable, kind: str, argument: Any) -> tuple[Hashable, Any]:
        if kind == "read":
            return state, state
        if kind == "write":
            return argument, None
        old, new = argument
        return (new, True) if state == old else (state, False)


class Counter:
    """`read()`, `add(amount)` → the new total."""

    initial = 0

    def step(self, state: Any, kind: str, argument: Any) -> tuple[Hashable, Any]:
        total = state + (argument if kind == "add" else 0)
        return total, total


class AppendList:
    """`read()` → all, in order; `append(value)` → how many there are."""

    initial = ()

    def step(self, state: Any, kind: str, argument: Any) -> tuple[Hashable, Any]:
        if kind == "read":
            return state, list(state)
        return (*state, argument), len(state) + 1


def check(history: Sequence[Operation], model: Model, *, states_max: int = _STATES_MAX) -> Verdict:
    """Whether a history of one object is linearizable.

    Operations that surely had no effect are to be left out by the caller. `gave up`: more than
    `states_max` ways were tried.
    """
    operations = sorted(history, key=lambda one: one.called_at)
    search = _Search(operations, model, states_max)
    return search.run()


def explain(history: Sequence[Operation], model: Model, *, states_max: int = _STATES_MAX) -> str:
    """For people: how far a history could be explained, and what does not fit then."""
    search = _Search(sorted(history, key=lambda one: one.called_at), model, states_max)
    search.run()
    done, state = search.furthest
    left = [place for place in search.candidates(done) if not done >> place & 1]
    taken = [one for place, one in enumerate(search.operations) if done >> place & 1]
    lines = [f"{one}" for one in taken[-5:]]
    lines.append(f"then the state is {state!r}, and none of these can come next:")
    return "\n".join([*lines, *(f"{search.operations[place]}" for place in left)])


class _Search:
    def __init__(self, operations: Sequence[Operation], model: Model, states_max: int) -> None:
        self.operations = operations
        self._step = model.step
        self._initial = model.initial
        self._states_left = states_max
        self._known = [one.returned_at is not None for one in operations]
        self._wanted = sum(1 << place for place, known in enumerate(self._known) if known)
        self._seen: set[tuple[int, Hashable]] = set()
        self._reached = 0
        self.furthest: tuple[int, Hashable] = (0, model.initial)

    def run(self) -> Verdict:
        start = (0, self._initial)
        stack = [self._next(*start)]
        if self._wanted == 0:
            return "ok"
        while stack:
            if self._states_left <= 0:
                return "gave up"
            following = next(stack[-1], None)
            if following is None:
                stack.pop()
                continue
            done, state = following
            if done & self._wanted == self._wanted:
                return "ok"
            if following not in self._seen:
                self._seen.add(following)
                self._states_left -= 1
                if (done & self._wanted).bit_count() > self._reached:
                    self._reached = (done & self._wanted).bit_count()
                    self.furthest = following
                stack.append(self._next(done, state))
        return "violated"

    def _next(self, done: int, state: Hashable) -> Any:
        """Each set of operations that can be done with one more, with the state that leads to."""
        unknown: list[int] = []
        for place in self.candidates(done):
            if not self._known[place]:
                unknown.append(place)  # later: most of them are not needed
                continue
            operation = self.operations[place]
            after, answer = self._step(state, operation.kind, operation.argument)
            if answer == operation.result:
                yield done | 1 << place, after
        for place in unknown:
            operation = self.operations[place]
            after, _ = self._step(state, operation.kind, operation.argument)
            if after != state:  # else it is as if it never was
                yield done | 1 << place, after

    def candidates(self, done: int) -> list[int]:
        """Operations that were called before any other that is left had returned."""
        found: list[int] = []
        earliest: int | None = None
        for place in range(_first_missing(done), len(self.operations)):
            operation = self.operations[place]
            if earliest is not None and operation.called_at > earliest:
                break
            if done >> place & 1:
                continue
            found.append(place)
            returned_at = operation.returned_at
            if returned_at is not None and (earliest is None or returned_at < earliest):
                earliest = returned_at
        return [
            place
            for place in found
            if earliest is None or self.operations[place].called_at < earliest
        ]


def _first_missing(done: int) -> int:
    """The place of the lowest bit that is not set."""
    return (~done & (done + 1)).bit_length() - 1
