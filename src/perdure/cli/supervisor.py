"""The supervisor: a small parent that starts a dead server again.

It owns the listening socket and hands it down, so that while a server restarts its callers wait in
the backlog instead of being refused. It holds nothing else, and so has no reason to die itself.

    start child → wait → ended by itself with a final code: leave with it
                       → died: pause, start again; the pause grows while it never became ready
    SIGTERM, SIGINT → passed on, wait for the child → leave with its code; again → SIGKILL
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from types import FrameType

from perdure.cli.failures import APP_BROKEN, NOT_WORTH_A_RETRY

_ATTEMPTS_MAX = 5  # in a row that never became ready
_PAUSE_MAX_S = 5.0
_RAN_WELL_S = 10.0


class Supervisor:
    """Keeps one server process running on one listening socket."""

    def __init__(self, options: str, bound: socket.socket) -> None:
        self._options = options
        self._bound = bound
        self._child: subprocess.Popen[bytes] | None = None
        self._stop = threading.Event()
        self._started = 0

    def run(self) -> int:
        """Start the server, again and again if need be; returns the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        failures = 0
        while True:
            began_s = time.monotonic()
            code, was_ready = self._run_once()
            if self._stop.is_set() or code in NOT_WORTH_A_RETRY:
                return code if code >= 0 else 128 - code
            failures = 0 if was_ready and time.monotonic() - began_s > _RAN_WELL_S else failures + 1
            if not was_ready and failures >= _ATTEMPTS_MAX:
                _say(f"server died {failures} times before it was ready, giving up")
                return code if code > 0 else APP_BROKEN
            pause_s = min(0.05 * 2 ** (failures - 1), _PAUSE_MAX_S) if failures > 1 else 0.0
            _say(f"server died ({_how(code)}), starting again")
            if self._stop.wait(pause_s):
                return 128 + signal.SIGTERM

    def _run_once(self) -> tuple[int, bool]:
        """Run one child to its end; returns its exit code and whether it ever was ready."""
        ours, theirs = socket.socketpair()
        ours.send(b"1" if self._started == 0 else b"0")
        self._started += 1
        descriptors = (self._bound.fileno(), theirs.fileno())
        with ours, theirs:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "perdure.cli.serve", self._options, *map(str, descriptors)],
                pass_fds=descriptors,
                start_new_session=True,  # a Ctrl-C reaches us only, and we pass it on once
            )
            theirs.close()
            if self._stop.is_set():
                self._child.send_signal(signal.SIGTERM)
            code = self._child.wait()
            return code, _said_ready(ours)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        child = self._child
        if child is not None and child.poll() is None:
            child.send_signal(signal.SIGKILL if self._stop.is_set() else signal.SIGTERM)
        self._stop.set()


def _said_ready(ours: socket.socket) -> bool:
    try:
        return ours.recv(1, socket.MSG_DONTWAIT) == b"r"
    except OSError:  # nothing was said, or the child left without listening
        return False


def _how(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _say(text: str) -> None:
    print(f"perdure[{os.getpid()}]: {text}", file=sys.stderr, flush=True)  # noqa: T201
