"""Turns with spans: what takes the place of the plain classes where traces are made.

    Cart/add                 the turn: from its arrival at its actor until its answer leaves
     ├ mailbox               it waited for the actor, or for that to load
     ├ …                     what its method does: its calls, messages, and spans of its own
     └ commit                it has ended, and its answer waits at the output gate

`TracedActivation` begins the span, `TracedMethod` makes it the current one while the method runs,
and the turn itself ends it: its class becomes one that does so with its answer. Rejected: to ask at
each answer whether there is a span, which all would pay for who make none; and a second class for
each kind of turn, at each place that makes one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from perdure.actor.activation import Activation
from perdure.actor.locks import JoinedTurn
from perdure.actor.methods import Method
from perdure.actor.model import Actor, current_turn
from perdure.actor.turn import Turn
from perdure.base.trail import tracing

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from perdure.base.tracing import Attributes, Tracing

_PROTOCOLS = {  # by the kind of a span: attributes that tell what a name is of
    "CLIENT": ("rpc.system.name", "rpc.method"),
    "SERVER": ("rpc.system.name", "rpc.method"),
    "PRODUCER": ("messaging.system", "messaging.destination.name"),
    "CONSUMER": ("messaging.system", "messaging.destination.name"),
}


class TurnTrace:
    """The spans of one turn while they are recorded."""

    __slots__ = ("began_ns", "commit", "ended_ns", "outer", "span")

    def __init__(self, span: "Span", began_ns: int, outer: "TurnTrace | None") -> None:
        self.span = span
        self.began_ns = began_ns
        self.ended_ns = 0  # when its method was done
        self.commit: Span | None = None  # of the group commit that its answer waited for
        self.outer = outer  # of the same turn, which has moved

    def end(self, turn: Turn, error: BaseException | None, ended_ns: int) -> None:
        """The answer has left."""
        spans = _spans()
        turn.trace = None
        if self.commit is not None and self.ended_ns and turn.trail is not None:
            spans.past("commit", turn.trail, (self.ended_ns, ended_ns), self.commit)
        if turn.replayed:
            self.span.set_attribute("perdure.call.replayed", True)
        one: TurnTrace | None = self
        while one is not None:
            spans.end(one.span, error, ended_ns)
            one = one.outer


class TracedActivation(Activation):
    """An actor whose turns have spans."""

    __slots__ = ()

    def submit(self, turn: Turn) -> None:
        if not turn.is_lock:
            begin(turn, turn.span_kind, self.key)
        super().submit(turn)


class TracedMethod(Method):
    """A method that runs in the context of its turn's span."""

    __slots__ = ()

    def start(self, actor: Actor, arguments: Any) -> Any:
        turn = current_turn.get()
        assert turn is not None, "a method was started outside of a turn"
        if isinstance(turn, JoinedTurn):
            return _run_joined(turn, actor, arguments)
        if turn.trace is None and _spans().is_current(turn.trail):
            return self.function(actor, *self.spread(arguments))
        return _run(turn, actor, arguments)


async def _run(turn: Turn, actor: Actor, arguments: Any) -> Any:
    method, spans, trace = turn.method, _spans(), turn.trace
    if trace is not None and turn.queued_s and turn.trail is not None:
        spans.past("mailbox", turn.trail, (trace.began_ns, spans.now_ns()))
    token = spans.attach(turn.trail)
    try:
        return await method.function(actor, *method.spread(arguments))
    finally:
        spans.detach(token)
        if trace is not None:
            trace.ended_ns = spans.now_ns()


async def _run_joined(turn: Turn, actor: Actor, arguments: Any) -> Any:
    """In a transaction: its answer goes to the code that called, when it ends."""
    method, name = turn.method, _name(turn.method)
    told = _attributes(method, "INTERNAL", "transaction")
    with _spans().inside(name, turn.trail, attributes=told) as turn.trail:
        return await method.function(actor, *method.spread(arguments))


def begin(turn: Turn, kind: str, key: str) -> None:
    """Begin a span for a turn that arrives, or, of kind CLIENT, leaves; unless its trace is one
    that is not recorded."""
    trail = turn.trail
    if trail is not None and trail.traceparent and not trail.is_recorded:
        return
    spans, method = _spans(), turn.method
    if trail is None or not trail.traceparent:
        dropped = spans.dropped("" if trail is None else trail.request_id)
        if dropped is not None:
            turn.trail = dropped
            return
    told = _attributes(method, kind, turn.cause)
    if spans.with_keys:
        told = {**told, "perdure.actor.key": key}
    name = f"process {_name(method)}" if kind == "CONSUMER" else _name(method)
    began_ns, is_linked = spans.now_ns(), kind == "CONSUMER"
    span = spans.begin(name, trail, kind, told, is_linked=is_linked, began_ns=began_ns)
    # also if it is not recorded: what hangs below it must not be either
    turn.trail = spans.trail_of(span, "" if trail is None else trail.request_id)
    if span.is_recording():
        turn.trace = TurnTrace(span, began_ns, turn.trace)
        turn.__class__ = _traced_form(type(turn))


@cache
def _traced_form(kind: type[Any]) -> type[Any]:
    """The same kind of turn, whose answer ends its span."""
    if hasattr(kind, "ends_span"):
        return kind

    class Traced(kind):  # type: ignore[misc]
        ends_span = True

        def succeed(self, body: bytes) -> None:
            with _answering(self, None):
                super().succeed(body)

        def fail(self, error: BaseException) -> None:
            with _answering(self, error):
                super().fail(error)

    Traced.__name__ = kind.__name__
    return Traced


@contextmanager
def _answering(turn: Turn, error: BaseException | None) -> Iterator[None]:
    trace, ended_ns = turn.trace, _spans().now_ns()
    try:
        yield
    finally:
        if trace is not None and turn.trace is trace:  # else it was sent elsewhere instead
            trace.end(turn, error, ended_ns)


def _spans() -> "Tracing":
    spans = tracing()
    assert spans is not None, "the classes that make spans are used, and nothing makes them"
    return spans


@cache
def _name(method: Method) -> str:
    return f"{method.actor_type.actor_class.__name__}/{method.name}"


@cache
def _attributes(method: Method, kind: str, cause: str) -> "Attributes":
    told: Attributes = {
        "perdure.actor.type": method.actor_type.actor_class.__name__,
        "perdure.actor.method": method.name,
        "perdure.turn.cause": cause,
    }
    if kind in _PROTOCOLS:
        system, of = _PROTOCOLS[kind]
        told |= {system: "perdure", of: _name(method)}
    return told
