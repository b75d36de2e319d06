"""What is counted about the turns of one process."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from perdure.base.metrics import Family, Histogram, Labels, seconds

if TYPE_CHECKING:
    from perdure.actor.methods import ActorType, Method


class TurnMeasures:
    """Counts of turns by method, and how long calls waited for their actor.

    Durations are told only of turns that ran as tasks: one that cannot wait takes some microseconds
    of the processor, and reading the clock twice would be a fair part of them.
    """

    __slots__ = ("_begun_before", "failed", "waited", "waiting_turns")

    def __init__(self, actor_types: "Iterable[ActorType]") -> None:
        # of another node in this process, as in tests
        self._begun_before = {method: method.begun for method in _methods_of(actor_types)}
        self.failed: defaultdict[Method, int] = defaultdict(int)
        self.waited: Histogram = seconds()  # in mailboxes, of those that had to
        self.waiting_turns: defaultdict[Method, Histogram] = defaultdict(seconds)

    def families(self) -> list[Family]:
        """All of it, as Prometheus is told."""
        return [
            Family(
                "perdure_turns",
                "counter",
                "Turns that began.",
                [
                    (_names(method), method.begun - before)
                    for method, before in self._begun_before.items()
                    if method.begun > before
                ],
            ),
            Family(
                "perdure_turns_failed",
                "counter",
                "Turns that were undone, since their method raised or their state was refused.",
                [(_names(method), count) for method, count in self.failed.items()],
            ),
            Family(
                "perdure_mailbox_wait_seconds",
                "histogram",
                "How long calls waited for their actor; those that found it free are not counted.",
                [({}, self.waited)],
            ),
            Family(
                "perdure_turn_duration_seconds",
                "histogram",
                "How long turns ran whose methods can wait.",
                [(_names(method), one) for method, one in self.waiting_turns.items()],
            ),
        ]


def _methods_of(actor_types: "Iterable[ActorType]") -> "Iterator[Method]":
    for actor_type in actor_types:
        yield from actor_type.methods.values()
        if actor_type.live_fields is not None:
            yield actor_type.live_fields


def _names(method: "Method") -> Labels:
    return {"type": method.actor_type.actor_class.__name__, "method": method.name}
