"""The supervisor: a small parent that starts a dead server again.

It owns the listening socket and hands it down, so that while a server restarts its callers wait in
the backlog instead of being refused. It holds nothing else, and so has no reason to die itself.

    start child → wait → ended as told, or in a way that another start would not change: leave
                       → died: pause, start again
    SIGTERM, SIGINT → passed on, wait for the child, leave; a second one → SIGKILL

Each child holds one end of a socket pair. It says there when it serves; and when it finds that the
other end is closed, its supervisor is gone, however that ended, and it ends too.
"""

import signal
import socket
import subprocess
import sys
import time
from typing import Any

import msgspec

from perdure.cli.options import ServeOptions
from perdure.cli.restarts import ATTEMPTS_MAX, Restarts
from perdure.cli.signals import Signals

READY = b"r"


class Supervisor:
    """Keeps one server process running on one listening socket."""

    def __init__(self, options: ServeOptions, bound: socket.socket) -> None:
        self._options = options
        self._bound = bound
        self._signals = Signals(signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
        self._is_stopping = False

    def run(self) -> int:
        """Start the server, again and again if need be; returns the exit code."""
        restarts = Restarts()
        options = self._options
        while True:
            began_s = time.monotonic()
            code, was_ready = self._run_once(options)
            if self._is_stopping:
                # SIGTERM before there was a handler for it: nothing had begun, nothing is lost
                return 0 if code == -signal.SIGTERM else _exit_code(code)
            pause_s = restarts.pause_s(code, was_ready=was_ready, ran_s=time.monotonic() - began_s)
            if pause_s is None:
                if restarts.has_given_up:
                    self._log(
                        "server died (%s), giving up after %d starts", _how(code), ATTEMPTS_MAX
                    )
                return _exit_code(code)
            self._log("server died (%s), starting again", _how(code), **_pause_field(pause_s))
            if not self._pause(pause_s):
                return 0
            options = msgspec.structs.replace(options, is_again=True)

    def _run_once(self, options: ServeOptions) -> tuple[int, bool]:
        """Run one child to its end; returns its exit code and whether it ever was ready."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        descriptors = (self._bound.fileno(), theirs.fileno())
        # -P: a folder of the user's with a logging.py in it must not come before Python's own
        command = [sys.executable, "-P", "-m", "perdure.cli.serve", options.to_text()]
        with ours:
            with theirs:
                child = subprocess.Popen(
                    [*command, *map(str, descriptors)],
                    pass_fds=descriptors,
                    start_new_session=True,  # a Ctrl-C reaches us only, and we pass it on once
                )
            while (code := child.poll()) is None:
                for number in self._signals.wait():
                    if number != signal.SIGCHLD:
                        self._stop(child, number, is_ready=_has_said_ready(ours))
            return code, _has_said_ready(ours)

    def _stop(
        self, child: "subprocess.Popen[bytes]", number: signal.Signals, *, is_ready: bool
    ) -> None:
        if self._is_stopping:
            number = signal.SIGKILL
        elif not is_ready:
            number = signal.SIGTERM  # SIGINT in the midst of an import would show a traceback
        child.send_signal(number)
        self._is_stopping = True
        self._bound.close()  # who comes when the child takes no more is refused

    def _pause(self, pause_s: float) -> bool:
        """Wait; returns False if told to stop meanwhile."""
        end_s = time.monotonic() + pause_s
        while (left_s := end_s - time.monotonic()) > 0:
            if set(self._signals.wait(left_s)) - {signal.SIGCHLD}:
                return False
        return True

    def _log(self, message: str, *values: object, **fields: Any) -> None:
        import logging  # only once there is something to tell

        from perdure.cli.logs import set_up_logs

        set_up_logs(self._options.log_level, self._options.log_format)
        logging.getLogger("perdure.supervisor").warning(message, *values, extra=fields)


def _has_said_ready(ours: socket.socket) -> bool:
    try:
        return ours.recv(1, socket.MSG_PEEK) == READY
    except OSError:  # nothing was said, or the child left without listening
        return False


def _how(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _pause_field(pause_s: float) -> dict[str, float]:
    return {"pause_s": pause_s} if pause_s else {}


def _exit_code(code: int) -> int:
    return code if code >= 0 else 128 - code
