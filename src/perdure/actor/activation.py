"""One awake actor: its memory, its mailbox, and the rules by which its turns run.

States: *loading* (turns wait in the mailbox) → *live* → *dead*. A failed load or commit kills the
activation: it is thrown away, never repaired, and the next call wakes the actor from the store. An
actor that forgets itself is loading again until its row is gone, and then starts from its defaults.

Invariants:
- at most one turn holds the actor; interleaving turns share it, stretch by stretch;
- `encoded` is the state after the last turn that ended, so an exception is undone by decoding it;
- a state is committed only after it was decoded again: what is stored can always be read back;
- effects join the commit that takes the state, or are gone with the turn;
- no answer leaves while a commit that its turn could have seen is not durable.
"""

import asyncio
import logging
import math
from collections import deque
from collections.abc import Awaitable, Iterable, Mapping
from typing import Any

from perdure.actor.answers import encoded_by, newer_state, read_back, record_of, reply_of
from perdure.actor.effects import Effects, EntryName
from perdure.actor.gate import GroupCommit
from perdure.actor.host import Host, Watcher
from perdure.actor.interleaving import Stretches
from perdure.actor.methods import ActorType
from perdure.actor.model import Actor, current_turn
from perdure.actor.turn import Turn
from perdure.base import points
from perdure.base.codec import encode
from perdure.base.errors import (
    DeadlineError,
    FencedError,
    OverloadedError,
    PerdureError,
    ReadOnlyError,
    RequestReusedError,
    RequestRunningError,
    StateTooLargeError,
    StoppingError,
    StoreError,
)
from perdure.base.limits import Limits
from perdure.base.shards import shard_of
from perdure.store.api import RequestRecord, StoredActor, Timer

log = logging.getLogger("perdure.actor")


