"""The checker sees what it is for, and nothing else."""

import pytest
from tests.unit.actor.serializability import Operation, violations


def operation(
    name: str,
    begun: int,
    ended: int,
    *,
    reads: list[tuple[str, int]] | None = None,
    writes: list[tuple[str, int, int]] | None = None,
    committed: bool | None = True,
) -> Operation:
    return Operation(name, begun, ended, committed, reads or [], writes or [])


GOOD = {
    "nothing": [],
    "one after the other": [
        operation("one", 1, 2, writes=[("x", 0, 1)]),
        operation("two", 3, 4, writes=[("x", 1, 2)], reads=[("y", 0)]),
        operation("read", 5, 6, reads=[("x", 2), ("y", 0)]),
    ],
    "at the same time a read may come first": [
        operation("write", 1, 4, writes=[("x", 0, 1)]),
        operation("read", 2, 3, reads=[("x", 0)]),
    ],
    "what failed was not seen": [
        operation("failed", 1, 2, writes=[("x", 0, 1)], committed=False),
        operation("write", 3, 4, writes=[("x", 0, 2)]),
    ],
    "what nobody saw the end of, and another has seen": [
        operation("unknown", 1, 2, writes=[("x", 0, 1), ("y", 0, 2)], committed=None),
        operation("read", 3, 4, reads=[("x", 0)]),
        operation("later", 5, 6, reads=[("x", 1), ("y", 2)]),
        operation("never", 5, 6, writes=[("z", 0, 1)], committed=None),
        operation("z", 7, 8, reads=[("z", 0)]),
    ],
    "it sees its own writes": [
        operation("write", 1, 2, writes=[("x", 0, 1), ("x", 1, 2)], reads=[("x", 1), ("x", 2)]),
        operation("read", 3, 4, reads=[("x", 2)]),
    ],
}

BAD = {
    "lost update": [
        operation("one", 1, 4, writes=[("x", 0, 1)]),
        operation("two", 2, 3, writes=[("x", 0, 2)]),
    ],
    "write skew": [
        operation("one", 1, 4, reads=[("y", 0)], writes=[("x", 0, 1)]),
        operation("two", 2, 3, reads=[("x", 0)], writes=[("y", 0, 2)]),
    ],
    "read skew": [
        operation("write", 1, 4, writes=[("x", 0, 1), ("y", 0, 2)]),
        operation("read", 2, 3, reads=[("x", 0), ("y", 2)]),
    ],
    "dirty read": [
        operation("failed", 1, 4, writes=[("x", 0, 1)], committed=False),
        operation("read", 2, 3, reads=[("x", 1)]),
    ],
    "half of what nobody saw the end of": [
        operation("unknown", 1, 2, writes=[("x", 0, 1), ("y", 0, 2)], committed=None),
        operation("read", 3, 4, reads=[("x", 1), ("y", 0)]),
    ],
    "a read of the middle": [
        operation("write", 1, 4, writes=[("x", 0, 1), ("x", 1, 2)]),
        operation("read", 2, 3, reads=[("x", 1)]),
    ],
    "stale read": [
        operation("write", 1, 2, writes=[("x", 0, 1)]),
        operation("read", 3, 4, reads=[("x", 0)]),
    ],
    "two readers that saw two writes in different orders": [
        operation("x", 1, 8, writes=[("x", 0, 1)]),
        operation("y", 1, 8, writes=[("y", 0, 1)]),
        operation("one", 2, 3, reads=[("x", 1), ("y", 0)]),
        operation("two", 2, 3, reads=[("x", 0), ("y", 1)]),
    ],
    "out of thin air": [operation("read", 1, 2, reads=[("x", 7)])],
    "a change that is not repeatable": [
        operation("read", 1, 4, reads=[("x", 0), ("x", 1)]),
        operation("write", 2, 3, writes=[("x", 0, 1)]),
    ],
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_history_is_let_pass(name: str) -> None:
    assert violations(GOOD[name]) == []


@pytest.mark.parametrize("name", BAD)
def test_a_bad_history_is_told(name: str) -> None:
    assert violations(BAD[name])
