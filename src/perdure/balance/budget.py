"""How many requests may be sent a second time.

It exists because retries are what turns a slow minute into an outage: each failing backend's load
comes back multiplied. A share of what is asked is enough for a backend that dies, and too little to
bury those that live.

Invariants:
- Within the window, retries never exceed the share of the requests and the minimum together.
"""

WINDOW_S = 10


class RetryBudget:
    """Counts requests and retries of the last ten seconds. `tick` once a second."""

    __slots__ = ("_minimum", "_past", "_retries", "_share", "_sums", "requests", "retries_total")

    def __init__(self, share: float, minimum: int) -> None:
        self.requests = 0  # of this second; counted by whoever begins one
        self.retries_total = 0
        self._share = share
        self._minimum = minimum
        self._retries = 0
        self._past = [(0, 0)] * (WINDOW_S - 1)
        self._sums = (0, 0)

    def take(self) -> bool:
        """Returns whether one more may be repeated, and counts it."""
        requests = self._sums[0] + self.requests
        retries = self._sums[1] + self._retries
        if retries >= requests * self._share + self._minimum:
            return False
        self._retries += 1
        self.retries_total += 1
        return True

    def tick(self) -> None:
        """A second has passed."""
        self._past = [*self._past[1:], (self.requests, self._retries)]
        self.requests = self._retries = 0
        self._sums = (sum(one[0] for one in self._past), sum(one[1] for one in self._past))
