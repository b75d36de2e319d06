"""Rate limits, the arithmetic: GCRA, the generic cell rate algorithm, over tables with a ceiling.

One number stands for one subject (a caller, an address): the time at which it will have all of its
burst again. A request moves that time on by one interval, and is refused if it would then lie more
than a whole burst ahead. So in any stretch of t seconds at most burst + t / interval requests are
allowed, wherever it begins. Counting by the minute was rejected: around the turn of a minute it
allows twice as much. So was a log of requests: it keeps as many numbers as the limit.

Times are whole nanoseconds. With floats, a hundred intervals would not be exactly a burst of a
hundred, and the last request would be refused now and then.

A table holds a bounded number of subjects; a row of it, chosen by a hash that nobody outside can
compute, is what is looked through. When a row is full, those that have all of their burst again are
dropped: they are as if they had never been there. If there are none, the one that has spent least
goes, and the row remembers how much that was: from then on whoever is not in it is taken to have
spent as much. So nobody ever gets more than the limit, whoever fills the table with however many
addresses, and the counters of those who have spent most stay; the price is that a newcomer may find
some of their burst spent. Refusing newcomers, or not counting them, were rejected: the one would
shut out everybody, the other would be a way around the limit.
"""

from collections.abc import Sequence

import msgspec

_ROW_SUBJECTS_MAX = 128  # as many as can be looked through in some microseconds
NS_PER_S = 1_000_000_000


class Policy(msgspec.Struct, frozen=True, array_like=True):
    """How often something may happen, and the name under which it is counted."""

    name: str
    interval_ns: int  # between two, on average
    burst_ns: int  # so many intervals as may come at once

    def left(self, ahead_ns: int) -> tuple[int, int]:
        """How many may come at once from a subject whose time lies so far ahead, and in how many
        nanoseconds that is one more."""
        left_ns = self.burst_ns - ahead_ns
        if left_ns < 0:
            return 0, self.interval_ns - left_ns
        count, over_ns = divmod(left_ns, self.interval_ns)
        return count, self.interval_ns - over_ns


def policy(name: str, *, limit: int, per_s: int, burst: int) -> Policy:
    """The policy that allows `limit` in `per_s` seconds, and so many of them at once."""
    interval_ns = -(-per_s * NS_PER_S // limit)  # rounded up: never more than was asked for
    return Policy(name, interval_ns, burst * interval_ns)


class Verdict(msgspec.Struct, array_like=True):
    """What was decided on a request, and how far ahead the time of each policy is now."""

    allowed: bool
    ahead_ns: list[int]
    is_from_afar: bool = False  # another process decided


class Table:
    """The times of the subjects of one policy.

    Args:
        subjects_max: how many it holds.
        has_floor: False for times that may just be forgotten where there is no room.
    """

    __slots__ = ("_floors", "_has_floor", "_rows")

    def __init__(self, subjects_max: int, *, has_floor: bool = True) -> None:
        count = max(subjects_max // _ROW_SUBJECTS_MAX, 1)
        self._rows: list[dict[str, int]] = [{} for _ in range(count)]
        self._floors = [0] * count
        self._has_floor = has_floor

    def __len__(self) -> int:
        return sum(map(len, self._rows))

    def take(self, subject: str, one: Policy, now_ns: int) -> tuple[bool, int]:
        """Count a request if the policy allows it; says whether, and how far ahead it is now. The
        same as `time_ns` and `put`, in half the time: nearly all routes have but one rate."""
        number = hash(subject) % len(self._rows)
        row = self._rows[number]
        known_ns = row.get(subject)
        if known_ns is None:
            known_ns = self._floors[number]
        ahead_ns = (known_ns - now_ns if known_ns > now_ns else 0) + one.interval_ns
        if ahead_ns > one.burst_ns:
            return False, ahead_ns - one.interval_ns
        if len(row) >= _ROW_SUBJECTS_MAX and subject not in row:
            self._make_room(number, now_ns)
        row[subject] = now_ns + ahead_ns
        return True, ahead_ns

    def time_ns(self, subject: str, now_ns: int) -> int:
        """When the subject has all of its burst again; now, if it has."""
        number = hash(subject) % len(self._rows)  # a random hash, another in each process
        known_ns = self._rows[number].get(subject)
        if known_ns is None:
            known_ns = self._floors[number]
        return known_ns if known_ns > now_ns else now_ns

    def put(self, subject: str, time_ns: int, now_ns: int) -> None:
        """Remember the time of a subject."""
        number = hash(subject) % len(self._rows)
        row = self._rows[number]
        if len(row) >= _ROW_SUBJECTS_MAX and subject not in row:
            self._make_room(number, now_ns)
        row[subject] = time_ns

    def _make_room(self, number: int, now_ns: int) -> None:
        row = self._rows[number]
        past = [subject for subject, time_ns in row.items() if time_ns <= now_ns]
        for subject in past:
            del row[subject]
        if not past:
            time_ns = row.pop(min(row, key=row.__getitem__))
            if self._has_floor:
                self._floors[number] = max(self._floors[number], time_ns)


class Counters:
    """The tables of all policies that one process counts for, each for so many subjects."""

    def __init__(self, subjects_max: int) -> None:
        self._subjects_max = subjects_max
        self._tables: dict[str, Table] = {}

    def __len__(self) -> int:
        return sum(map(len, self._tables.values()))

    def decide(self, subject: str, policies: Sequence[Policy], now_ns: int) -> Verdict:
        """Count a request under all of these policies, if each allows it; else under none."""
        if len(policies) == 1:
            one = policies[0]
            allowed, only_ns = self._table(one.name).take(subject, one, now_ns)
            return Verdict(allowed, [only_ns])
        tables = [self._table(one.name) for one in policies]
        ahead_ns = [table.time_ns(subject, now_ns) - now_ns for table in tables]
        if any(one.left(ahead_ns[place])[0] == 0 for place, one in enumerate(policies)):
            return Verdict(False, ahead_ns)
        for place, one in enumerate(policies):
            ahead_ns[place] += one.interval_ns
            tables[place].put(subject, now_ns + ahead_ns[place], now_ns)
        return Verdict(True, ahead_ns)

    def give_back(self, subject: str, policies: Sequence[Policy], now_ns: int) -> None:
        """Undo the count of one request."""
        for one in policies:
            table = self._table(one.name)
            if (time_ns := table.time_ns(subject, now_ns)) > now_ns:
                table.put(subject, time_ns - one.interval_ns, now_ns)

    def _table(self, name: str) -> Table:
        table = self._tables.get(name)
        if table is None:
            table = self._tables[name] = Table(self._subjects_max)
        return table
