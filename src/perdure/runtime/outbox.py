"""The outbox: brings committed messages to their receivers, in order, until they arrive.

Each stream (one sender, one receiver) is a *line* with one message under way at a time. A message
is a row from its sender's commit to its receiver's, so a line in memory is only a shortcut:

ready → under way → the next one, or parked when it failed; a parked line holds nothing but the
time at which it will be read from the store again. So a receiver that is down for a day costs
memory for its lines, not for their messages.

Where actors have several owners, a line belongs to the owner of its receiver, and to that of its
sender if it leads to an outlet. The others tell it when they have committed messages for it; it
reads them from the store, in order. What nobody told it finds by looking.

Rejected: sending several messages of a line ahead. It is faster for a single pair, but when the
first of them fails the others must be called back; many pairs share the group commits anyway.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Container, Coroutine, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Protocol

import msgspec

from perdure.actor.activation import Activation
from perdure.actor.effects import effects_of
from perdure.actor.gate import GroupCommit
from perdure.actor.methods import ActorType
from perdure.actor.model import Caller
from perdure.actor.spans import handing_over
from perdure.actor.trail import follow
from perdure.actor.turn import Turn
from perdure.base import points
from perdure.base.clock import Clock
from perdure.base.codec import decoder
from perdure.base.errors import NotFoundError, PerdureError, StoreError
from perdure.base.limits import Limits
from perdure.base.metrics import Family, counter, gauge
from perdure.base.trail import Trail
from perdure.runtime.outlets import Delivery, Outlet
from perdure.store.api import ABROAD, OUTLET, Deferral, Message, Posts, Store, Stream

log = logging.getLogger("perdure.outbox")

_LINE_MAX = 100  # messages of one line in memory; the rest is read when these are done
_LINES_READ = 1_000
_TRAILS_MAX = 10_000  # beyond it the oldest are forgotten: they are for logs and traces only
_LOOK_EVERY_S = 2.0  # for what this process did not send: of before its start, or sent again

_decode_caller = decoder(Caller).decode


class Courier(Protocol):
    """What the outbox needs of its node."""

    limits: Limits

    @property
    def owned(self) -> AbstractSet[int] | None:
        """The shards whose actors are its own; None: all."""
        ...

    def post(self, posts: Posts) -> None:
        """Tell the owners of these streams that there are new messages."""
        ...

    def submit(self, actor_type: ActorType, key: str, turn: Turn) -> None:
        """Take one call."""
        ...

    async def deliver_abroad(self, message: Message) -> None:
        """Let the receiver, in another database, take the message once, however often it comes."""
        ...

    def join_commit(self) -> GroupCommit:
        """The group commit that is filling up."""
        ...

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` as a task that the process keeps a reference to."""
        ...

    def now_s(self) -> float:
        """Monotonic seconds."""
        ...


class _Line:
    """One stream with messages under way."""

    __slots__ = ("after_id", "attempts", "has_more", "is_lost", "is_parked", "messages", "stream")

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.messages: deque[Message] = deque()  # the first is the one under way, or next
        self.has_more = False  # others are in the store
        self.is_parked = False
        self.is_lost = False  # another owns it now
        self.attempts = 0  # of the first, that failed
        self.after_id = 0  # those up to it are done with, though the store may not know it yet


class MessageTurn(Turn, kw_only=True):
    """A turn that delivers a message."""

    is_delivery = asks_first = True
    cause, span_kind = "message", "CONSUMER"

    outbox: "Outbox"
    line: _Line
    message: Message

    def begin(self) -> bool:
        effects_of(self).taken = self.message
        return True

    def succeed(self, _body: bytes) -> None:
        self.outbox.delivered(self.line)

    def fail(self, error: BaseException) -> None:
        self.outbox.failed(self.line, error)


