"""A process below the supervisor, as the supervisor sees it: started, heard, told, ended."""

import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from perdure.cli.supervised import GO, READY, STANDING_BY
from perdure.runtime.place import Place


class Child:
    """One process and our end of the socket pair to it; `supervised` says what goes over it."""

    def __init__(
        self,
        words: Sequence[str],
        options: bytes,
        sockets: Mapping[str, socket.socket | None],
        place: Place | None = None,
    ) -> None:
        """Start it. Raises OSError if the system does not let us.

        Args:
            words: the module, and what `ps` shall show of it.
            options: the line that it is told.
            sockets: those that it inherits, by the option that tells it of each.
            place: what its part is among others.
        """
        self.place = place or Place()
        self.began_s = time.monotonic()
        self.is_standing_by = False
        self.is_ready = False
        self.is_told_to_leave = False
        self._may_go = False
        self._pair, theirs = socket.socketpair()
        self._pair.setblocking(False)
        descriptors = {"--supervisor": theirs, **sockets}
        inherited = {name: one.fileno() for name, one in descriptors.items() if one is not None}
        # -P: a folder of the user's with a logging.py in it must not come before Python's own
        command = [sys.executable, "-P", "-m", *words]
        with theirs, contextlib.ExitStack() as on_error:
            on_error.callback(self._pair.close)
            self._process = subprocess.Popen(
                [*command, *(f"{name}={number}" for name, number in inherited.items())],
                pass_fds=list(inherited.values()),
                start_new_session=True,  # a Ctrl-C reaches us only, and we pass it on once
            )
            on_error.pop_all()
        self._say(options)

    def fileno(self) -> int:
        """For `select`: readable when the process has said something; -1 when it has hung up."""
        return self._pair.fileno()

    def hear(self) -> None:
        """Take in what the process has said."""
        try:
            words = self._pair.recv(16)
        except (BlockingIOError, ConnectionError):
            return
        except OSError:  # hung up before
            return
        self.is_standing_by |= STANDING_BY in words
        self.is_ready |= READY in words
        if not words:
            self._pair.close()

    def go(self) -> None:
        """Let it begin, if it stands by and was not told before."""
        if self.is_standing_by and not self._may_go:
            self._may_go = True
            self._say(GO)

    def tell_to_leave(self, number: signal.Signals) -> None:
        """Send the signal, or SIGTERM before it is ready: nothing has begun then.

        SIGINT in the midst of an import would show a traceback.
        """
        self.hear()
        self.is_told_to_leave = True
        self._process.send_signal(number if self.is_ready else signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        self.is_told_to_leave = True
        self._process.kill()

    def exit_code(self) -> int | None:
        """How it ended, as `subprocess` tells it; None: it runs."""
        code = self._process.poll()
        if code is not None:
            self.hear()  # the last words
            self._pair.close()
        return code

    def ran_s(self) -> float:
        """How long ago it was started."""
        return time.monotonic() - self.began_s

    def _say(self, words: bytes) -> None:
        with contextlib.suppress(OSError):  # it is gone; SIGCHLD tells
            self._pair.send(words)
