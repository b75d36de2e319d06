"""When a server that died is started again: at once, after a pause, or no more."""

from perdure.cli.failures import LOCKED, NOT_WORTH_A_RETRY

ATTEMPTS_MAX = 5  # in a row that never became ready
PAUSE_MAX_S = 5.0
RAN_WELL_S = 2.0
_PAUSE_MIN_S = 0.1


class Restarts:
    """The policy, without the processes: it is told of each end and says what follows."""

    def __init__(self) -> None:
        self._quick_deaths = 0
        self._never_ready = 0
        self._once_ready = False

    @property
    def has_given_up(self) -> bool:
        """True once too many starts in a row came to nothing."""
        return self._never_ready >= ATTEMPTS_MAX

    def pause_s(self, exit_code: int, *, was_ready: bool, ran_s: float) -> float | None:
        """How long to wait before the next start; None: there is none."""
        self._once_ready |= was_ready
        self._never_ready = 0 if was_ready else self._never_ready + 1
        self._quick_deaths = 0 if was_ready and ran_s >= RAN_WELL_S else self._quick_deaths + 1
        if exit_code == LOCKED and self._once_ready:
            # Nobody else can have become the owner; somebody looks in with the sqlite3 shell,
            # which the start cannot do beside. That ends, so there is no giving up.
            return PAUSE_MAX_S
        if exit_code in NOT_WORTH_A_RETRY or self.has_given_up:
            return None
        if self._quick_deaths <= 1:
            return 0.0
        return min(_PAUSE_MIN_S * 2.0 ** min(self._quick_deaths - 2, 30), PAUSE_MAX_S)