class Outbox:
    """The messages of one node that are under way."""

    def __init__(
        self,
        courier: Courier,
        store: Store,
        clock: Clock,
        actor_types: Iterable[ActorType],
        outlets: Mapping[str, Outlet],
    ) -> None:
        self._courier = courier
        self._store = store
        self._clock = clock
        self._types = {actor_type.name: actor_type for actor_type in actor_types}
        self._outlets = outlets
        self._lines: dict[Stream, _Line] = {}
        self._trails: dict[int, Trail] = {}  # of messages that other processes have committed
        self._ready: deque[_Line] = deque()  # lines that wait for their share of `deliveries_max`
        self._under_way = 0
        self._knows_all_lines = False  # from here on each stream in the store has its line
        self._changes = 0  # of the shards that are its own
        self._stopped = False
        self.delivered_total = 0
        self.dead_letters_total = 0
        self._failed_total = 0

    async def run(self) -> None:
        """Look into the store for messages, again and again."""
        while True:
            await self._look()
            await self._clock.sleep(_LOOK_EVERY_S)

    def stop(self) -> None:
        """Begin no delivery any more; what is left stays in the store."""
        self._stopped = True

    async def _look(self) -> None:
        changes, owned = self._changes, self._courier.owned
        try:
            streams = await self._store.streams(_LINES_READ, owned)
        except StoreError as error:
            log.warning("messages not read", extra={"error": str(error)})
            return
        if changes != self._changes:
            return  # shards came or went meanwhile
        for stream, due_at_ms in streams:
            if (known := self._lines.get(stream)) is not None:
                known.has_more = True  # perhaps: a hint may have been lost
            else:
                line = self._lines[stream] = _Line(stream)
                self._park(line, (due_at_ms - self._clock.wall_ms()) / 1000)
        self._knows_all_lines |= len(streams) < _LINES_READ

    def gained(self) -> None:
        """There are shards whose messages this process has not seen: look for them now."""
        self._changes += 1
        self._knows_all_lines = False
        for line in self._lines.values():
            line.has_more = True  # perhaps: its sender may be one that came here just now
        self._courier.spawn(self._look())

    def lost(self, shards: Container[int]) -> None:
        """Forget the lines of shards that another owns now."""
        self._changes += 1
        for line in [line for line in self._lines.values() if line.stream.shard in shards]:
            line.is_lost = True
            del self._lines[line.stream]
        self._ready = deque(line for line in self._ready if not line.is_lost)

    def look_at(self, stream: Stream, trails: Sequence[tuple[int, Trail]] = ()) -> None:
        """Another process has committed messages for this stream."""
        if trails:
            self._remember(trails)
        line = self._lines.get(stream)
        if line is not None:
            line.has_more = True
        elif self._owns(stream):
            line = self._lines[stream] = _Line(stream)
            self._park(line, 0)

    def _remember(self, trails: Sequence[tuple[int, Trail]]) -> None:
        """Keep what the store does not, until the messages are read from there."""
        self._trails.update(trails)
        while len(self._trails) > _TRAILS_MAX:
            del self._trails[next(iter(self._trails))]

    def _owns(self, stream: Stream) -> bool:
        owned = self._courier.owned
        return owned is None or stream.shard in owned

    def committed(self, commit: GroupCommit) -> None:
        """Take over the messages of a commit that is durable."""
        elsewhere: Posts = {}
        for (_, message), message_id in zip(commit.sent, commit.message_ids, strict=True):
            if message.due_at_ms is None:
                continue  # a dead letter
            if not self._owns(message.stream):
                trails = elsewhere.setdefault(message.stream, [])
                if message.trail is not None:
                    trails.append((message_id, message.trail))
                continue
            line = self._lines.get(message.stream)
            if line is None:
                line = self._lines[message.stream] = _Line(message.stream)
                if self._knows_all_lines:
                    line.messages.append(msgspec.structs.replace(message, id=message_id))
                    self._go_on(line)
                else:
                    self._park(line, 0)  # those of before the start come first
            elif line.is_parked or line.has_more or len(line.messages) >= _LINE_MAX:
                line.has_more = True
            elif message_id > line.messages[-1].id:  # else read before the commit was heard of
                line.messages.append(msgspec.structs.replace(message, id=message_id))
        if elsewhere:
            self._courier.post(elsewhere)

    # -- one line --------------------------------------------------------------------------------

    def _go_on(self, line: _Line) -> None:
        """Deliver the first message of the line as soon as there is room for it."""
        if self._stopped or line.is_lost:
            return
        if self._under_way >= self._courier.limits.deliveries_max:
            self._ready.append(line)
            return
        self._under_way += 1
        points.reach("before_delivery")
        message = line.messages[0]
        if message.stream.receiver_type.startswith(OUTLET):
            self._courier.spawn(self._deliver_outside(line, message))
            return
        try:
            self._submit(line, message)
        except PerdureError as error:
            self.failed(line, error)

    def _submit(self, line: _Line, message: Message) -> None:
        actor_type = self._types.get(message.stream.receiver_type)
        method = actor_type.methods.get(message.method) if actor_type else None
        if actor_type is None or method is None:
            raise NotFoundError(
                f"no class of this App takes {message.stream.receiver_type}.{message.method}"
            )
        caller = None if message.caller is None else _decode_caller(message.caller)
        turn = MessageTurn(
            method,
            method.arguments_from_json(message.arguments),
            deadline_s=self._courier.now_s() + self._courier.limits.call_timeout_s,
            caller=caller,
            trail=message.trail or self._trails.get(message.id),
            outbox=self,
            line=line,
            message=message,
        )
        self._courier.submit(actor_type, message.stream.receiver_key, turn)

    async def _deliver_outside(self, line: _Line, message: Message) -> None:
        """Hand it to its outlet, or to another database, and take it out of the store then."""
        follow(message.trail)
        try:
            if message.stream.receiver_type.startswith(ABROAD):
                await self._courier.deliver_abroad(message)
            else:
                await self._hand_to_outlet(line, message)
            waiter = asyncio.get_running_loop().create_future()
            commit = self._courier.join_commit()
            commit.taken.append((None, message))
            commit.hold_future(waiter)
            await waiter
        except Exception as error:
            self.failed(line, error)
        else:
            self.delivered(line)

    async def _hand_to_outlet(self, line: _Line, message: Message) -> None:
        name = message.stream.receiver_type.removeprefix(OUTLET)
        outlet = self._outlets.get(name)
        if outlet is None:
            raise NotFoundError(f"the App has no outlet {name!r}")
        async with asyncio.timeout(self._courier.limits.call_timeout_s):
            with handing_over(name, message.trail) as trail:
                await outlet(Delivery.of(message, line.attempts, trail))

    def delivered(self, line: _Line) -> None:
        """The first message of the line has arrived, and is gone from the store."""
        self.delivered_total += 1
        if line.is_lost:
            self._make_room()
        else:
            self._next(line)

    def failed(self, line: _Line, error: BaseException) -> None:
        """The first message of the line was tried in vain."""
        if self._stopped:
            return
        if line.is_lost:
            self._make_room()
            return
        message = line.messages[0]
        limits = self._courier.limits
        is_ours = isinstance(error, PerdureError) and error.status == 503  # not the message's fault
        line.attempts = max(line.attempts, message.attempts) + (not is_ours)
        told = told_of(error)
        extra = {"message_id": message.id, "error": told, "attempts": line.attempts}
        if line.attempts >= limits.delivery_attempts_max:
            log.error("dead letter", extra=extra)
            self.dead_letters_total += 1
            self._defer(Deferral(message.id, line.attempts, None, told))
            self._next(line)
            return
        self._failed_total += 1
        log.warning("message not delivered", extra=extra)
        wait_s = backoff_s(limits, line.attempts)
        due_at_ms = self._clock.wall_ms() + int(wait_s * 1000)
        if not is_ours:
            self._defer(Deferral(message.id, line.attempts, due_at_ms, told))
        self._make_room()
        line.after_id = message.id - 1
        self._park(line, wait_s)

    def _defer(self, deferral: Deferral) -> None:
        self._courier.join_commit().deferred.append(deferral)

    def _next(self, line: _Line) -> None:
        line.after_id = line.messages.popleft().id
        self._trails.pop(line.after_id, None)
        line.attempts = 0
        self._make_room()
        if line.messages:
            # not in place: a row of messages that fail at once would go down the stack
            asyncio.get_running_loop().call_soon(self._go_on, line)
        elif line.has_more:
            self._park(line, 0)
        else:
            del self._lines[line.stream]

    def _make_room(self) -> None:
        self._under_way -= 1
        if self._ready:
            asyncio.get_running_loop().call_soon(self._go_on, self._ready.popleft())

    def _park(self, line: _Line, wait_s: float) -> None:
        """Let go of the line's messages, and read them again after that time."""
        line.is_parked = True
        line.messages.clear()
        if wait_s <= 0:
            self._courier.spawn(self._resume(line))
        else:
            self._clock.call_later(wait_s, lambda: self._courier.spawn(self._resume(line)))

    async def _resume(self, line: _Line) -> None:
        if line.is_lost:
            return
        line.has_more = False
        try:
            messages = await self._store.messages(line.stream, line.after_id, _LINE_MAX)
        except StoreError as error:
            log.warning("messages not read", extra={"error": str(error)})
            self._park(line, _LOOK_EVERY_S)
            return
        if line.is_lost:
            return
        line.is_parked = False
        if messages and messages[0].id != line.after_id + 1:
            line.attempts = messages[0].attempts  # another one than that which failed
        line.messages.extend(messages)
        line.has_more |= len(messages) == _LINE_MAX
        if messages:
            self._go_on(line)
        elif line.has_more:
            self._park(line, 0)  # committed while the store was being read
        else:
            del self._lines[line.stream]

    def statistics(self) -> dict[str, int]:
        """Counters since the start."""
        return {
            "messages_delivered": self.delivered_total,
            "dead_letters": self.dead_letters_total,
            "message_lines": len(self._lines),
        }

    def families(self) -> list[Family]:
        """What it counted, as Prometheus is told."""
        parked = sum(line.is_parked for line in self._lines.values())
        return [
            counter(
                "perdure_messages_delivered",
                "Messages taken in a commit of their receiver, or by their outlet.",
                self.delivered_total,
            ),
            counter(
                "perdure_message_attempts_failed",
                "Attempts to deliver a message that are going to be repeated.",
                self._failed_total,
            ),
            counter(
                "perdure_dead_letters",
                "Messages given up; they stay in the store to be looked at.",
                self.dead_letters_total,
            ),
            gauge(
                "perdure_message_lines",
                "Pairs of sender and receiver with messages under way.",
                len(self._lines),
            ),
            gauge(
                "perdure_message_lines_parked",
                "Those of them that wait for another attempt, or to be read from the store.",
                parked,
            ),
            gauge("perdure_deliveries_under_way", "Messages in delivery now.", self._under_way),
        ]


def told_of(error: BaseException) -> str:
    """What is kept of an error: not all of it, and nothing that a store could not hold."""
    text = f"{type(error).__name__}: {error}"[:500]
    return text.replace("\0", "\ufffd").encode(errors="replace").decode()


def backoff_s(limits: Limits, attempts: int) -> float:
    """How long to wait after that many attempts in vain, doubling up to a limit."""
    doubled = limits.delivery_backoff_s * 2.0 ** min(max(attempts - 1, 0), 30)
    return min(doubled, limits.delivery_backoff_max_s)


def dead_letter_of_timer(
    activation: Activation, method: str, arguments: bytes, uid: str, attempts: int, error: str
) -> Message:
    """What is left of a timer that failed too often: a message from the actor to itself."""
    at = (activation.actor_type.name, activation.key)
    stream = Stream(*at, *at)
    return Message(stream, method, arguments, uid, None, None, attempts, error)
