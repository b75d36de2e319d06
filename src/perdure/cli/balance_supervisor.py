"""The supervisor of a balancer: a small parent that keeps one process balancing.

It owns the listening socket and hands it down, so that while the process restarts its callers wait
in the backlog instead of being refused. It is told apart from that of `perdure run` because it has
one post, no places and no order of starting; what both do is in `post`, `restarts` and `roll_out`.

    it died → pause, start it again; if that is of no use: leave
    SIGHUP → a successor with the code that is there now; it serves, then the one before leaves
    SIGTERM, SIGINT → to the process; a second one → SIGKILL
"""

import signal
import socket
from collections.abc import Iterator

from perdure.cli.balance_options import BalanceOptions, greeting
from perdure.cli.child import Child
from perdure.cli.post import End, Post, how
from perdure.cli.rollout import NotStartedError, roll_out
from perdure.cli.signals import Signals, has_terminal

_ROLL_OUT_POLL_S = 1.0


class BalanceSupervisor:
    """Keeps one balancer running."""

    def __init__(
        self, options: BalanceOptions, bound: socket.socket, admin: socket.socket | None
    ) -> None:
        """A supervisor of nobody yet, of bound sockets."""
        self._options = options
        self._sockets = {"--listen": bound, "--admin": admin}
        self._greeting: str | None = greeting(options, bound)
        # with nohup a terminal that hangs up is no reason to stop
        is_ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        self._had_terminal = has_terminal() and not is_ignored
        self._signals = Signals(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
        self._post = Post("all", 0, self._start, only_one=False, name="balancer")
        self._roll_out: Iterator[None] | None = None
        self._is_roll_out_due = False
        self._stopped_by: signal.Signals | None = None
        self._exit_code = 0

    def run(self) -> int:
        """Run until told to stop, or until it makes no sense any more; returns the exit code."""
        post = self._post
        while self._stopped_by is None or post.processes():
            self._start_if_due()
            for number in self._signals.wait(self._patience_s(), post.processes()):
                self._on_signal(number)
            for child, end in post.reap():
                self._on_end(child, end)
            post.hear()
            if self._stopped_by is None:
                self._greet_once()
                self._advance_roll_out()
        return self._exit_code

    def _start(self, _post: Post) -> Child:
        words = ("perdure.cli.balance_serve", self._options.listen)
        return Child(words, self._options.to_line(), self._sockets)

    def _start_if_due(self) -> None:
        post = self._post
        if self._stopped_by is not None or post.child is not None or post.due_in_s():
            return
        try:
            post.start()
        except OSError as error:  # no memory, no descriptors: that may pass
            self._warn(f"cannot be started ({error.strerror})", post.retry_later())

    def _patience_s(self) -> float | None:
        if self._stopped_by is None and self._post.child is None:
            return self._post.due_in_s()
        return _ROLL_OUT_POLL_S if self._roll_out is not None else None

    def _greet_once(self) -> None:
        if self._greeting is not None and self._post.was_ready:
            print(self._greeting, flush=True)  # noqa: T201
            self._greeting = None

    # -- signals and deaths ----------------------------------------------------------------------

    def _on_signal(self, number: signal.Signals) -> None:
        if number == signal.SIGHUP and self._had_terminal and not has_terminal():
            number = signal.SIGTERM  # it was closed, and nobody else could end us any more
        if number == signal.SIGHUP:
            self._is_roll_out_due = True
        elif number != signal.SIGCHLD:
            self._stop(number)

    def _stop(self, number: signal.Signals) -> None:
        if self._stopped_by is not None:
            for child in self._post.processes():
                child.kill()
            return
        self._stopped_by = number
        for one in self._sockets.values():
            if one is not None:
                one.close()  # who comes when the child takes no more is refused
        for child in self._post.processes():
            if not child.is_told_to_leave:
                child.tell_to_leave(number)

    def _on_end(self, child: Child, end: End | None) -> None:
        code = self._post.last_code
        if self._stopped_by is not None:
            self._exit_code = self._exit_code or _exit_code(code)
        elif end is None:
            if child.is_ready and code:
                self._warn(f"died while it left ({how(code)})", None)
        elif end.pause_s is None and self._post.child is None:
            self._exit_code = _exit_code(code)
            self._stop(signal.SIGTERM)
        else:
            self._warn(f"died ({how(code)}), starting again", end.pause_s)

    # -- new code --------------------------------------------------------------------------------

    def _advance_roll_out(self) -> None:
        if self._roll_out is None and self._is_roll_out_due and self._greeting is None:
            self._is_roll_out_due = False
            self._roll_out = roll_out([self._post])
        if self._roll_out is None:
            return
        try:
            next(self._roll_out)
        except StopIteration:
            self._roll_out = None
        except NotStartedError as error:
            self._roll_out = None
            self._warn(f"was not replaced: {error}", None)

    def _warn(self, what: str, pause_s: float | None) -> None:
        import logging  # only once there is something to tell

        from perdure.cli.logs import set_up_logs

        set_up_logs(self._options.log_level, self._options.log_format)
        extra = {"pause_s": pause_s} if pause_s else {}
        logging.getLogger("perdure.supervisor").warning(f"{self._post.name} {what}", extra=extra)  # noqa: G004


def _exit_code(code: int) -> int:
    if code == -signal.SIGTERM:
        return 0  # there was no handler for it yet: nothing had begun, nothing is lost
    return code if code >= 0 else 128 - code
