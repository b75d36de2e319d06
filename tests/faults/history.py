"""What clients asked and what they were told, and whether one list could have said all of it.

Checked of each list: every acknowledged entry is there, every entry at most once, none that was
refused or never sent; and the whole history, reads included, is linearizable.
"""

import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from perdure.testing.linearizability import AppendList, Operation, check, explain


@dataclass
class Checked:
    """What a check has found, in figures."""

    acknowledged: int
    reads: int
    unknown: int
    lists: int

    def __str__(self) -> str:
        return (
            f"{self.acknowledged:,} acknowledged appends there once, {self.unknown} without an "
            f"answer at most once, {self.lists} lists with {self.reads:,} reads linearizable"
        )


@dataclass
class History:
    """Operations by list. Any thread may add."""

    operations: dict[str, list[Operation]] = field(default_factory=lambda: defaultdict(list))
    refused: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    errors: Counter[str] = field(default_factory=Counter)
    """By what kind of call saw them, and which they were; such as `keyed 503 overloaded`."""
    readers: dict[int, str] = field(default_factory=dict)
    """Which process gave the answer to a read, by the time at which it was called."""
    _open: set[int] = field(default_factory=set)
    _last_ns: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def now_ns(self) -> int:
        """Monotonic time; never the same twice."""
        with self._lock:
            self._last_ns = max(self._last_ns + 1, time.monotonic_ns())
            return self._last_ns

    def calls(self, client: str, key: str, kind: str, argument: Any) -> Operation:
        """A call is about to be sent."""
        operation = Operation(client, kind, argument, self.now_ns())
        self.operations[key].append(operation)
        self._open.add(operation.called_at)
        return operation

    def ends(self, operation: Operation, result: Any) -> None:
        """Its answer came."""
        operation.result = result
        operation.returned_at = self.now_ns()
        self._open.discard(operation.called_at)

    def gives_up(self, operation: Operation) -> None:
        """Nobody will know what became of it."""
        self._open.discard(operation.called_at)

    def refuses(self, key: str, operation: Operation) -> None:
        """It was told to have had no effect."""
        self.operations[key].remove(operation)
        self._open.discard(operation.called_at)
        if operation.kind == "append":
            self.refused[key].add(operation.argument)

    def waits_since_before(self, at_ns: int) -> bool:
        """Whether a call that was made before then has no end yet."""
        return any(called_at < at_ns for called_at in list(self._open))

    def has_waited(self, wait_s: float) -> bool:
        """Whether a call has waited for so long, and still does."""
        return self.waits_since_before(time.monotonic_ns() - int(wait_s * 1e9))

    def answered(self) -> list[Operation]:
        """All that got an answer."""
        return [
            operation
            for operations in list(self.operations.values())
            for operation in list(operations)
            if operation.returned_at is not None
        ]

    def slowest_s(self, since_ns: int) -> float:
        """The longest wait for an answer since then."""
        waits = [
            operation.returned_at - max(operation.called_at, since_ns)
            for operation in self.answered()
            if operation.returned_at is not None and operation.returned_at > since_ns
        ]
        return max(waits, default=0) / 1e9

    def check(self, states: dict[str, list[str]]) -> Checked:
        """Compare with what is there in the end; raises AssertionError."""
        found = Checked(0, 0, 0, 0)
        for key, operations in self.operations.items():
            self._check_list(key, operations, states[key], found)
        return found

    def _check_list(
        self, key: str, operations: list[Operation], entries: list[str], found: Checked
    ) -> None:
        appends = [one for one in operations if one.kind == "append"]
        acknowledged = {one.argument for one in appends if one.returned_at is not None}
        unknown = {one.argument for one in appends if one.returned_at is None}
        twice = [entry for entry, times in Counter(entries).items() if times > 1]
        assert not twice, f"{key}: booked more than once: {twice[:5]}"
        lost = acknowledged - set(entries)
        assert not lost, f"{key}: acknowledged and lost: {sorted(lost)[:5]}"
        strange = set(entries) - acknowledged - unknown
        assert not strange, f"{key}: refused, or never sent, and there: {sorted(strange)[:5]}"
        end = Operation("the end", "read", None, self.now_ns(), self.now_ns(), entries)
        history = [one for one in operations if one.kind == "append" or one.returned_at is not None]
        history = [one for one in history if one.argument not in unknown or one.argument in entries]
        verdict = check([*history, end], AppendList())
        assert verdict == "ok", f"{key}: {verdict}\n{explain([*history, end], AppendList())[:3000]}"
        found.acknowledged += len(acknowledged)
        found.unknown += len(unknown)
        found.reads += sum(one.kind == "read" for one in history)
        found.lists += 1
