"""Group commit: all turns that wait, of all actors, in one transaction and one fsync.

While one commit is being written the next one fills up, so the slower the disk, the larger the
groups: throughput does not depend on its latency. Commits are written one after the other, in the
order in which they were begun.

Failure: a commit that failed takes with it every commit behind it, since those may build on states
that will never be. All their activations are thrown away, and all callers get the error.

Refusal: when the store leaves actors out of a commit, because a unique value is another's, they and
those linked with them are thrown away, here and in the commit behind; the others stay.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence

from perdure.actor.activation import Activation
from perdure.actor.gate import GroupCommit
from perdure.base import points
from perdure.base.clock import Clock
from perdure.base.errors import (
    ConflictError,
    FencedError,
    PerdureError,
    StoreBrokenError,
    StoreError,
    UniqueError,
)
from perdure.base.metrics import Family, Histogram, counter, gauge, seconds
from perdure.store.api import Committed, Refusal, Store

log = logging.getLogger("perdure.commit")


class Committer:
    """Writes group commits to the store, in order, and opens their gates."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        on_durable: Callable[[GroupCommit], None],
        on_broken: Callable[[Exception], None],
    ) -> None:
        self._store = store
        self._on_durable = on_durable  # asked for commits that hold messages or timers
        self._clock = clock
        self._on_broken = on_broken
        self._filling: GroupCommit | None = None
        self._wanted = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._run(), name="perdure-committer")
        self._writing: GroupCommit | None = None
        self._stopping = False
        self._life = 0  # how often it fell
        self.commits = 0
        self.turns = 0
        self._failed = 0
        self._refused = 0
        self._took: Histogram = seconds()
        self._sizes = Histogram(last=14)

    def join(self) -> GroupCommit:
        """The commit that is filling up. It will be written as soon as the one before it is."""
        commit = self._filling
        if commit is None:
            commit = self._filling = GroupCommit()
            self._wanted.set()
        return commit

    def has_room(self, turns_max: int) -> bool:
        """False when that many answers wait: for the commit being written and the one filling."""
        filling, writing = self._filling, self._writing  # asked for every call: no loop
        return (
            (0 if filling is None else len(filling.held))
            + (0 if writing is None else len(writing.held))
        ) < turns_max

    def fall(self, error: Exception) -> None:
        """This process may commit no longer what it has begun: break the commit that is filling up.
        The one that is being written fails by itself, and then takes no later one with it."""
        self._life += 1
        commit, self._filling = self._filling, None
        if commit is not None:
            commit.break_with(error)

    async def stop(self) -> None:
        """Write what is left, then end."""
        self._stopping = True
        self._wanted.set()
        await self._task

    async def _run(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            if (commit := self._filling) is None:
                if self._stopping:
                    return
                continue
            await self._let_join(commit)
            if self._filling is commit:  # else it was broken meanwhile
                self._filling, self._writing = None, commit
                await self._write(commit, self._life)
                self._writing = None
            if self._stopping:
                self._wanted.set()

    async def _let_join(self, commit: GroupCommit) -> None:
        """Let the requests that have arrived already run their turns and share this commit.

        A commit costs the same for one turn as for fifty. So while each pass of the event loop
        brings more turns, it waits; an idle server loses one pass, some microseconds.
        """
        for _ in range(self._store.commit_passes_max):
            held = len(commit.held)
            await asyncio.sleep(0)
            if len(commit.held) == held:
                return

    async def _write(self, commit: GroupCommit, life: int) -> None:
        began_s = self._clock.monotonic_s()
        if commit.outside:
            outdone = FencedError("an actor of this transaction is another's by now")
            self._leave_out(commit, dict.fromkeys(commit.outdone(), outdone))
        try:
            points.reach("before_commit")
            committed = await self._put(commit)
        except Exception as error:
            self._fail(commit, error, life)
            return
        self.commits += 1
        self.turns += len(commit.held)
        self._took.add(self._clock.monotonic_s() - began_s)
        self._sizes.add(len(commit.held))
        if committed.refused:
            self._refuse(commit, committed.refused)
        for activation in commit.states:
            activation.committed(commit)
        commit.message_ids = [given for given in committed.message_ids if given]  # 0: left out
        points.reach("before_reply")
        commit.open()
        points.reach("after_reply")
        if commit.sent or commit.timers:
            self._on_durable(commit)

    async def _put(self, commit: GroupCommit) -> Committed:
        """Let the store have it; raises why that failed."""
        return await self._store.commit(commit.batch(self._clock.wall_ms()))

    def _refuse(self, commit: GroupCommit, refusals: Sequence[Refusal]) -> None:
        """Throw away what the store has left out."""
        at = {(one.actor_type.name, one.key): one for one in commit.states}
        why = next((refusal for refusal in refusals if refusal.field), refusals[0])
        errors: dict[Activation, BaseException] = {}
        for refusal in refusals:
            why = refusal if refusal.field else why
            error: PerdureError
            if refusal.is_outdated:
                error = FencedError("an actor of this transaction is another process' by now")
            else:
                error = UniqueError(f"another {why.actor_type} has this {why.field}", why.field)
            errors[at[refusal.actor_type, refusal.key]] = error
        self._leave_out(commit, errors)

    def _leave_out(self, commit: GroupCommit, errors: dict[Activation, BaseException]) -> None:
        """Throw these away, with what is linked with them and what is built on them."""
        self._refused += len(errors)
        commit.leave_out(errors)
        if self._filling is not None:
            self._filling.leave_out(errors)
        for activation in errors:
            if activation.dead is None:
                is_outdated = isinstance(errors[activation], FencedError)
                refused = ConflictError(f"{activation} was thrown away: what it did was refused")
                activation.kill(errors[activation] if is_outdated else refused)

    def _fail(self, commit: GroupCommit, error: Exception, life: int) -> None:
        if not isinstance(error, PerdureError):
            log.exception("commit failed", exc_info=error)
            error = StoreError(f"the commit failed: {error}")
        else:
            log.error("commit failed", extra={"error": str(error), "kind": error.kind})
        self._failed += 1
        lost = [commit]
        is_late = life != self._life  # what is filling up builds on nothing of this one
        if self._filling is not None and not is_late:
            lost.append(self._filling)
            self._filling = None
        for one in lost:
            for activation in one.states:
                if activation.dead is None:
                    activation.kill(error)
        for one in lost:
            one.break_with(error)
        if isinstance(error, StoreBrokenError | FencedError) and not is_late:
            self._on_broken(error)

    def families(self) -> list[Family]:
        """What it counted, as Prometheus is told."""
        commits = (self._filling, self._writing)
        waiting = sum(len(commit.held) for commit in commits if commit is not None)
        return [
            Family(
                "perdure_commit_duration_seconds",
                "histogram",
                "How long the store took for a group commit that succeeded.",
                [({}, self._took)],
            ),
            Family(
                "perdure_commit_turns",
                "histogram",
                "Turns in a group commit whose answers waited for it.",
                [({}, self._sizes)],
            ),
            counter("perdure_commits_failed", "Group commits that failed.", self._failed),
            counter(
                "perdure_commit_refused_actors",
                "Actors left out of a commit, for a unique value that is taken or a lost owner.",
                self._refused,
            ),
            gauge("perdure_uncommitted_turns", "Turns whose answers wait for a commit.", waiting),
        ]
