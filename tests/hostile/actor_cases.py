"""The raw cases once more, sent to an actor instead of an ASGI application: the fast path reads
bodies, lengths and ends by itself, and must be as strict."""

from dataclasses import replace

from tests.hostile.cases import Case
from tests.hostile.talk import Outcome

from perdure import Actor, App, expose, read

# A well-formed request that is not for this actor, or brings it what it does not take, is answered
# as strictly as a good one: it was read to its end.
_READ = frozenset((404, 405, 422))


class Counter(Actor):
    """Counts what reaches it."""

    added: int = 0

    @expose
    async def add(self, by: int = 1) -> int:
        self.added += by
        return self.added

    @expose
    @read
    async def view(self, a: str = "") -> int:
        return self.added


def make_app() -> App:
    return App(Counter, store="memory:")


def for_actor(case: Case, key: bytes) -> Case:
    """The same case for an actor's methods, with a body that they take."""
    raw = case.raw.replace(b"GET / ", b"GET /counter/%b/view " % key)
    raw = raw.replace(b" / HTTP", b" /counter/%b/add HTTP" % key)
    return replace(case, raw=raw.replace(b"abc", b"{} "))


def as_read(outcome: Outcome) -> Outcome:
    """The outcome with an answer of the actor's route as a good one, whatever it says."""
    statuses = tuple(200 if status in _READ else status for status in outcome.statuses)
    return replace(outcome, statuses=statuses)
