"""Spans of a process: of its group commits, and of calls that leave it; and when they are made.

    web process                    owner
    POST /cart/{key}/add
     └ Cart/add (CLIENT) ── wire ── Cart/add (SERVER)
                                     ├ commit ┄┄┄┄┄┄┄┄┄ link ┄┄┐
                                     └ group commit   ◄┄┄┄┄┄┄┄┄┘ one of these for many turns

A group commit is one span, with links to the turns that it holds. It hangs below the first of them;
the others' `commit`, the time that their answers waited, is linked with it.
"""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from perdure.actor.gate import GroupCommit
from perdure.actor.methods import ActorType, Method
from perdure.actor.tracing import TracedMethod, begin
from perdure.actor.turn import Turn
from perdure.base.trail import trace_with, tracing
from perdure.runtime.committer import Committer
from perdure.runtime.forwarder import Forwarder, Outgoing
from perdure.store.api import Committed

if TYPE_CHECKING:
    from perdure.base.tracing import Tracing

_LINKS_MAX = 32  # of a group commit: an SDK keeps 128, and a reader fewer

_users = 0  # Apps of this process that run with traces


class TracedCommitter(Committer):
    """A committer whose group commits have spans, if they hold turns that do."""

    async def _put(self, commit: GroupCommit) -> Committed:
        traced = [turn for turn, _ in commit.held if turn.trace is not None]
        spans = tracing()
        if not traced or spans is None or traced[0].trail is None:
            return await super()._put(commit)
        others = [turn.trace.span for turn in traced[1 : _LINKS_MAX + 1] if turn.trace is not None]
        told: dict[str, str | int] = {
            "perdure.commit.turns": len(commit.held),
            "perdure.commit.actors": len(commit.states),
        }
        span, error = spans.commit(traced[0].trail, others, told), None
        try:
            return await super()._put(commit)
        except BaseException as raised:
            error = raised
            raise
        finally:
            spans.end(span, error)
            for turn, _ in commit.held:  # more may have come to its gate
                if turn.trace is not None:
                    turn.trace.commit = span


class TracedForwarder(Forwarder):
    """A forwarder whose calls have spans."""

    def submit(
        self, actor_type: ActorType, key: str, turn: Turn, *, after_pause: bool = False
    ) -> None:
        begin(turn, "CLIENT", key)
        super().submit(actor_type, key, turn, after_pause=after_pause)

    def _mark_again(self, outgoing: Outgoing) -> None:
        super()._mark_again(outgoing)
        trace = outgoing.turn.trace
        if trace is not None:
            outgoing.resends += 1
            trace.span.set_attribute("perdure.call.resend_count", outgoing.resends)


@contextmanager
def traced(actor_types: Iterable[ActorType], *, with_keys: bool) -> Iterator[None]:
    """Make spans while an App with these classes runs, if this process has a provider of them."""
    global _users
    spans = tracing() or _found(with_keys=with_keys)
    if spans is None:
        yield
        return
    methods = [method for actor_type in actor_types for method in _methods(actor_type)]
    _users += 1
    trace_with(spans)
    for method in methods:
        method.__class__ = TracedMethod
    try:
        yield
    finally:
        for method in methods:
            method.__class__ = Method
        _users -= 1
        if not _users:
            trace_with(None)


def _found(*, with_keys: bool) -> "Tracing | None":
    """What the program has set up with OpenTelemetry. Who has not loaded that, has not."""
    api = sys.modules.get("opentelemetry.trace")
    if api is None:
        return None
    provider = api.get_tracer_provider()
    if isinstance(provider, api.ProxyTracerProvider | api.NoOpTracerProvider):
        return None
    from perdure.base.tracing import Tracing  # needs what has just been found

    return Tracing(provider, with_keys=with_keys)


def _methods(actor_type: ActorType) -> Iterator[Method]:
    yield from actor_type.methods.values()
    yield actor_type.on_expire
    if actor_type.live_fields is not None:
        yield actor_type.live_fields
