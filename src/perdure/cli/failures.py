"""How a command fails: one clear line, a hint, and an exit code that scripts can tell apart.

Exit codes follow BSD sysexits.h where it has a fitting one; 2 is wrong use, as everywhere.
"""

from perdure.base.errors import (
    DefinitionError,
    OtherClusterError,
    PerdureError,
    StoreBrokenError,
    StoreCorruptError,
    StoreError,
    StoreFormatError,
    StoreFullError,
    StoreLockedError,
)

NOT_YET = 1  # `cluster --ready` says no, or `cluster drain --wait` has waited long enough
USAGE = 2
DATA_DAMAGED = 65  # EX_DATAERR: the store is damaged, foreign or newer, or does not fit the app
NO_INPUT = 66  # EX_NOINPUT: no such file, type or key
UNAVAILABLE = 69  # EX_UNAVAILABLE: the address is taken
APP_BROKEN = 70  # EX_SOFTWARE: the app did not start
CANNOT_CREATE = 73  # EX_CANTCREAT: a file or folder could not be written
DISK_FAILED = 74  # EX_IOERR: the disk failed under a commit; starting again recovers
LOCKED = 75  # EX_TEMPFAIL: another process, or another cluster, owns the store
BAD_APP = 78  # EX_CONFIG: the app cannot be loaded

# A server that ended like this would end the same way again.
NOT_WORTH_A_RETRY = frozenset((0, USAGE, DATA_DAMAGED, NO_INPUT, UNAVAILABLE, LOCKED, BAD_APP))

_CODES: list[tuple[type[PerdureError], int]] = [
    (StoreLockedError, LOCKED),
    (OtherClusterError, LOCKED),
    (StoreCorruptError, DATA_DAMAGED),
    (StoreFormatError, DATA_DAMAGED),
    (StoreBrokenError, DISK_FAILED),
    (StoreFullError, DISK_FAILED),
    (StoreError, NO_INPUT),
    (DefinitionError, BAD_APP),
]


class Failure(Exception):  # it is not an error of Perdure but an end of a command
    """Raised to end a command with a message for its user."""

    def __init__(self, message: str, hint: str | None = None, *, exit_code: int = USAGE) -> None:
        super().__init__(message)
        self.hint = hint
        self.exit_code = exit_code

    def text(self) -> str:
        """The message, and below it the hint."""
        return f"perdure: {self}" + (f"\n  hint: {self.hint}" if self.hint else "")


def failure_of(error: PerdureError) -> Failure:
    """The failure that a Perdure error means for a command."""
    code = next((code for kind, code in _CODES if isinstance(error, kind)), APP_BROKEN)
    return Failure(str(error), exit_code=code)