class Activation:
    """An actor in memory. All its methods run on the event loop's thread."""

    is_guest = False  # another process owns it; see `guest`

    __slots__ = (
        "_host",
        "_mailbox",
        "_warned",
        "actor",
        "actor_type",
        "away",
        "commit",
        "dead",
        "encoded",
        "entries",
        "flush_due_s",
        "forgetting",
        "key",
        "loading",
        "newer",
        "records",
        "relaxed",
        "resuming",
        "running",
        "shard",
        "sharing",
        "timers",
        "touched",
        "updated_at_ms",
        "version",
        "watcher",
    )

    def __init__(self, host: Host, actor_type: ActorType, key: str) -> None:
        self._host = host
        self.actor_type = actor_type
        self.key = key
        self.shard = shard_of(key)
        self.actor: Actor = None  # type: ignore[assignment]  # set by `wake`
        self.encoded = b""
        self.version = 0  # of the newest commit that holds it, durable or not
        self.commit: GroupCommit | None = None  # the newest not yet durable commit with a state
        self.newer = False  # newer code wrote the state: it may be read, not written
        self.loading = True
        self.dead: BaseException | None = None
        self.running: Turn | None = None  # the turn that holds the actor
        self.sharing = 0  # interleaving turns under way
        self.away: list[Turn] | None = None  # let others go first, and will come back
        self.resuming: deque[tuple[Turn, asyncio.Future[None]]] | None = None  # want to go on
        self.relaxed = False  # `encoded` is ahead of every commit
        self.flush_due_s = 0.0  # when the flush that was asked for comes; past: there is none
        self.records: dict[str, RequestRecord] | None = None  # answers not yet durable
        self.timers: dict[str, Timer] | None = None  # set ones, durable or not; most have none
        self.entries: dict[EntryName, tuple[GroupCommit, bytes | None]] | None = None
        """Entries of collections that are not yet durable."""
        self.forgetting: GroupCommit | None = None  # the commit that takes the actor away
        self.updated_at_ms = 0  # of the newest durable commit
        self.touched = True  # since the last sweep
        self.watcher: Watcher | None = None
        self._mailbox: deque[Turn] | None = None  # most actors never need one
        self._warned = False

    def __str__(self) -> str:
        return f"{self.actor_type.actor_class.__name__}({self.key!r})"

    @property
    def host(self) -> Host:
        """The process it lives in."""
        return self._host

    @property
    def limits(self) -> Limits:
        """The bounds of the process it lives in."""
        return self._host.limits

    @property
    def outlets(self) -> Mapping[str, Any]:
        """The outlets of its App, by name."""
        return self._host.outlets

    def wall_ms(self) -> int:
        """The time by the clock on the wall, in milliseconds since 1970."""
        return self._host.wall_ms()

    # -- life ------------------------------------------------------------------------------------

    def wake(self, stored: StoredActor | None) -> None:
        """Take the loaded state, or the defaults, and run what waits. Raises StoreFormatError."""
        if stored is None:
            self.actor = self.actor_type.actor_class()
            self.encoded = encode(self.actor)
            self.updated_at_ms = self._host.wall_ms()
        else:
            self.actor, self.newer = self.actor_type.decode_stored(stored)
            # not the stored bytes: fields that were added since would look like a change
            self.encoded = encode(self.actor)
            self.version = stored.version
            self.updated_at_ms = stored.updated_at_ms
            if stored.timers:
                self.timers = {timer.name: timer for timer in stored.timers}
        self.loading = False
        self._run_mailbox()

    def kill(self, error: BaseException) -> None:
        """Throw the activation away; everyone who waits in the mailbox is told why."""
        self.dead = error
        waiting, self._mailbox = self._mailbox, None
        for turn in waiting or ():
            turn.fail(error)
        if self.watcher is not None:
            self.watcher.changed()

    @property
    def is_idle(self) -> bool:
        """True when nothing runs, waits, or is on its way to the store: it may leave memory."""
        return (
            self.running is None
            and not self.sharing
            and not self._mailbox
            and self.commit is None
            and not self.loading
            and not self.relaxed
        )

    # -- taking turns ----------------------------------------------------------------------------

    def submit(self, turn: Turn) -> None:
        """Run the turn now, or put it in the mailbox; fails it when the mailbox is full."""
        turn.activation = self
        self.touched = True
        if turn.request_id is not None and self._is_running(turn.request_id):
            turn.fail(RequestRunningError(f"{turn}: a call with this idempotency key is under way"))
            return
        if self.running is None and not self._mailbox and not self.loading:
            self._run(turn)
            return
        if self.dead is not None:  # it could not be loaded
            turn.fail(self.dead)
            return
        if self._mailbox is None:
            self._mailbox = deque()
        if len(self._mailbox) >= self._host.limits.mailbox_depth_max:
            turn.fail(OverloadedError(f"{len(self._mailbox)} calls already wait for {self}"))
            return
        turn.queued_s = self._host.now_s()
        self._mailbox.append(turn)

    def _run_mailbox(self) -> None:
        while self._mailbox and self.running is None and self.dead is None and not self.loading:
            turn = self._mailbox.popleft()
            now_s = self._host.now_s()
            self._host.measures.waited.add(now_s - turn.queued_s)
            if turn.deadline_s <= now_s:
                turn.fail(DeadlineError(f"{turn} waited past its deadline; it was not begun"))
            else:
                self._run(turn)

    def _run(self, turn: Turn) -> None:
        asking: Awaitable[RequestRecord | None] | None = None
        if turn.request_id is not None or turn.asks_first:
            try:
                known = None if turn.request_id is None else self._find_record(turn.request_id)
                if isinstance(known, RequestRecord):
                    self._answer_again(turn, known)
                    return
                asking = known
                if asking is None and turn.asks_first and not turn.begin():
                    return
            except PerdureError as error:
                self._answer(turn, error)  # like all that may rest on what is not durable
                return
        turn.method.begun += 1
        if turn.method.can_wait or asking is not None:
            if turn.holds_alone:
                self.running = turn
            elif self.sharing >= self._host.limits.mailbox_depth_max:
                turn.fail(
                    OverloadedError(f"{self.sharing} interleaving turns already share {self}")
                )
                return
            else:
                self.sharing += 1
            self._host.spawn(self._run_waiting(turn, asking))
            return
        token = current_turn.set(turn)
        try:
            turn.method.start(self.actor, turn.arguments).send(None)
        except StopIteration as stop:
            self._finish(turn, stop.value)
        except BaseException as error:
            self._undo(turn, error)
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
        finally:
            current_turn.reset(token)
            turn.finished = True

    async def _run_waiting(
        self, turn: Turn, asking: Awaitable[RequestRecord | None] | None
    ) -> None:
        """Run a turn that may suspend, as a task of its own; `asking` says if it ran before."""
        interleaved, began_s = not turn.holds_alone, self._host.now_s()
        current_turn.set(turn)
        try:
            async with asyncio.timeout(max(turn.deadline_s - self._host.now_s(), 0)) as timeout:
                if asking is not None and await self._is_answered(turn, asking):
                    return
                work = turn.method.start(self.actor, turn.arguments)
                try:
                    result = await (Stretches(self, turn, work) if interleaved else work)
                except Exception as error:
                    if turn.transaction is not None:
                        await turn.transaction.give_up(error)
                    raise
            if turn.transaction is not None:
                turn.transaction.end_turn()
            self._finish(turn, result)
        except TimeoutError as error:
            # not the method's own TimeoutError, and not by the clock: timers may be early by a tick
            late = timeout.expired()
            self._undo(turn, DeadlineError(f"{turn} ran past its deadline") if late else error)
        except asyncio.CancelledError:
            self._undo(turn, StoppingError(f"{turn} was cut off: the process is stopping"))
        except BaseException as error:
            self._undo(turn, error)
            if not isinstance(error, Exception):
                raise
        finally:
            turn.finished = True
            self._host.measures.waiting_turns[turn.method].add(self._host.now_s() - began_s)
            if turn.transaction is not None:
                turn.transaction.roll_back()  # it has not come to its commit
            if interleaved:
                self.sharing -= 1
            if self.running is turn:
                self.release()

    async def _is_answered(self, turn: Turn, asking: Awaitable[RequestRecord | None]) -> bool:
        if (record := await asking) is None:
            return turn.asks_first and not turn.begin()
        self._answer_again(turn, record)
        return True

    def release(self) -> None:
        """The actor is free: hand it to an interleaving turn that wants to go on, else to the next
        call. Handed over, not merely announced: a busy mailbox would starve the former."""
        self.running = None
        while self.resuming:
            turn, waiter = self.resuming.popleft()
            if not waiter.done():  # done: its turn was cancelled
                self.running = turn
                waiter.set_result(None)
                return
        self._run_mailbox()

    def refuse_sharing(self, turn: Turn) -> None:
        """Raise ReadOnlyError when other turns share the actor, which then cannot go away."""
        if self.sharing:
            raise ReadOnlyError(f"{turn} shares {self} with interleaving turns: it cannot go now")

    # -- ending turns ----------------------------------------------------------------------------

    def _finish(self, turn: Turn, result: Any) -> None:
        points.reach("after_turn")
        try:
            body = encoded_by(turn, result)
            written = self._take_state(turn)
        except PerdureError as error:
            self._undo(turn, error)
            return
        if self.dead is not None:
            turn.fail(self.dead)
        elif turn.request_id is not None or turn.effects is not None:
            commit = self._join_commit(turn.effects)
            if turn.request_id is not None:
                self.remember(commit, record_of(turn, turn.request_id, body))
            if turn.transaction is not None:
                turn.transaction.join(commit)
            commit.hold_written(turn, body)
        elif written and turn.method.options.loss_max_s is not None:
            self._flush_within(turn.method.options.loss_max_s)
            if self.commit is not None:
                self.commit.hold(turn, body)  # relaxed is its own change, not what others wrote
            else:
                self._answer(turn, body)
        elif written or (self.relaxed and not turn.method.read):
            self._join_commit().hold_written(turn, body)
        else:
            self._answer(turn, body)

    def _answer(self, turn: Turn, answer: bytes | BaseException) -> None:
        """Give an answer that wrote nothing: at the gate, if it may have seen what is not durable.

        Without a commit no fence has said that the memory it rests on is still the newest, so the
        lease must: it held until now, so nobody else can have written before this turn ended.
        """
        if self.commit is not None:
            self.commit.hold(turn, answer)
            return
        lease_until_s = self._host.lease_until_s
        if lease_until_s != math.inf and self._host.now_s() >= lease_until_s:
            answer = FencedError(f"{turn}: the lease of this process is over")
        points.reach("after_lease_check")
        if isinstance(answer, bytes):
            turn.succeed(answer)
        else:
            turn.fail(answer)

    def end_stretch(self, turn: Turn) -> None:
        """An interleaving turn pauses: commit what it did since its last pause."""
        self._refuse_if_dead()  # its version may fit the store, but its memory never was true
        effects = turn.effects
        if effects is not None and effects.forget:
            return  # there is nothing to keep of an actor that goes when its turn ends
        if self._take_state(turn) or effects is not None:
            turn.effects = None
            self._join_commit(effects).hold_begun(turn)

    def _take_state(self, turn: Turn) -> bool:
        """Make the actor's memory the state to commit; returns whether it changed."""
        encoded = encoded_by(turn, self.actor)
        if self.newer and (turn.request_id or turn.effects or encoded != self.encoded):
            raise newer_state(self)  # here, where the turn can be undone
        if turn.effects is not None and turn.method.read:
            raise ReadOnlyError(f"{turn} is a @read method, but it had effects")
        if encoded == self.encoded:
            return self.actor_type.ttl_ms is not None and self._is_touch_due(self.actor_type.ttl_ms)
        if turn.method.read:
            raise ReadOnlyError(f"{turn} is a @read method, but it changed the state")
        limits = self._host.limits
        if len(encoded) > limits.state_bytes_warn:
            self._check_size(turn, len(encoded))
        decoded = read_back(turn, encoded)
        if self.actor_type.check is not None:
            self.actor_type.check(decoded)
        self.encoded = encoded
        return True

    def _check_size(self, turn: Turn, size: int) -> None:
        limit = self._host.limits.state_bytes_max
        if size > limit:
            raise StateTooLargeError(f"{turn}: the state has {size} bytes; at most {limit} fit")
        if not self._warned:
            self._warned = True
            log.warning("large state", extra={"actor": str(self), "state_bytes": size})

    def _is_touch_due(self, ttl_ms: int) -> bool:
        """A call keeps an actor from expiring. Writing that down at most ten times per life costs
        little; a write for every read would not."""
        age_ms = self._host.wall_ms() - self.updated_at_ms
        return age_ms > ttl_ms // 10 and not self.newer

    def _undo(self, turn: Turn, error: BaseException) -> None:
        """Put memory back to before the turn, and let the error out through the gate."""
        turn.effects = None
        self._host.measures.failed[turn.method] += 1
        if self.dead is None:
            if self.running is None or self.running is turn:
                self._restore()  # else the actor is another's, whose half-done work must stay
            self._answer(turn, error)  # the refusal, too, may rest on what is not durable
        else:
            turn.fail(error)

    def _restore(self) -> None:
        """Decode the last good state into the same object, which interleaving turns still hold."""
        before = self.actor_type.decode_state(self.encoded)
        self._put_back(before)
        # encoded anew: a set may come back in another order, which the next read would seem to
        # have changed
        self.encoded = encode(before)

    def _put_back(self, before: Actor) -> None:
        for field in before.__struct_fields__:
            setattr(self.actor, field, getattr(before, field))

    # -- committing ------------------------------------------------------------------------------

    def _join_commit(self, effects: Effects | None = None) -> GroupCommit:
        """Put the state, and effects, into the group commit that is filling up.

        Raises NewerStateError.
        """
        if self.newer:
            raise newer_state(self)  # for paths that do not come by `_take_state`
        commit = self._host.join_commit()
        if self.commit is not commit:
            self.commit = commit
            self.version += 1
        commit.states[self] = self.encoded
        self.relaxed = False
        if effects is not None:
            self._join_effects(commit, effects)
        return commit

    def _join_effects(self, commit: GroupCommit, effects: Effects) -> None:
        for message in effects.sent:
            commit.sent.append((self, message))
        if effects.taken is not None:
            commit.taken.append((self, effects.taken))
        if effects.forget:
            commit.states[self] = None
            commit.drop_effects_on(self)
            self.loading = True  # until its row is gone, what arrives waits
            self.forgetting = commit
            return
        for name, timer in effects.timers.items():
            self.put_timer(commit, name, timer)
        if effects.entries:
            if self.entries is None:
                self.entries = {}
            for entry_name, value in effects.entries.items():
                commit.entries[self, entry_name] = value
                self.entries[entry_name] = (commit, value)

    def put_timer(self, commit: GroupCommit, name: str, timer: Timer | None) -> None:
        """Set a timer, or cancel it, along with a commit."""
        commit.timers[self, name] = timer
        if timer is not None:
            if self.timers is None:
                self.timers = {}
            self.timers[name] = timer
        elif self.timers is not None:
            self.timers.pop(name, None)

    def committed(self, commit: GroupCommit) -> None:
        """`commit`, which held this actor, is durable."""
        self.updated_at_ms = commit.at_ms
        if self.commit is commit:
            self.commit = None
            self.records = None
        if self.entries:
            self.entries = {at: item for at, item in self.entries.items() if item[0] is not commit}
        if self.forgetting is commit:
            self._start_anew()
        if self.watcher is not None:
            self.watcher.changed()

    def _start_anew(self) -> None:
        """The row is gone: be as an actor that never was."""
        self.version = 0
        self.timers = self.entries = self.forgetting = None
        self.encoded = encode(self.actor_type.actor_class())
        self._restore()
        self.loading = False
        self._run_mailbox()

    def _flush_within(self, loss_max_s: float) -> None:
        """See that what a relaxed turn changed is committed in time: one flush for many turns."""
        self.relaxed = True
        now_s = self._host.now_s()
        if self.flush_due_s <= now_s or now_s + loss_max_s < self.flush_due_s:
            self.flush_due_s = now_s + loss_max_s
            self._host.flush_later(self, loss_max_s)

    def flush(self) -> None:
        """Commit what relaxed turns have changed."""
        self.flush_due_s = 0.0  # not by the clock: this timer may have come a tick early
        if self.relaxed and self.dead is None:
            self._join_commit()

    async def save(self, turn: Turn) -> None:
        """Commit the state in the middle of a turn."""
        if turn.transaction is not None:
            turn.transaction.save(turn)
        else:
            self.end_stretch(turn)
        await self.durable()

    async def durable(self) -> None:
        """Wait until everything that turns of this actor did so far is durable."""
        self._refuse_if_dead()
        if self.commit is not None:
            waiter = asyncio.get_running_loop().create_future()
            self.commit.hold_future(waiter, self)
            await waiter

    def _refuse_if_dead(self) -> None:
        if self.dead is not None:
            raise StoreError(f"{self} was thrown away: {self.dead}") from self.dead

    # -- idempotency -----------------------------------------------------------------------------

    def _is_running(self, request_id: str) -> bool:
        running = self.running
        return (running is not None and running.request_id == request_id) or (
            any(turn.request_id == request_id for turn in self._mailbox or ())
            or any(turn.request_id == request_id for turn in self.away or ())
        )

    def _find_record(
        self, request_id: str
    ) -> RequestRecord | Awaitable[RequestRecord | None] | None:
        """What was answered under this idempotency key, durable or not yet."""
        record = self.records.get(request_id) if self.records else None
        return record or self._host.find_request(self, request_id)

    def remember(self, commit: GroupCommit, record: RequestRecord) -> None:
        """Commit an answer with the state, so that both are there or neither."""
        commit.records.append((self, record))
        if self.records is None:
            self.records = {}
        self.records[record.request_id] = record

    def _answer_again(self, turn: Turn, record: RequestRecord) -> None:
        """Give the answer that this idempotency key got, unless it came with another request."""
        self._refuse_if_dead()  # the gate that it would wait at has broken already
        turn.replayed = True
        answer: bytes | BaseException
        try:
            answer = reply_of(record, turn)
        except RequestReusedError as error:
            answer = error
        self._answer(turn, answer)

    # -- transactions ----------------------------------------------------------------------------

    async def answer_before(self, turn: Turn, request_id: str) -> bytes | None:
        """What this idempotency key was answered; raises RequestReusedError if it was another's."""
        found = self._find_record(request_id)
        record = found if found is None or isinstance(found, RequestRecord) else await found
        return None if record is None else reply_of(record, turn)

    def end_call(self, turn: Turn, result: Any) -> tuple[bytes, bool]:
        """End one call of a transaction: its result as JSON, and whether it changed anything."""
        return encoded_by(turn, result), self._take_state(turn)

    def snapshot(self, turn: Turn) -> bytes:
        """The state as it is in the middle of a turn, to come back to; raises UnencodableError."""
        encoded = encoded_by(turn, self.actor)
        read_back(turn, encoded)
        return encoded

    def put_back(self, encoded: bytes) -> None:
        """Let memory be as it was when it was encoded so, in the middle of a turn."""
        self._put_back(self.actor_type.decode_state(encoded))

    def restore(self, encoded: bytes | None = None) -> None:
        """Go back to the state after the last call that ended, or to the one given."""
        if encoded is not None:
            self.encoded = encoded
        self._restore()

    def join(self, turn: Turn, records: Iterable[RequestRecord] = ()) -> None:
        """Put the state, and what the turn lets out, into the group commit."""
        effects, turn.effects = turn.effects, None
        commit = self._join_commit(effects)
        for record in records:
            self.remember(commit, record)
