"""The forwarder: sends calls to the processes that own their actors, and brings the answers back.

A call is kept until it is answered. It is sent to the owner that the shard map names; and again,
marked as such, whenever it can have been lost: its link broke, its owner died or is about to stop,
or its commit failed for a reason that another owner cures. The owner knows what it, or whoever
owned the actor before, has committed under the call's name (this process and the call's number), so
that it is done once. Its caller sees a slow answer.

waiting (no owner, no link, or a pause) → sent → answered
         ▲────────────────────────────────┘ link lost · not mine · fenced · stopping

Who is not the owner says so instead of passing the call on: a stale map is put right where it is,
and no call can go in circles. Deadlines end it all.

A call whose owner lives, and yet cannot be reached, is ended before: see `cluster.reach` for when
that is so. If it was never sent, or only reads, nothing was done (UnreachableError); else nobody
here can know (UnansweredError).
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from perdure.actor.answers import Origin
from perdure.actor.methods import ActorType
from perdure.actor.state_tags import Look
from perdure.actor.turn import Turn
from perdure.base.clock import Clock
from perdure.base.codec import encode
from perdure.base.errors import (
    DeadlineError,
    FencedError,
    LimitError,
    OutcomeUnknownError,
    OverloadedError,
    StoppingError,
    UnansweredError,
    UnreachableError,
)
from perdure.base.limits import Limits
from perdure.base.metrics import Family, counter, gauge
from perdure.base.shards import shard_of
from perdure.cluster import shard_map
from perdure.cluster.frames import (
    LOOKING_VERSION,
    Answer,
    Ask,
    Borrow,
    Call,
    Close,
    Failed,
    Frame,
    Lock,
    LookingCall,
    NotMine,
    Open,
    Posted,
    Returned,
    TaggedAnswer,
)
from perdure.cluster.link import Link
from perdure.cluster.shard_map import ShardMap
from perdure.runtime.remote_errors import error_from
from perdure.store.api import Posts, Query, StoredActor

if TYPE_CHECKING:
    from perdure.runtime.guests import BorrowTurn

log = logging.getLogger("perdure.forwarder")

_PAUSE_S = 0.02  # before a call is sent once more to where it was not taken
_SWEEP_EVERY_S = 0.25
_CURED_ELSEWHERE = (FencedError, StoppingError, OutcomeUnknownError)
_KINDS_CURED_ELSEWHERE = {one.kind for one in _CURED_ELSEWHERE}

_encode_query = msgspec.msgpack.Encoder().encode
_decode_actors = msgspec.msgpack.Decoder(list[StoredActor]).decode


Asking = Ask | Open | Lock | Call | Close


class Links(Protocol):
    """Where the forwarder finds links."""

    def link_to(self, incarnation: int, address: str) -> Link | None:
        """The open link to that member; None: it is being dialled."""
        ...

    def is_cut_off(self, incarnation: int) -> bool:
        """True if that member lives, and yet cannot be reached from here."""
        ...


class Here(Protocol):
    """The actors of this process, where it owns some."""

    def has(self, key: str) -> bool:
        """True if actors with this key live here."""
        ...

    def take_back(self, actor_type: ActorType, key: str, turn: Turn, origin: Origin | None) -> None:
        """Run a call here after all.

        Args:
            origin: its name, if it was sent elsewhere before and may have been done there.
        """
        ...


class Outgoing:
    """One call that waits for its answer."""

    __slots__ = ("actor_type", "call", "link", "resends", "turn")

    def __init__(self, actor_type: ActorType, turn: Turn, call: Call | Borrow) -> None:
        self.actor_type = actor_type
        self.turn = turn
        self.call = call
        self.link: Link | None = None  # on which it was sent; None: it waits
        self.resends = 0  # of a call whose spans are recorded


class Forwarder:
    """The calls of one process that run elsewhere."""

    def __init__(
        self,
        process: str,
        links: Links,
        clock: Clock,
        limits: Limits,
        on_behind: Callable[[int], None],
    ) -> None:
        self.here: Here | None = None  # set where this process owns actors
        self.incarnation = 0  # of this process as an owner
        self._process = process
        self._links = links
        self._clock = clock
        self._limits = limits
        self._on_behind = on_behind  # told of newer versions of the map
        self._map = shard_map.EMPTY
        self._last_id = 0
        self._pending: dict[int, Outgoing] = {}
        self._waiting: dict[int, Outgoing] = {}  # those of them that are not sent
        self._asked: dict[int, tuple[Link, asyncio.Future[bytes]]] = {}
        self._is_pausing = False
        self._stopped: Exception | None = None
        self.sent_again = 0

    # -- calls -----------------------------------------------------------------------------------

    def submit(
        self, actor_type: ActorType, key: str, turn: Turn, *, after_pause: bool = False
    ) -> None:
        """Send a call to its owner; its answer comes through `turn.succeed` or `turn.fail`.

        Args:
            after_pause: the owner, who may be this process, could not take it a moment ago.
        """
        refusal = self._refusal()
        if refusal is not None:
            turn.fail(refusal)
            return
        self._last_id += 1
        call = Call(
            self._last_id,
            0.0,
            actor_type.name,
            key,
            turn.method.name,
            encode(turn.arguments),
            None if turn.caller is None else encode(turn.caller),
            turn.request_id,
            root=turn.root,
            chain=list(turn.chain),
            standing=list(turn.standing),
            trail=turn.trail,
        )
        if turn.asks_first:
            call = LookingCall(**msgspec.structs.asdict(call), wanted=_look_of(turn).wanted)
        outgoing = self._pending[call.id] = Outgoing(actor_type, turn, call)
        if after_pause:
            self._wait(outgoing)
        else:
            self._send(outgoing)

    def borrow(self, actor_type: ActorType, turn: "BorrowTurn", frame: Borrow) -> None:
        """Send it to the owner of the actor until that answers, as a call."""
        refusal = self._refusal()
        if refusal is not None:
            turn.fail(refusal)
            return
        self._last_id += 1
        turn.id = frame.id = self._last_id
        outgoing = self._pending[frame.id] = Outgoing(actor_type, turn, frame)
        self._send(outgoing)

    def _refusal(self) -> Exception | None:
        """Why nothing more can be sent now."""
        count = len(self._pending) + len(self._asked)
        if self._stopped is None and count >= self._limits.forwarded_calls_max:
            return OverloadedError(f"{count} calls wait for other processes")
        return self._stopped

    def withdraw(self, number: int) -> None:
        """The actor is not wanted any more, whether it was lent meanwhile or not."""
        outgoing = self._pending.get(number)
        if outgoing is not None:
            self._forget(outgoing)
            if outgoing.link is not None:
                outgoing.link.send(Returned(number))

    def _send(self, outgoing: Outgoing) -> None:
        call, turn = outgoing.call, outgoing.turn
        owner = self._map.owner_of(call.key)
        link = None
        if owner is not None and owner.incarnation == self.incarnation:
            if self.here is None or not self.here.has(call.key):
                self._wait(outgoing)  # it is about to come, or has just left
                return
            self._forget(outgoing)
            origin = (self._process, call.id) if call.is_again else None
            self.here.take_back(outgoing.actor_type, call.key, turn, origin)
            return
        if owner is not None:
            link = self._links.link_to(owner.incarnation, owner.address)
        if link is None:
            self._waiting[call.id] = outgoing
            self._end_if_cut_off(outgoing)
            return
        if self._waiting:
            self._waiting.pop(call.id, None)
        if type(call) is not Call:
            if not self._fit(outgoing, link):
                return
            call = outgoing.call
        outgoing.link = link
        call.left_s = turn.deadline_s - self._clock.monotonic_s()
        call.map_version = self._map.version
        try:
            link.send(call)
        except LimitError as error:
            self._forget(outgoing)
            self._give(turn, error)

    def _fit(self, outgoing: Outgoing, link: Link) -> bool:
        """See to what is not just a Call; False if it cannot go by this link."""
        call = outgoing.call
        if type(call) is Borrow:
            outgoing.turn.link = link  # type: ignore[attr-defined]
        elif type(call) is LookingCall and link.version < LOOKING_VERSION:
            if call.wanted is not None:  # an owner of before would run it on any state
                self._wait(outgoing)
                return False
            values = msgspec.structs.asdict(call)
            del values["wanted"]
            outgoing.call = Call(**values)
        return True

    def _end_if_cut_off(self, outgoing: Outgoing) -> None:
        if self.is_owner_cut_off(outgoing.call.key):
            self._forget(outgoing)
            self._give(outgoing.turn, _cut_off(outgoing))

    def is_owner_cut_off(self, key: str) -> bool:
        """True if the owner of actors with this key lives, and yet cannot be reached from here."""
        return self.is_cut_off(self._map.owners[shard_of(key)])

    def is_cut_off(self, incarnation: int) -> bool:
        """True if this member lives, and yet cannot be reached from here."""
        return self._links.is_cut_off(incarnation)

    def _forget(self, outgoing: Outgoing) -> None:
        del self._pending[outgoing.call.id]
        self._waiting.pop(outgoing.call.id, None)

    def _wait(self, outgoing: Outgoing) -> None:
        outgoing.link = None
        self._waiting[outgoing.call.id] = outgoing
        if not self._is_pausing:
            self._is_pausing = True
            self._clock.call_later(_PAUSE_S, self._end_pause)

    def _end_pause(self) -> None:
        self._is_pausing = False
        self.send_waiting()

    def send_waiting(self) -> None:
        """Try those that are not sent: there may be a way now."""
        for outgoing in list(self._waiting.values()):
            if outgoing.call.id in self._waiting:  # not ended by what another one has set off
                self._send(outgoing)

    def take_map(self, newer: ShardMap) -> None:
        """Go by this map from now on."""
        self._map = newer
        self.send_waiting()

    def closed(self, link: Link) -> None:
        """A link is lost: what was sent on it may have been done or not."""
        for outgoing in self._pending.values():
            if outgoing.link is link:
                outgoing.link = None
                self._mark_again(outgoing)
                self._waiting[outgoing.call.id] = outgoing
        for asked, waiter in self._asked.values():
            if asked is link and not waiter.done():
                waiter.set_exception(UnreachableError("the link was lost"))
        self.send_waiting()

    def _mark_again(self, outgoing: Outgoing) -> None:
        outgoing.call.is_again = True
        self.sent_again += 1

    # -- answers ---------------------------------------------------------------------------------

    def received(self, frame: Frame) -> None:
        """Take an Answer, TaggedAnswer, Failed or NotMine."""
        number = frame.id  # type: ignore[union-attr]
        outgoing = self._pending.get(number)
        if outgoing is None:
            if number in self._asked:
                self._answered(frame)
            return  # else its deadline has passed
        if type(frame) is Answer:
            del self._pending[number]
            outgoing.turn.replayed = frame.replayed
            self._give(outgoing.turn, frame.body)
        elif type(frame) is Failed:
            if frame.kind in _KINDS_CURED_ELSEWHERE and not frame.path:
                self._mark_again(outgoing)
                self._wait(outgoing)
            else:
                del self._pending[number]
                self._give(outgoing.turn, error_from(frame))
        elif type(frame) is NotMine:
            if frame.map_version > self._map.version:
                self._on_behind(frame.map_version)
            self._wait(outgoing)
        elif type(frame) is TaggedAnswer:
            del self._pending[number]
            outgoing.turn.replayed = frame.replayed
            _look_of(outgoing.turn).hear(frame.state)
            self._give(outgoing.turn, frame.body)

    def _give(self, turn: Turn, answer: bytes | Exception) -> None:
        try:
            if isinstance(answer, bytes):
                turn.succeed(answer)
            else:
                turn.fail(answer)
        except Exception:  # one caller's trouble is not that of all others on the link
            log.exception("an answer could not be given", extra=turn.names())

    async def run(self) -> None:
        """End the calls whose deadlines are over, or whose owners are cut off, again and again."""
        while True:
            await self._clock.sleep(_SWEEP_EVERY_S)
            for outgoing in list(self._waiting.values()):
                if outgoing.call.id in self._waiting:  # not ended by what another one has set off
                    self._end_if_cut_off(outgoing)
            now_s = self._clock.monotonic_s()
            late = [one for one in self._pending.values() if one.turn.deadline_s <= now_s]
            for outgoing in late:
                if type(outgoing.call) is Borrow:
                    self.withdraw(outgoing.call.id)
                else:
                    self._forget(outgoing)
                self._give(outgoing.turn, _late(outgoing))

    def fall(self, error: Exception) -> None:
        """Give up the calls that turns of this process made, for it owns their actors no longer:
        whoever does may make them again."""
        inner = [one for one in self._pending.values() if one.turn.parent is not None]
        for outgoing in inner:
            self._forget(outgoing)
            self._give(outgoing.turn, error)

    def stop(self, error: Exception) -> None:
        """Give up what is not answered, and take nothing more."""
        self._stopped = error
        for _, waiter in self._asked.values():
            if not waiter.done():
                waiter.set_exception(error)
        pending, self._pending = self._pending, {}
        self._waiting.clear()
        for outgoing in pending.values():
            self._give(outgoing.turn, error)

    @property
    def is_idle(self) -> bool:
        """True when nothing waits for an answer."""
        return not self._pending and not self._asked

    @staticmethod
    def families(forwarders: "Sequence[Forwarder]") -> list[Family]:
        """What these counted, as Prometheus is told."""
        return [
            counter(
                "perdure_forwarded_calls",
                "Calls, and questions, that were sent to other processes.",
                sum(one._last_id for one in forwarders),
            ),
            gauge(
                "perdure_forwarded_calls_waiting",
                "Those of them that wait for their answer.",
                sum(len(one._pending) + len(one._asked) for one in forwarders),
            ),
            gauge(
                "perdure_forwarded_calls_unsent",
                "Those of them that wait for somebody to send them to.",
                sum(len(one._waiting) for one in forwarders),
            ),
            counter(
                "perdure_calls_sent_again",
                "Calls sent once more, since their owner died, moved or lost the link.",
                sum(one.sent_again for one in forwarders),
            ),
        ]

    # -- questions and hints ---------------------------------------------------------------------

    async def ask(self, query: Query, deadline_s: float) -> list[StoredActor]:
        """Let a member look up actors, and another if that one cannot any more.

        Raises DeadlineError, OverloadedError, UnreachableError if all are cut off from here, and
        what the store raises there.
        """
        packed = _encode_query(query)
        attempt = 0
        while deadline_s > self._clock.monotonic_s():
            refusal = self._refusal()
            if refusal is not None:
                raise refusal
            links = [
                link
                for member in self._map.members.values()
                if (link := self._links.link_to(member.incarnation, member.address)) is not None
            ]
            if links:
                link = links[attempt % len(links)]
                left_s = deadline_s - self._clock.monotonic_s()
                with suppress(UnreachableError, *_CURED_ELSEWHERE):
                    return _decode_actors(
                        await self.exchange(link, Ask(0, left_s, packed), deadline_s)
                    )
                attempt += 1
            elif self._map.members and all(map(self._links.is_cut_off, self._map.members)):
                raise UnreachableError("all who could be asked are cut off from here")
            if self._stopped is None:
                await self._clock.sleep(_PAUSE_S)
        raise DeadlineError("the query was not answered before its deadline")

    async def exchange(self, link: Link, frame: Asking, end_s: float) -> bytes:
        """Send a frame, which gets a number if it has none, and return the body of its answer.

        Raises UnreachableError when the link breaks or the frame is not taken, DeadlineError, and
        what the other end tells.
        """
        if not link.is_open:
            raise UnreachableError("the link was lost")
        if not frame.id:
            self._last_id += 1
            frame.id = self._last_id
        waiter: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._asked[frame.id] = (link, waiter)
        try:
            async with asyncio.timeout(max(end_s - self._clock.monotonic_s(), 0.0)) as timeout:
                link.send(frame)
                return await waiter
        except TimeoutError:
            if not timeout.expired():
                raise  # the other end's own
            raise DeadlineError("another process did not answer before the deadline") from None
        finally:
            self._asked.pop(frame.id, None)

    def tell(self, link: Link, frame: Close) -> None:
        """Send a frame whose answer nobody waits for."""
        self._last_id += 1
        frame.id = self._last_id
        link.send(frame)

    def owner_link(self, key: str) -> tuple[int, Link] | None:
        """Who owns actors with this key, and the link there; None: not reached just now."""
        owner = self._map.owner_of(key)
        link = None if owner is None else self._links.link_to(owner.incarnation, owner.address)
        return None if owner is None or link is None else (owner.incarnation, link)

    def link_of(self, incarnation: int) -> Link | None:
        """The link to this member; once it is none any more, to any."""
        members = self._map.members
        one = members.get(incarnation)
        wanted = list(members.values()) if one is None else [one]
        links = (self._links.link_to(each.incarnation, each.address) for each in wanted)
        return next((link for link in links if link is not None), None)

    def _answered(self, frame: Any) -> None:
        _, waiter = self._asked[frame.id]
        if waiter.done():
            return
        if type(frame) is Answer:
            waiter.set_result(frame.body)
        else:
            waiter.set_exception(
                error_from(frame) if type(frame) is Failed else UnreachableError("not taken")
            )

    def post(self, posts: Posts) -> None:
        """Tell owners of messages that are in the store for them. A hint, which may get lost."""
        by_link: dict[Link, Posted] = {}
        for stream, trails in posts.items():
            owner = self._map.members.get(self._map.owners[stream.shard])
            if owner is None or owner.incarnation == self.incarnation:
                continue
            link = self._links.link_to(owner.incarnation, owner.address)
            if link is not None:
                frame = by_link.setdefault(link, Posted([]))
                frame.streams.append(msgspec.structs.astuple(stream))
                frame.trails.append(trails)
        for link, frame in by_link.items():
            link.send(frame)


def _look_of(turn: Turn) -> Look:
    """Of one that asks first: no delivery comes here."""
    return turn.look  # type: ignore[attr-defined, no-any-return]


def _cut_off(outgoing: Outgoing) -> Exception:
    turn, call = outgoing.turn, outgoing.call
    if type(call) is Borrow or turn.method.read or not call.is_again:
        return UnreachableError(f"{turn}: the owner of this actor lives, but is cut off from here")
    return UnansweredError(
        f"{turn} was sent to a process that lives, but is cut off from here by now;"
        " nobody here knows if it was done"
    )


def _late(outgoing: Outgoing) -> Exception:
    turn = outgoing.turn
    if outgoing.link is None and not outgoing.call.is_again:
        return UnreachableError(f"{turn}: nobody who owns this actor could be reached")
    return DeadlineError(f"{turn} did not answer before its deadline")
