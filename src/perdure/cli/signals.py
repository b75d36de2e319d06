"""Signals as something to wait for, instead of handlers that run in the middle of anything."""

import contextlib
import os
import select
import signal
import socket
from collections.abc import Iterable
from typing import Protocol


class Speaker(Protocol):
    """Something that may have something to say."""

    def fileno(self) -> int:
        """For `select`; negative: it will say nothing any more."""
        ...


class Signals:
    """Takes these signals from now on; `wait` gives them out in the order in which they came."""

    def __init__(self, *numbers: signal.Signals) -> None:
        self._arrived, self._writing = socket.socketpair()
        self._arrived.setblocking(False)
        self._writing.setblocking(False)
        signal.set_wakeup_fd(self._writing.fileno(), warn_on_full_buffer=False)
        for number in numbers:
            signal.signal(number, lambda _number, _frame: None)  # the number is in the pipe already

    def wait(
        self, timeout_s: float | None = None, speakers: Iterable[Speaker] = ()
    ) -> list[signal.Signals]:
        """Wait for a signal, a word of one of the speakers or the timeout; returns the signals."""
        listened = [speaker for speaker in speakers if speaker.fileno() >= 0]
        select.select([self._arrived, *listened], [], [], timeout_s)
        with contextlib.suppress(BlockingIOError):
            return [signal.Signals(number) for number in self._arrived.recv(64)]
        return []


def has_terminal() -> bool:
    """Whether this process can be told by a terminal to stop. Not so once that has hung up."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
