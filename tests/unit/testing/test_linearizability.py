"""The linearizability checker: histories that are known to be good, and bad ones of every kind."""

import random

import pytest

from perdure.testing.linearizability import (
    AppendList,
    Counter,
    Model,
    Operation,
    Register,
    check,
    explain,
)

FOR_EVER = None


def _of(*rows: tuple[str, object, int, int | None, object]) -> list[Operation]:
    """A history from rows of kind, argument, called at, returned at, result."""
    return [
        Operation(f"client {number}", kind, argument, called_at, returned_at, result)
        for number, (kind, argument, called_at, returned_at, result) in enumerate(rows)
    ]


GOOD: dict[str, tuple[Model, list[Operation]]] = {
    "nothing": (Register(), []),
    "one after another": (
        Register(),
        _of(("write", 1, 1, 2, None), ("read", None, 3, 4, 1), ("cas", (1, 2), 5, 6, True)),
    ),
    "a read at the same time sees the old value": (
        Register(),
        _of(("write", 1, 1, 4, None), ("read", None, 2, 3, 0), ("read", None, 5, 6, 1)),
    ),
    "a read at the same time sees the new value": (
        Register(),
        _of(("write", 1, 1, 4, None), ("read", None, 2, 3, 1)),
    ),
    "an unknown write took effect late": (
        Register(),
        _of(
            ("write", 1, 1, FOR_EVER, None),
            ("read", None, 2, 3, 0),
            ("write", 2, 4, 5, None),
            ("read", None, 6, 7, 2),
            ("read", None, 8, 9, 1),
        ),
    ),
    "an unknown write never took effect": (
        Register(),
        _of(("write", 1, 1, FOR_EVER, None), ("read", None, 2, 3, 0), ("read", None, 4, 5, 0)),
    ),
    "an unknown compare-and-set took effect": (
        Register(),
        _of(("cas", (0, 5), 1, FOR_EVER, None), ("read", None, 2, 3, 5)),
    ),
    "two additions at once": (
        Counter(),
        _of(("add", 1, 1, 4, 3), ("add", 2, 2, 3, 2), ("read", None, 5, 6, 3)),
    ),
    "appends in the order of their numbers": (
        AppendList(),
        _of(("append", "a", 1, 4, 2), ("append", "b", 2, 3, 1), ("read", None, 5, 6, ["b", "a"])),
    ),
}

BAD: dict[str, tuple[Model, list[Operation]]] = {
    "a stale read": (
        Register(),
        _of(("write", 1, 1, 2, None), ("read", None, 3, 4, 0)),
    ),
    "a read goes back": (
        Register(),
        _of(("write", 1, 1, 9, None), ("read", None, 2, 3, 1), ("read", None, 4, 5, 0)),
    ),
    "a value that nobody wrote": (Register(), _of(("read", None, 1, 2, 7))),
    "a lost update": (
        Counter(),
        _of(("add", 1, 1, 2, 1), ("add", 1, 3, 4, 1)),
    ),
    "two owners answer at once": (
        Register(),
        _of(
            ("write", 1, 1, 2, None),
            ("write", 2, 3, 4, None),
            ("read", None, 5, 6, 1),
            ("read", None, 5, 7, 2),
            ("read", None, 8, 9, 1),
        ),
    ),
    "an addition was applied twice": (
        Counter(),
        _of(("add", 5, 1, 2, 5), ("read", None, 3, 4, 10)),
    ),
    "an unknown addition was applied twice": (
        Counter(),
        _of(("add", 5, 1, FOR_EVER, None), ("read", None, 2, 3, 5), ("read", None, 4, 5, 10)),
    ),
    "an unknown write took effect before it was called": (
        Register(),
        _of(("read", None, 1, 2, 1), ("write", 1, 3, FOR_EVER, None)),
    ),
    "two won the same compare-and-set": (
        Register(),
        _of(("cas", (0, 1), 1, 4, True), ("cas", (0, 2), 2, 3, True)),
    ),
    "an entry is missing from the list": (
        AppendList(),
        _of(("append", "a", 1, 2, 1), ("append", "b", 3, 4, 2), ("read", None, 5, 6, ["b"])),
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_history_is_found_good(name: str) -> None:
    model, history = GOOD[name]
    assert check(history, model) == "ok"


@pytest.mark.parametrize("name", BAD)
def test_a_bad_history_is_found_bad(name: str) -> None:
    model, history = BAD[name]
    assert check(history, model) == "violated"
    assert "none of these can come next" in explain(history, model)


def _random_history(draw: random.Random, *, stale: bool) -> list[Operation]:
    """Forty operations of five clients that overlap on a real register; one of them may lie."""
    value, now, history = 0, 0, []
    free_at = dict.fromkeys("abcde", 0)
    for number in range(1, 41):
        client = draw.choice("abcde")
        now = max(now, free_at[client]) + 1
        called_at, takes_effect = now * 100 + number, now * 100 + 40 + number
        returned_at = takes_effect + draw.randrange(1, 400)
        free_at[client] = returned_at // 100 + 1
        kind = draw.choice(("read", "write"))
        result = value if kind == "read" else None
        value = value if kind == "read" else number
        unknown = kind == "write" and draw.random() < 0.2
        history.append(
            Operation(client, kind, number, called_at, None if unknown else returned_at, result)
        )
    if stale:
        end = 1 + max(one.returned_at or one.called_at for one in history)
        history.append(Operation("a", "read", None, end, end + 1, 10_000))
    return history


@pytest.mark.parametrize("seed", range(30))
def test_what_a_real_register_says_is_good_and_one_lie_is_not(seed: int) -> None:
    assert check(_random_history(random.Random(seed), stale=False), Register()) == "ok"
    assert check(_random_history(random.Random(seed), stale=True), Register()) == "violated"


def test_it_gives_up_when_too_much_is_possible() -> None:
    unknown = [("add", 2**n, 1 + n, FOR_EVER, None) for n in range(20)]
    together = _of(*unknown, ("read", None, 100, 101, -1))
    assert check(together, Counter(), states_max=1_000) == "gave up"
