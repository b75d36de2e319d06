"""Rate limits over all processes: who counts for a caller, and what becomes of it if nobody can.

The subjects of rates (callers, addresses) fall into buckets. A bucket is an actor of a class of our
own, so one process owns it, calls find it, and it moves and is taken over as any other. It has no
state: its owner keeps the counters, in memory, since a commit for each request would cost more than
most requests. So a count begins anew when the bucket gets another owner, or its process is started
anew: at most one burst more each time.

here       this process owns the bucket, or all there are: a few dictionary look-ups, no turn
refused    another process said no a moment ago: until when is remembered, and it is not asked again
elsewhere  the owner is asked; a request that it has counted and whose answer is lost counts again
alone      the owner has not answered within `rate_wait_s`: this process counts for itself, until it
           does. Refusing was rejected: a limit must not take more down than what it protects.

So while a bucket's owner is away a caller may have as many bursts as there are processes that take
requests; else burst + t / interval in any t seconds, all processes together.
"""

import asyncio
from collections.abc import Sequence
from typing import Protocol, cast

import xxhash

from perdure.actor.methods import ActorType, Method
from perdure.actor.model import Actor, read, running_turn
from perdure.actor.trail import trail_here
from perdure.actor.turn import Turn
from perdure.base.codec import decoder
from perdure.base.errors import PerdureError
from perdure.base.gcra import NS_PER_S, Counters, Policy, Table, Verdict
from perdure.base.limits import Limits
from perdure.base.metrics import Family, counter, gauge

_KEYS = tuple(map(str, range(1024)))  # of buckets: some for each owner, few enough to be awake

_decode_verdict = decoder(Verdict).decode


class CountsRates(Protocol):
    """The node, or the gateway."""

    limits: Limits
    counters: Counters

    @property
    def counts_all(self) -> bool:
        """True if all buckets are counted in this process, always."""
        ...

    def counts_here(self, key: str) -> bool:
        """True if the bucket with this key is counted in this process now."""
        ...

    def now_s(self) -> float:
        """Monotonic seconds."""
        ...

    def submit(self, actor_type: ActorType, key: str, turn: Turn) -> None:
        """Take one call."""
        ...


class RateBucket(Actor):
    """Counts for the subjects of one bucket, in the memory of its owner."""

    @read
    async def take(self, subject: str, policies: list[Policy]) -> Verdict:
        counters, now_ns = _counters_here()
        return counters.decide(subject, policies, now_ns)

    @read
    async def give_back(self, subject: str, policies: list[Policy]) -> None:
        counters, now_ns = _counters_here()
        counters.give_back(subject, policies, now_ns)


BUCKETS = ActorType(RateBucket, own_name="perdure_rates")
_TAKE, _GIVE_BACK = BUCKETS.methods["take"], BUCKETS.methods["give_back"]


