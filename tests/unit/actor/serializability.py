"""Checks a history of transactions over registers for strict serializability.

Every write replaces the value it has read by one that nobody else writes. So the history itself
tells the order of the versions of each key, and with it all dependencies (as in Elle, by Kingsbury
and Alvaro):

ww  one wrote the version that the other replaced;
wr  one wrote the version that the other read;
rw  one read the version that the other replaced;
rt  one had answered before the other was asked.

Of an operation whose end nobody saw, what it wrote tells: it has happened if another has seen that.

The history is strictly serializable exactly if these have no cycle, and nobody has seen a value
that was never committed or that its own writer has replaced.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

INITIAL = 0  # the value of every register before the first write

UNKNOWN = -1  # the value that a call has replaced whose answer nobody saw
_NEVER = 1 << 60

Version = tuple[str, int]


@dataclass
class Operation:
    """One transaction, or one plain call, and what it has seen and done."""

    name: str
    begun: int  # on a clock that all share
    ended: int = 0
    committed: bool | None = False  # None: nobody knows
    reads: list[Version] = field(default_factory=list)
    writes: list[tuple[str, int, int]] = field(default_factory=list)  # key, value before, value

    def installed(self) -> dict[str, int]:
        """The last value it wrote to each key."""
        return {key: value for key, _, value in self.writes}

    def seen(self) -> Iterator[Version]:
        """What it has read of others."""
        own = {(key, value) for key, _, value in self.writes}
        for version in [*self.reads, *((key, before) for key, before, _ in self.writes)]:
            if version not in own and version[1] != UNKNOWN:
                yield version


def violations(history: list[Operation]) -> list[str]:
    """What is wrong with it; nothing, if it is strictly serializable."""
    history = _resolved(history)
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
            if before == UNKNOWN:
                continue
            other = replaced.setdefault((key, before), operation)
            if other is not operation:
                wrong.append(f"{operation.name} and {other.name} both replaced {(key, before)}")
    if wrong:
        return wrong
    cycle = _cycle(_dependencies(committed, writer, replaced))
    return [] if cycle is None else ["cycle: " + " → ".join(cycle)]


def _resolved(history: list[Operation]) -> list[Operation]:
    """The same, without operations of which nobody knows."""
    unknown = [operation for operation in history if operation.committed is None]
    known = [operation for operation in history if operation.committed is not None]
    found = unknown
    while found:
        seen = {version for one in known if one.committed for version in one.seen()}
        found = [one for one in unknown if seen & one.installed().items()]
        unknown = [one for one in unknown if one not in found]
        known += [replace(one, committed=True, ended=_NEVER) for one in found]
    return known + [replace(one, committed=False) for one in unknown]


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
