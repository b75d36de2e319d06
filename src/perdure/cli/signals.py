"""Signals as something to wait for, instead of handlers that run in the middle of anything."""

import contextlib
import select
import signal
import socket


class Signals:
    """Takes these signals from now on; `wait` gives them out in the order in which they came."""

    def __init__(self, *numbers: signal.Signals) -> None:
        self._arrived, self._writing = socket.socketpair()
        self._arrived.setblocking(False)
        self._writing.setblocking(False)
        signal.set_wakeup_fd(self._writing.fileno(), warn_on_full_buffer=False)
        for number in numbers:
            signal.signal(number, lambda _number, _frame: None)  # the number is in the pipe already

    def wait(self, timeout_s: float | None = None) -> list[signal.Signals]:
        """Wait for at least one; an empty list after the timeout."""
        select.select([self._arrived], [], [], timeout_s)
        with contextlib.suppress(BlockingIOError):
            return [signal.Signals(number) for number in self._arrived.recv(64)]
        return []
