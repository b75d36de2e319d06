"""A roll-out: new code in one process after the other, while all the others serve.

    for each post:  start the successor with the code that is there now
                    → it is ready; or, where only one may own the actors, it stands by
                    → the one before leaves, as gracefully as on SIGTERM
                    → it has left, and the successor serves: go on with the next post

Owners come first, as they do when everything starts: a web process may call what is new in them.
A successor that does not start ends the roll-out, and everything that was not replaced stays.
"""

import time
from collections.abc import Iterator, Sequence

from perdure.cli.child import Child
from perdure.cli.post import Post, how

START_MAX_S = 120.0  # for a successor to get ready; its app may load a lot
# For the one before to leave. It has limits of its own, of which we know nothing here; this one is
# for a process that hears nothing any more, such as one with an endless loop in a method.
LEAVE_MAX_S = 600.0


class NotStartedError(Exception):
    """Raised when a successor did not start: what and why."""


def roll_out(posts: Sequence[Post]) -> Iterator[None]:
    """Replace them; gives control back wherever there is something to wait for.

    Raises NotStartedError.
    """
    for post in posts:
        is_gentle = post.is_ready  # else it serves nobody
        try:
            new = post.start_successor() if is_gentle else post.start_anew()
        except OSError as error:
            raise NotStartedError(f"{post.name} did not start ({error.strerror})") from error
        if is_gentle:
            yield from _until_fit(post, new)
            if post.child is not new:
                post.hand_over()
        yield from _until_settled(post, new)


def _until_fit(post: Post, new: Child) -> Iterator[None]:
    """Wait until the successor is fit, or has got the post already, since its holder died."""
    while not post.is_successor_fit() and post.child is not new:
        if post.successor is not new:
            raise NotStartedError(f"{post.name} did not start ({how(post.last_code)})")
        if time.monotonic() - new.began_s > START_MAX_S:
            new.kill()
            raise NotStartedError(f"{post.name} was not ready after {START_MAX_S:g} s")
        yield


def _until_settled(post: Post, new: Child) -> Iterator[None]:
    """Wait until the successor serves, and the one before has left."""
    end_s = time.monotonic() + LEAVE_MAX_S
    while not post.is_settled:
        if post.child is not new:
            raise NotStartedError(f"{post.name} did not last ({how(post.last_code)})")
        if time.monotonic() > end_s:
            post.kill_leaving()
        yield
