"""The child's end of the socket pair to its supervisor, and all that is said over it.

    supervisor → child   its options, as one line
    child → supervisor   s   it stands by: its app is imported, nothing is opened
    supervisor → child   g   go: open the store and serve
    child → supervisor   r   ready: it serves

Standing by lets a supervisor see that new code can be loaded while the old code still serves, and
begin to serve at the moment when the old process leaves what only one may have. When the child
finds that the other end is closed, its supervisor is gone, however that ended, and it ends too.
"""

import contextlib
import os
import signal
import socket
import threading
import time

STANDING_BY = b"s"
GO = b"g"
READY = b"r"

_ORPHAN_S = 5.0  # for a graceful stop once the supervisor is gone
_CHUNK_BYTES = 65_536


def receive_line(supervisor: socket.socket) -> bytes:
    """The line that the supervisor sends first; empty if it is gone.

    Nothing can follow it at once, so what was read is never more than the line.
    """
    line = b""
    while not line.endswith(b"\n"):
        chunk = supervisor.recv(_CHUNK_BYTES)
        if not chunk:
            return b""
        line += chunk
    return line


def inherited(descriptor: str) -> socket.socket:
    """The socket behind the number of a descriptor that this process was started with."""
    found = socket.socket(fileno=int(descriptor))
    found.set_inheritable(False)  # what the app starts must not hold the port
    return found


class Supervision:
    """The life of a process below a supervisor; listening for its end begins at once."""

    def __init__(self, supervisor: socket.socket) -> None:
        self._supervisor = supervisor
        self._may_go = threading.Event()
        # A thread, since an endless loop in a method blocks the event loop.
        threading.Thread(target=self._listen, name="perdure-supervised", daemon=True).start()

    def stand_by(self) -> None:
        """Say that the app is loaded, and wait until this process may begin."""
        self._say(STANDING_BY)
        self._may_go.wait()

    def say_ready(self) -> None:
        """Say that this process serves."""
        self._say(READY)

    def _say(self, word: bytes) -> None:
        with contextlib.suppress(OSError):  # it is gone; the thread hears of that
            self._supervisor.send(word)

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while self._supervisor.recv(1) == GO:
                self._may_go.set()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_ORPHAN_S)
        os.kill(os.getpid(), signal.SIGKILL)
