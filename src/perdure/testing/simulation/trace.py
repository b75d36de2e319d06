"""What happened in a simulated world: the last events to read, and a sum over all of them.

Two runs were the same exactly if their sums are equal.
"""

import zlib
from collections import Counter, deque

from perdure.testing.simulation.loop import SeededLoop

_REMEMBERED = 400


class Trace:
    """The events of one run, and how often each kind of fault was injected."""

    def __init__(self, loop: SeededLoop) -> None:
        self._loop = loop
        self._last: deque[tuple[float, str]] = deque(maxlen=_REMEMBERED)
        self._sum = 0
        self.faults: Counter[str] = Counter()

    def note(self, event: str) -> None:
        """Something happened."""
        now_s = self._loop.now_s
        self._last.append((now_s, event))
        self._sum = zlib.crc32(b"%.9f %s" % (now_s, event.encode()), self._sum)

    def fault(self, kind: str, detail: str = "") -> None:
        """A fault was injected."""
        self.faults[kind] += 1
        self.note(f"*** {kind} {detail}".rstrip())

    def checksum(self) -> str:
        """The same for the same run: it covers all events, all steps and all that was drawn."""
        state = repr((self._loop.steps, self._loop.random.getstate())).encode()
        return f"{zlib.crc32(state, self._sum):08x}"

    def tail(self, count: int = 60) -> str:
        """The last events, one a line, with their time."""
        events = list(self._last)[-count:]
        return "\n".join(f"{at_s:10.4f} s  {event}" for at_s, event in events)
