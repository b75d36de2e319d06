"""Named points at which a test can make this process fail, on purpose and exactly there.

`PERDURE_FAULT=before_commit:kill:3` kills the process with SIGKILL the third time it comes to
`before_commit`; with `3+` that is done every third time, which a stopped process can live to see.
Actions: `kill`, `stop` (SIGSTOP: a frozen process), `raise` (an OSError, as a
failing disk gives), `sleep` (0.2 s). Without the variable a point is one call that does nothing.
"""

import errno
import os
import signal
import time

COMMIT_POINTS = (
    "after_turn",  # the method returned, nothing is in a commit yet
    "before_commit",  # a batch is closed and about to be handed to the store
    "after_begin",  # the store opened its transaction
    "before_fsync",  # all rows are written; COMMIT comes next
    "after_fsync",  # COMMIT returned; nobody has been told
    "before_reply",  # the output gate is about to open
    "after_reply",  # the replies of the batch were handed to the sockets
)
EFFECT_POINTS = (
    "before_delivery",  # a message is about to be handed to its receiver, or to its outlet
    "before_fire",  # a timer is due and about to make its turn
)
CLUSTER_POINTS = (
    "after_lease_check",  # an answer that rests on the lease alone may leave
    "after_handover_closed",  # shards are closed, and about to be given away
)
POINTS = COMMIT_POINTS + EFFECT_POINTS + CLUSTER_POINTS


class _Fault:
    def __init__(self, text: str) -> None:
        self.point, self.action, times = [*text.split(":"), "1", "1"][:3]
        if self.point not in POINTS or self.action not in {"kill", "stop", "raise", "sleep"}:
            raise ValueError(f"PERDURE_FAULT={text!r}: want POINT:ACTION[:N[+]], POINT of {POINTS}")
        self.left = int(times.removesuffix("+"))
        self.again = self.left if times.endswith("+") else 0

    def reach(self, point: str) -> None:
        if point != self.point:
            return
        self.left -= 1
        if self.left != 0:
            return
        self.left = self.again
        if self.action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.action == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif self.action == "sleep":
            time.sleep(0.2)
        else:
            raise OSError(errno.EIO, f"fault injected at {point}")


def _nothing(point: str) -> None:
    """Stand in for `reach` when no fault was asked for."""


_text = os.environ.get("PERDURE_FAULT")
reach = _Fault(_text).reach if _text else _nothing