class Rates:
    """The rate limits of one process, as its routes ask them."""

    def __init__(self, node: CountsRates) -> None:
        self._node = node
        self._counters = node.counters
        self._now_s = node.now_s
        self._counts_all = node.counts_all
        self._refused: dict[str, Table] = {}  # until when, by policy
        self._silent: set[str] = set()  # buckets whose owner owes an answer for too long
        self._refusals: dict[str, int] = {}
        self._alone = 0

    def take(self, subject: str, policies: Sequence[Policy]) -> Verdict | None:
        """Decide on a request at once; None if another process must be asked."""
        now_ns = int(self._now_s() * NS_PER_S)
        if self._counts_all:
            return self._counters.decide(subject, policies, now_ns)
        key = _key_of(subject)
        if self._node.counts_here(key):
            return self._counters.decide(subject, policies, now_ns)
        for place, one in enumerate(policies):
            refused = self._refused.get(one.name)
            if refused is not None and (until_ns := refused.time_ns(subject, 0)) > now_ns:
                ahead_ns = [0] * len(policies)
                ahead_ns[place] = one.burst_ns - one.interval_ns + until_ns - now_ns
                return Verdict(False, ahead_ns)
        return self._decide_alone(subject, policies) if key in self._silent else None

    async def ask(self, subject: str, policies: Sequence[Policy]) -> Verdict:
        """Let the process decide that counts for this subject."""
        key = _key_of(subject)
        turn = self._submit(_TAKE, key, subject, policies)
        try:
            done, _ = await asyncio.wait((turn.answer,), timeout=self._node.limits.rate_wait_s)
            if not done:
                self._silent.add(key)
                turn.answer.add_done_callback(lambda _: self._silent.discard(key))
                return self._decide_alone(subject, policies)
            verdict: Verdict = _decode_verdict(turn.answer.result())
        except PerdureError:  # nobody can be reached, or it is of an older release
            return self._decide_alone(subject, policies)
        if not verdict.allowed:
            self._remember(subject, policies, verdict)
        verdict.is_from_afar = True
        return verdict

    def give_back(self, subject: str, policies: Sequence[Policy], verdict: Verdict) -> None:
        """A request that was counted is refused after all, under another policy."""
        if verdict.is_from_afar:  # should it get lost, its caller has one less for a while
            self._submit(_GIVE_BACK, _key_of(subject), subject, policies)
        else:
            self._counters.give_back(subject, policies, int(self._now_s() * NS_PER_S))

    def count_refusal(self, name: str) -> None:
        """A request was refused under this policy."""
        self._refusals[name] = self._refusals.get(name, 0) + 1

    def families(self) -> list[Family]:
        """What it counted, as Prometheus is told."""
        return [
            Family(
                "perdure_rate_limited",
                "counter",
                "Requests that were refused since they came too fast.",
                [({"rate": name}, count) for name, count in self._refusals.items()],
            ),
            counter(
                "perdure_rate_decided_alone",
                "Requests that were counted here since the process that should could not be asked.",
                self._alone,
            ),
            gauge("perdure_rate_subjects", "Callers whose counts are here.", len(self._counters)),
        ]

    def _submit(
        self, method: Method, key: str, subject: str, policies: Sequence[Policy]
    ) -> "_Asking":
        turn = _Asking(
            method,
            method.arguments_type(subject, list(policies)),
            deadline_s=self._now_s() + self._node.limits.call_timeout_s,
            trail=trail_here(),
            answer=asyncio.get_running_loop().create_future(),
        )
        self._node.submit(BUCKETS, key, turn)
        return turn

    def _decide_alone(self, subject: str, policies: Sequence[Policy]) -> Verdict:
        self._alone += 1
        return self._counters.decide(subject, policies, int(self._now_s() * NS_PER_S))

    def _remember(self, subject: str, policies: Sequence[Policy], verdict: Verdict) -> None:
        now_ns = int(self._now_s() * NS_PER_S)
        for one, ahead_ns in zip(policies, verdict.ahead_ns, strict=True):
            left, wait_ns = one.left(ahead_ns)
            if left == 0:
                table = self._refused.get(one.name)
                if table is None:
                    subjects_max = self._node.limits.rate_subjects_max
                    table = self._refused[one.name] = Table(subjects_max, has_floor=False)
                table.put(subject, now_ns + wait_ns, now_ns)


class _Asking(Turn, kw_only=True):
    """A turn whose answer is waited for as long as it may be, or not at all."""

    answer: "asyncio.Future[bytes]"

    def succeed(self, body: bytes) -> None:
        if not self.answer.done():
            self.answer.set_result(body)

    def fail(self, error: BaseException) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)
            self.answer.exception()  # whoever asked may have gone: then nobody looks at it


def _key_of(subject: str) -> str:
    return _KEYS[xxhash.xxh32_intdigest(subject.encode()) % len(_KEYS)]


def _counters_here() -> tuple[Counters, int]:
    host = cast("CountsRates", running_turn().activation.host)
    return host.counters, int(host.now_s() * NS_PER_S)
