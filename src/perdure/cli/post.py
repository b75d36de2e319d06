"""A post: one of the processes that shall always run on this machine, whichever holds it now.

    child       who holds the post: starting, serving, or dead and soon to be replaced by the next
    successor   who is to hold it next, while new code is rolled out
    leaving     who held it before: serves to the end what it has begun

Invariant: where only one process may own the actors, nobody is told to go before the one before
has ended.
"""

import signal
import time
from collections.abc import Callable, Iterator

from perdure.cli.child import Child
from perdure.cli.restarts import PAUSE_MAX_S, Restarts
from perdure.runtime.place import Role

Start = Callable[["Post"], Child]


class End:
    """How the process that held a post ended, and when the next one starts."""

    def __init__(self, code: int, pause_s: float | None, *, has_given_up: bool) -> None:
        self.code = code
        self.pause_s = pause_s  # None: another start would end the same way
        self.has_given_up = has_given_up


class Post:
    """Keeps one process of one role running."""

    def __init__(
        self, role: Role, number: int, start: Start, *, only_one: bool, name: str = "server"
    ) -> None:
        """A post without anybody yet.

        Args:
            start: starts a process for this post.
            name: what it is called where there is only one.
            only_one: whether two at a time could not both begin.
        """
        self.role: Role = role
        self.number = number
        self.name = f"{role} {number}" if number else name
        self.was_held = False  # ever, if only for a moment
        self.was_loaded = False  # ever: the app could be imported
        self.was_ready = False  # ever
        self.child: Child | None = None
        self.successor: Child | None = None
        self.last_code = 0  # of the last process that ended, whichever it was
        self._leaving: list[Child] = []
        self._start = start
        self._only_one = only_one
        self._restarts = Restarts()
        self._due_s = 0.0

    # -- the usual life --------------------------------------------------------------------------

    @property
    def is_ready(self) -> bool:
        """Whether it has a process that serves."""
        return self.child is not None and self.child.is_ready

    def due_in_s(self) -> float:
        """How long until the next process is to be started."""
        return max(0.0, self._due_s - time.monotonic())

    def start(self) -> None:
        """Start a process for it. Raises OSError, as do all that start one."""
        self.child = self._start(self)
        self.was_held = True

    def processes(self) -> list[Child]:
        """All that there are at the moment, of every age."""
        held = [child for child in (self.child, self.successor) if child is not None]
        return held + self._leaving

    def hear(self) -> None:
        """Take in what its processes say, and let those begin that may."""
        for child in self.processes():
            child.hear()
        if self.child is not None:
            self.was_loaded |= self.child.is_standing_by
            self.was_ready |= self.child.is_ready
            if not (self._only_one and self._leaving):
                self.child.go()
        if self.successor is not None and not self._only_one:
            self.successor.go()

    def reap(self) -> Iterator[tuple[Child, End | None]]:
        """Let go of the processes that have ended; with an End if it was who held the post."""
        for child in self.processes():
            code = child.exit_code()
            if code is None:
                continue
            self.last_code = code
            if child is self.child:
                yield child, self._bury(child, code)
                continue
            if child is self.successor:
                self.successor = None
            else:
                self._leaving.remove(child)
            yield child, None

    def retry_later(self) -> float:
        """Start again, although it would end the same way, after the longest pause; returns it."""
        self._due_s = time.monotonic() + PAUSE_MAX_S
        return PAUSE_MAX_S

    def _bury(self, child: Child, code: int) -> End:
        self.was_ready |= child.is_ready
        # a successor is as good as any other who would be started now
        self.child, self.successor = self.successor, None
        pause_s = self._restarts.pause_s(code, was_ready=child.is_ready, ran_s=child.ran_s())
        self._due_s = time.monotonic() + (pause_s or 0.0)
        return End(code, pause_s, has_given_up=self._restarts.has_given_up)

    # -- new code --------------------------------------------------------------------------------

    def start_successor(self) -> Child:
        """Start who shall hold the post next."""
        self.successor = self._start(self)
        return self.successor

    def is_successor_fit(self) -> bool:
        """Whether the successor has come as far as it can while the other still serves."""
        successor = self.successor
        if successor is None:
            return False
        return successor.is_standing_by if self._only_one else successor.is_ready

    def hand_over(self) -> None:
        """Give the post to the successor; who held it leaves."""
        leaving, self.child, self.successor = self.child, self.successor, None
        if leaving is not None:
            # Not SIGTERM: it goes on saying that it is ready, since whoever asks next will be
            # answered by its successor, and a balancer need not turn away.
            leaving.tell_to_leave(signal.SIGHUP)
            self._leaving.append(leaving)

    def start_anew(self) -> Child:
        """Start with what code there is now; for a post whose process does not serve yet."""
        new = self._start(self)
        if self.child is not None:
            self.child.kill()
            self._leaving.append(self.child)
        self.child = new
        return new

    def kill_leaving(self) -> None:
        """End those at once that were told to leave."""
        for child in self._leaving:
            child.kill()

    @property
    def is_settled(self) -> bool:
        """Whether its process serves, and nobody from before is left."""
        return self.is_ready and not self._leaving


def how(code: int) -> str:
    """How a process ended, for people."""
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
