"""The supervisor: a small parent that keeps the processes of this machine running.

It owns the listening socket and hands it down, so that while a process restarts its callers wait in
the backlog instead of being refused, and so that all web processes share it. It holds nothing else,
and so has no reason to die itself.

    start the owners of actors → they are ready → start the web processes → greet
    one died → pause, start it again; if that is of no use, and no other has its role: leave
    SIGHUP → a roll-out: one after the other is replaced by one with the code that is there now
    SIGTERM, SIGINT → to the web processes; they have left → to the owners; a second one → SIGKILL

What is said between it and its children is in `supervised`.
"""

import signal
import socket
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from perdure.cli.child import Child
from perdure.cli.greeting import greeting
from perdure.cli.layout import Layout
from perdure.cli.options import ServeOptions
from perdure.cli.places import Places
from perdure.cli.post import End, Post, how
from perdure.cli.restarts import ATTEMPTS_MAX
from perdure.cli.rollout import NotStartedError, roll_out
from perdure.cli.signals import Signals, has_terminal

_ROLL_OUT_POLL_S = 1.0  # how late the end of its patience may be noticed


class Supervisor:
    """Keeps the processes of a layout running."""

    def __init__(
        self,
        options: ServeOptions,
        bound: socket.socket | None,
        metrics: Sequence[socket.socket],
        layout: Layout,
        places: Places,
    ) -> None:
        """A supervisor of nobody yet.

        Args:
            bound: where requests come in.
            metrics: an address for each process where it tells its metrics, or none at all.
        """
        self._metrics = metrics
        self._options = options
        self._bound = bound
        self._layout = layout
        self._places = places
        # with nohup a terminal that hangs up is no reason to stop
        is_ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        self._had_terminal = has_terminal() and not is_ignored
        self._signals = Signals(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
        self._posts = [
            Post(role, number, self._start, only_one=role != "web" and not layout.has_registry)
            for role, number in layout.roles()
        ]
        self._has_greeted = False
        self._roll_out: Iterator[None] | None = None
        self._is_roll_out_due = False
        self._stopped_by: signal.Signals | None = None
        self._exit_code = 0

    def run(self) -> int:
        """Run until told to stop, or until it makes no sense any more; returns the exit code."""
        with self._places:
            while self._stopped_by is None or not self._has_stopped():
                self._start_what_is_due()
                for number in self._signals.wait(self._patience_s(), self._processes()):
                    self._on_signal(number)
                for post in self._posts:
                    for child, end in post.reap():
                        self._on_end(post, child, end)
                    post.hear()  # last: who waited for one that has ended may go now
                if self._stopped_by is None:
                    self._greet_once()
                    self._advance_roll_out()
            return self._exit_code

    # -- starting --------------------------------------------------------------------------------

    def _start_what_is_due(self) -> None:
        for post in self._vacant():
            if post.due_in_s():
                continue
            try:
                post.start()
            except OSError as error:  # no memory, no descriptors: that may pass
                pause_s = post.retry_later()
                self._warn("%s cannot be started (%s)", post.name, error.strerror, pause_s=pause_s)

    def _vacant(self) -> list[Post]:
        """The posts that a process may be started for, now or after their pause."""
        if self._stopped_by is not None:
            return []
        first = self._posts[0]
        if not first.was_loaded:  # an app that cannot be imported shall say so once
            return [] if first.child else [first]
        owners = [post.was_ready for post in self._posts if post.role != "web"]
        # of several databases, one that is away must not keep the others from being served
        owners_ready = all(owners) or (self._layout.cells > 1 and any(owners))
        return [
            post
            for post in self._posts
            if post.child is None and (owners_ready or post.role != "web")
        ]

    def _start(self, post: Post) -> Child:
        place = self._places.take(post.role, post.number)
        options = msgspec.structs.replace(
            self._options, is_again=post.was_held, is_first=post.number <= 1, place=place
        )
        title = f"{post.role}-{post.number}" if post.number else post.role
        try:
            metrics = self._metrics[self._posts.index(post)] if self._metrics else None
            return Child(
                ("perdure.cli.serve", title, options.target),
                options.to_line(),
                {"--listen": None if post.role == "state" else self._bound, "--metrics": metrics},
                place,
            )
        except OSError:
            self._places.give_back(place)
            raise

    def _greet_once(self) -> None:
        if not self._has_greeted and all(post.was_ready for post in self._posts):
            self._has_greeted = True
            told = greeting(self._options, self._bound, self._metrics, self._layout)
            print(told, flush=True)  # noqa: T201

    # -- waiting ---------------------------------------------------------------------------------

    def _processes(self) -> list[Child]:
        return [child for post in self._posts for child in post.processes()]

    def _patience_s(self) -> float | None:
        waits = [post.due_in_s() for post in self._vacant()]
        if self._roll_out is not None:
            waits.append(_ROLL_OUT_POLL_S)
        return min(waits, default=None)

    def _on_signal(self, number: signal.Signals) -> None:
        if number == signal.SIGHUP and self._had_terminal and not has_terminal():
            number = signal.SIGTERM  # it was closed, and nobody else could end us any more
        if number == signal.SIGHUP:
            self._is_roll_out_due = True
        elif number != signal.SIGCHLD:
            self._stop(number)

    # -- deaths ----------------------------------------------------------------------------------

    def _on_end(self, post: Post, child: Child, end: End | None) -> None:
        self._places.give_back(child.place)
        if self._stopped_by is not None:
            self._exit_code = self._exit_code or _exit_code(post.last_code)
        elif end is not None:
            self._on_death(post, end)
        elif child.is_ready and post.last_code:
            self._warn("%s died while it left (%s)", post.name, how(post.last_code))

    def _on_death(self, post: Post, end: End) -> None:
        pause_s = end.pause_s
        if end.code == 0 and not self._layout.is_one:
            pause_s = 0.0  # somebody has ended this one; who wants to end all tells us
        if pause_s is None and post.child is None:
            if not self._has_others_like(post):
                if end.has_given_up:
                    self._warn(
                        "%s died (%s), giving up after %d starts",
                        post.name,
                        how(end.code),
                        ATTEMPTS_MAX,
                    )
                self._exit_code = _exit_code(end.code)
                self._stop(signal.SIGTERM)
                return
            pause_s = post.retry_later()
        fields = {"pause_s": pause_s} if pause_s else {}
        self._warn("%s died (%s), starting again", post.name, how(end.code), **fields)

    def _has_others_like(self, post: Post) -> bool:
        return any(
            other.is_ready for other in self._posts if other.role == post.role and other is not post
        )

    # -- new code --------------------------------------------------------------------------------

    def _advance_roll_out(self) -> None:
        self._step_roll_out()
        if self._roll_out is None and self._is_roll_out_due and self._has_greeted:
            self._is_roll_out_due = False
            self._inform("replacing all processes")
            self._roll_out = roll_out(self._posts)
            self._step_roll_out()

    def _step_roll_out(self) -> None:
        if self._roll_out is None:
            return
        try:
            next(self._roll_out)
        except StopIteration:
            self._roll_out = None
            self._inform("all processes are replaced")
        except NotStartedError as error:
            self._roll_out = None
            self._warn("the roll-out ended: %s; what was not replaced stays", error)

    # -- stopping --------------------------------------------------------------------------------

    def _stop(self, number: signal.Signals) -> None:
        if self._stopped_by is not None:
            for child in self._processes():
                child.kill()
            return
        self._stopped_by = number
        if self._bound is not None:
            self._bound.close()  # who comes when the children take no more is refused
        for one in self._metrics:
            one.close()

    def _has_stopped(self) -> bool:
        """Whether all have left; tells those to leave whose turn it is."""
        assert self._stopped_by is not None
        webs = [post for post in self._posts if post.role == "web"]
        for posts in (webs, self._posts):
            processes = [child for post in posts for child in post.processes()]
            for child in processes:
                if not child.is_told_to_leave:
                    child.tell_to_leave(self._stopped_by)
            if processes:
                return False
        return True

    # -- the log ---------------------------------------------------------------------------------

    def _inform(self, message: str) -> None:
        self._logger().info(message)

    def _warn(self, message: str, *values: object, **fields: Any) -> None:
        self._logger().warning(message, *values, extra=fields)

    def _logger(self) -> Any:
        import logging  # only once there is something to tell

        from perdure.cli.logs import set_up_logs

        set_up_logs(self._options.log_level, self._options.log_format)
        return logging.getLogger("perdure.supervisor")


def _exit_code(code: int) -> int:
    if code == -signal.SIGTERM:
        return 0  # there was no handler for it yet: nothing had begun, nothing is lost
    return code if code >= 0 else 128 - code
