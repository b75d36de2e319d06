"""Metrics: what is counted, and how it is told to Prometheus.

Where things happen there are only integers that are bumped and `Histogram.add`; all that gives them
names, labels and text runs when somebody asks. A client library was rejected for the hot path: each
count of one is a look-up by labels and a lock, which costs more than all that is counted here.

Invariant: no label holds anything that a user sent. Their values come from the code (actor types,
methods, status classes), so that their number is bounded by the size of the application.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

import msgspec

TEXT = b"text/plain; version=0.0.4; charset=utf-8"
OPEN_METRICS = b"application/openmetrics-text; version=1.0.0; charset=utf-8"

Kind = Literal["counter", "gauge", "histogram"]
Labels = Mapping[str, str]
Audience = Literal["local", "public", "off"]

_BUCKETS = 40


class Histogram:
    """How often values of each magnitude came: a bucket ends at each power of two.

    Fixed buckets were chosen since finding one is `bit_length`: no search, and none to configure.
    A percentile read from them is at most twice what it was, and their sum is exact.

    Args:
        unit: what one is of the values as they are told; 1e-6 for values in seconds that begin to
            be of interest at microseconds.
        first: the first bucket that is told, by the power of two of its upper end; what is smaller
            is counted in it.
        last: the last one before infinity.
    """

    __slots__ = ("_counts", "_first", "_last", "_per_unit", "_unit", "sum")

    def __init__(self, unit: float = 1.0, *, first: int = 0, last: int = 24) -> None:
        self._unit = unit
        self._per_unit = 1 / unit
        self._first = first
        self._last = last
        self._counts = [0] * _BUCKETS
        self.sum = 0.0

    def add(self, value: float) -> None:
        """Count one value; one below zero, as clocks that were set give, counts as zero."""
        if value < 0:
            value = 0.0
        magnitude = int(value * self._per_unit).bit_length()
        self._counts[magnitude if magnitude < _BUCKETS else -1] += 1
        self.sum += value

    def add_all(self, values: Iterable[float]) -> None:
        """Count many values, none of them below zero or beyond hours: half the cost for each."""
        counts, per_unit, total = self._counts, self._per_unit, 0.0
        for value in values:
            counts[int(value * per_unit).bit_length()] += 1
            total += value
        self.sum += total

    @property
    def count(self) -> int:
        """How many values came."""
        return sum(self._counts)

    def buckets(self) -> Iterator[tuple[float, int]]:
        """The upper end of each bucket, and how many values were not above it; last infinity.

        A value that lies exactly on an end is counted one bucket higher.
        """
        total = sum(self._counts[: self._first])
        for magnitude in range(self._first, self._last + 1):
            total += self._counts[magnitude]
            yield (1 << magnitude) * self._unit, total
        yield float("inf"), self.count


def seconds() -> Histogram:
    """A histogram of durations in seconds: from 64 µs to 67 s, each bucket twice the one before."""
    return Histogram(1e-6, first=6, last=26)


class Family(msgspec.Struct, frozen=True):
    """All samples of one name.

    A counter's name has no `_total`: that belongs to its samples.
    """

    name: str
    kind: Kind
    help: str
    samples: "list[tuple[Labels, float | Histogram]]"


def counter(name: str, help_: str, value: float) -> Family:
    """A family of one sample that only ever rises."""
    return Family(name, "counter", help_, [({}, value)])


def gauge(name: str, help_: str, value: float) -> Family:
    """A family of one sample that goes up and down."""
    return Family(name, "gauge", help_, [({}, value)])


def exposition(families: Iterable[Family], common: Labels, *, is_open_metrics: bool) -> bytes:
    """The text that Prometheus reads.

    Args:
        common: labels that every sample gets.
        is_open_metrics: in the format of that name; else in Prometheus' own, older one.
    """
    lines: list[str] = []
    for family in families:
        is_counter = family.kind == "counter"
        name = f"{family.name}_total" if is_counter and not is_open_metrics else family.name
        lines.append(f"# HELP {name} {_help(family.help)}")
        lines.append(f"# TYPE {name} {family.kind}")
        suffix = "_total" if is_counter else ""
        for labels, value in family.samples:
            told = {**common, **labels}
            if isinstance(value, Histogram):
                lines.extend(_histogram_lines(family.name, told, value))
            else:
                lines.append(f"{family.name}{suffix}{_labels(told)} {_number(value)}")
    if is_open_metrics:
        lines.append("# EOF")
    return ("\n".join(lines) + "\n").encode()


def _histogram_lines(name: str, labels: Labels, histogram: Histogram) -> Iterator[str]:
    for end, count in histogram.buckets():
        yield f"{name}_bucket{_labels({**labels, 'le': _number(end)})} {count}"
    yield f"{name}_sum{_labels(labels)} {_number(histogram.sum)}"
    yield f"{name}_count{_labels(labels)} {histogram.count}"


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _help(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")


def _number(value: float) -> str:
    if value == float("inf"):
        return "+Inf"
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(value)
