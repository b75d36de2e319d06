"""Checks a history of transactions over registers for strict serializability.

Every write replaces the value it has read by one that nobody else writes. So the history itself
tells the order of the versions of each key, and with it all dependencies (as in Elle, by Kingsbury
and Alvaro):

ww  one wrote the version that the other replaced;
wr  one wrote the version that the other read;
rw  one read the version that the other replaced;
rt  one had answered before the other was asked.

The history is strictly serializable exactly if these have no cycle, and nobody has seen a value
that was never committed or that its own writer has replaced.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

INITIAL = 0  # the value of every register before the first write

Version = tuple[str, int]


@dataclass
class Operation:
    """One transaction, or one plain call, and what it has seen and done."""

    name: str
    begun: int  # on a clock that all share
    ended: int = 0
    committed: bool = False
    reads: list[Version] = field(default_factory=list)
    writes: list[tuple[str, int, int]] = field(default_factory=list)  # key, value before, value

    def installed(self) -> dict[str, int]:
        """The last value it wrote to each key."""
        return {key: value for key, _, value in self.writes}

    def seen(self) -> Iterator[Version]:
        """What it has read of others."""
        own = {(key, value) for key, _, value in self.writes}
        for version in [*self.reads, *((key, before) for key, before, _ in self.writes)]:
            if version not in own:
                yield version


def violations(history: list[Operation]) -> list[str]:
    """What is wrong with it; nothing, if it is strictly serializable."""
    committed = [operation for operation in history if operation.committed]
    writer: dict[Version, Operation] = {}
    unseen: set[Version] = set()  # values that only their own writer can have seen
    wrong: list[str] = []
    for operation in history:
        for key, _, value in operation.writes:
            if not operation.committed or operation.installed()[key] != value:
                unseen.add((key, value))
            else:
                writer[key, value] = operation
    replaced: dict[Version, Operation] = {}
    for operation in committed:
        for version in operation.seen():
            if version in unseen:
                wrong.append(f"{operation.name} has seen {version}, which was never committed")
            elif version not in writer and version[1] != INITIAL:
                wrong.append(f"{operation.name} has seen {version}, which nobody wrote")
        for key in operation.installed():
            [before, *_] = [before for at, before, _ in operation.writes if at == key]
            other = replaced.setdefault((key, before), operation)
            if other is not operation:
                wrong.append(f"{operation.name} and {other.name} both replaced {(key, before)}")
    if wrong:
        return wrong
    cycle = _cycle(_dependencies(committed, writer, replaced))
    return [] if cycle is None else ["cycle: " + " → ".join(cycle)]


def _dependencies(
    committed: list[Operation], writer: dict[Version, Operation], replaced: dict[Version, Operation]
) -> dict[str, set[str]]:
    """Who must come before whom, by name."""
    after: dict[str, set[str]] = {operation.name: set() for operation in committed}
    for operation in committed:
        for version in operation.seen():
            if version in writer:
                after[writer[version].name].add(operation.name)  # wr, and ww
            if version in replaced:
                after[operation.name].add(replaced[version].name)  # rw
        for other in committed:
            if operation.ended < other.begun:
                after[operation.name].add(other.name)  # rt
    return {name: others - {name} for name, others in after.items()}


def _cycle(after: dict[str, set[str]]) -> list[str] | None:
    done: set[str] = set()
    for start in after:
        path: list[str] = []
        ahead: list[tuple[str, bool]] = [(start, False)]
        while ahead:
            name, leaving = ahead.pop()
            if leaving:
                done.add(path.pop())
            elif name in path:
                return [*path[path.index(name) :], name]
            elif name not in done:
                path.append(name)
                ahead.append((name, True))
                ahead += [(other, False) for other in after[name]]
    return None
