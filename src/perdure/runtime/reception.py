"""The reception: takes calls that other processes send to the actors of this one.

A call that comes again, since its sender does not know what became of it, is told from a new one by
its origin (the sending process and the call's number there):

- it is under way here: its answer goes to the new link;
- a commit holds its answer: that is given, whoever wrote it;
- a commit holds a part of it, such as a call that it made, but not its end: InterruptedCallError;
- else it never had an effect, and runs.

Invariant: of the calls with one origin at most one has an effect. A first sending that comes late,
after the second, is told by `_seen_again` and dropped: nobody listens at its link any more.
"""

from collections import OrderedDict
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from itertools import zip_longest
from typing import Any, Protocol

import msgspec

from perdure.actor.answers import Origin, answer_among
from perdure.actor.host import Watcher
from perdure.actor.methods import ActorType, Method
from perdure.actor.model import Caller
from perdure.actor.state_tags import Look
from perdure.actor.turn import Turn
from perdure.base.codec import decoder
from perdure.base.errors import (
    CycleError,
    InterruptedCallError,
    LimitError,
    NotFoundError,
    OutcomeUnknownError,
    OverloadedError,
    PerdureError,
)
from perdure.base.limits import Limits
from perdure.base.trail import Trail
from perdure.cluster.frames import (
    Answer,
    Ask,
    Borrow,
    Call,
    Changed,
    Close,
    Lock,
    LookingCall,
    NotMine,
    Open,
    Posted,
    Returned,
    TaggedAnswer,
    Watch,
)
from perdure.cluster.link import Link
from perdure.runtime.blocks import Blocks, Carrier
from perdure.runtime.loans import Loans
from perdure.runtime.rates import BUCKETS
from perdure.runtime.remote_errors import failed
from perdure.store.api import Query, StoredActor, Stream

_SEEN_AGAIN_MAX = 100_000

_decode_caller = decoder(Caller).decode
_decode_query = msgspec.msgpack.Decoder(Query).decode
_encode_actors = msgspec.msgpack.Encoder().encode


class RemoteTurn(Turn, kw_only=True):
    """A turn whose caller is in another process."""

    span_kind = "SERVER"

    reception: "Reception"
    link: Link
    id: int

    def succeed(self, body: bytes) -> None:
        self.reception.ended(self)
        try:
            self.link.send(Answer(self.id, body, self.replayed))
        except LimitError as error:  # committed, but too large to be told
            self.link.send(failed(self.id, error))

    def fail(self, error: BaseException) -> None:
        self.reception.ended(self)
        self.link.send(failed(self.id, error))

    def turn_away(self, map_version: int) -> None:
        """It was not begun, and its actor is another's now."""
        self.reception.ended(self)
        self.link.send(NotMine(self.id, map_version))


class LookingRemoteTurn(RemoteTurn, kw_only=True):
    """One that looks at the state it begins on."""

    asks_first = True

    look: Look

    def begin(self) -> bool:
        return self.look.begin(self)

    @property
    def holds_alone(self) -> bool:
        return self.look.wanted is not None or super().holds_alone

    def succeed(self, body: bytes) -> None:
        self.reception.ended(self)
        tag = self.look.tag(self) if self.method.read and not self.replayed else ""
        try:
            self.link.send(TaggedAnswer(self.id, body, self.replayed, tag))
        except LimitError as error:
            self.link.send(failed(self.id, error))


class Host(Carrier, Protocol):
    """The node that owns the actors, as the reception needs it."""

    limits: Limits

    @property
    def map_version(self) -> int:
        """Of the shard map that it goes by."""
        ...

    def now_s(self) -> float:
        """Monotonic seconds."""
        ...

    def submit(self, actor_type: ActorType, key: str, turn: Turn) -> None:
        """Take one call; `RemoteTurn.turn_away` if its actor is another's."""
        ...

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` as a task that the process keeps a reference to."""
        ...

    async def find_answers(self, origin: Origin) -> list[bytes]:
        """What commits hold for a call, packed; see `Store.find_answers`."""
        ...

    async def query_here(self, query: Query) -> list[StoredActor]:
        """The committed actors of this store that fit."""
        ...

    def watch_here(self, actor_type: ActorType, key: str, watcher: Watcher, *, on: bool) -> None:
        """Tell `watcher` of every commit of this actor from now on; or stop."""
        ...

    def look_at(self, stream: Stream, trails: Sequence[tuple[int, Trail]] = ()) -> None:
        """There may be new messages in this stream."""
        ...

    def behind(self, version: int) -> None:
        """Another process knows this version of the map."""
        ...


class Reception:
    """What other processes want of this one."""

    def __init__(self, host: Host, actor_types: Sequence[ActorType], loans: Loans) -> None:
        self._host = host
        self.loans = loans
        self._types = {actor_type.name: actor_type for actor_type in (*actor_types, BUCKETS)}
        self.blocks = Blocks(host, self._types, self.method)
        self.takers: dict[type, Callable[[Link, Any], None]] = {  # by the kind of their frame
            Call: self.call,
            LookingCall: self.looking_call,
            Ask: self.ask,
            Watch: self.watch,
            Posted: self.posted,
            Borrow: self.borrow,
            Returned: loans.returned,
            Open: self.blocks.open,
            Lock: self.blocks.lock,
            Close: self.blocks.close,
        }
        self._under_way: dict[Origin, RemoteTurn] = {}
        self._seen_again: OrderedDict[Origin, None] = OrderedDict()
        self._watched: dict[tuple[ActorType, str], _Watchers] = {}
        self.answered_again = 0

    # -- calls -----------------------------------------------------------------------------------

    def looking_call(self, link: Link, call: LookingCall) -> None:
        """Take one call that looks at the state of its actor."""
        self.call(link, call, partial(LookingRemoteTurn, look=Look(call.wanted)))

    def call(
        self, link: Link, call: Call, make_turn: Callable[..., RemoteTurn] = RemoteTurn
    ) -> None:
        """Take one call."""
        if call.block:
            self.blocks.call(link, call)
            return
        host = self._host
        if call.map_version > host.map_version:
            host.behind(call.map_version)
        assert link.peer is not None
        origin = (link.peer.process, call.id)
        try:
            turn = self._turn(link, call, origin, make_turn)
        except (PerdureError, msgspec.MsgspecError) as error:
            link.send(failed(call.id, error))
            return
        method = turn.method
        if not call.is_again and origin in self._seen_again:
            return
        if not method.read:
            if call.is_again and self._is_under_way(turn, origin):
                return
            self._under_way[origin] = turn  # also while the store is asked: it may come once more
        if call.is_again and not method.read and call.request_id is None:
            host.spawn(self.run_once(method.actor_type, call.key, turn, origin))
        else:
            host.submit(method.actor_type, call.key, turn)

    def _turn(
        self, link: Link, call: Call, origin: Origin, make_turn: Callable[..., RemoteTurn]
    ) -> RemoteTurn:
        method = self.method(call.actor_type, call.method)
        if call.chain and (call.actor_type, call.key) in call.chain:
            way = " → ".join(f"{name}({key!r})" for name, key in [*call.chain, call.chain[0]])
            raise CycleError(f"this call would wait for itself: {way}")
        return make_turn(
            method,
            method.arguments_from_json(call.arguments),
            deadline_s=self._host.now_s() + call.left_s,
            caller=None if call.caller is None else _decode_caller(call.caller),
            request_id=call.request_id,
            origin=None if method.read else origin,
            root=call.root,
            chain=call.chain,
            standing=call.standing,
            trail=call.trail,
            reception=self,
            link=link,
            id=call.id,
        )

    def method(self, type_name: str, name: str) -> Method:
        """The method of a class of this App; raises NotFoundError."""
        actor_type = self._types.get(type_name)
        method = None
        if actor_type is not None:
            method = actor_type.methods.get(name)
            if method is None and actor_type.live_fields and actor_type.live_fields.name == name:
                method = actor_type.live_fields
        if method is None:
            raise NotFoundError(f"no class of this App has {type_name}.{name}")
        return method

    def _is_under_way(self, again: RemoteTurn, origin: Origin) -> bool:
        """Note that a call has come again; if it is under way, its answer goes to the new link."""
        self._seen_again[origin] = None
        if len(self._seen_again) > _SEEN_AGAIN_MAX:
            self._seen_again.popitem(last=False)
        before = self._under_way.get(origin)
        if before is None:
            return False
        before.link = again.link
        self.answered_again += 1
        return True

    async def run_once(self, actor_type: ActorType, key: str, turn: Turn, origin: Origin) -> None:
        """Run a call that may have been done before, here or by another owner, unless it was."""
        try:
            known = answer_among(await self._host.find_answers(origin), origin[1])
        except PerdureError as error:
            # not the error itself: it would say that nothing was done
            turn.fail(OutcomeUnknownError(f"{turn}: what became of it could not be read: {error}"))
            return
        if known is None:
            self._host.submit(actor_type, key, turn)
            return
        self.answered_again += 1
        if known[0] is None:
            turn.fail(InterruptedCallError(f"{turn} had begun when its process died"))
        else:
            turn.succeed(known[0])

    def ended(self, turn: RemoteTurn) -> None:
        """A call has its answer."""
        if turn.origin is not None and self._under_way.get(turn.origin) is turn:
            del self._under_way[turn.origin]

    # -- transactions ----------------------------------------------------------------------------

    def borrow(self, link: Link, borrow: Borrow) -> None:
        """Lend an actor."""
        host = self._host
        if borrow.map_version > host.map_version:
            host.behind(borrow.map_version)
        actor_type = self._types.get(borrow.actor_type)
        try:
            if actor_type is None:
                raise NotFoundError(f"no class of this App is stored as {borrow.actor_type}")
            self.loans.ask(link, borrow, actor_type)
        except PerdureError as error:
            link.send(failed(borrow.id, error))

    # -- what else they ask ----------------------------------------------------------------------

    def ask(self, link: Link, ask: Ask) -> None:
        """Look up actors for another process."""
        self._host.spawn(self._ask(link, ask))

    async def _ask(self, link: Link, ask: Ask) -> None:
        try:
            found = await self._host.query_here(_decode_query(ask.query))
            link.send(Answer(ask.id, _encode_actors(found)))
        except (PerdureError, msgspec.MsgspecError) as error:  # or too many to be told
            link.send(failed(ask.id, error))

    def posted(self, _link: Link, frame: Posted) -> None:
        """Others have sent messages to actors of ours."""
        for fields, trails in zip_longest(frame.streams, frame.trails, fillvalue=()):
            stream = Stream(*fields)
            if stream.receiver_type in self._types:
                self._host.look_at(stream, trails)

    def watch(self, link: Link, frame: Watch) -> None:
        """Tell a process of an actor's commits, or stop; when the link closes it ends by itself."""
        actor_type = self._types.get(frame.actor_type)
        if actor_type is None:
            return
        place = (actor_type, frame.key)
        watchers = self._watched.get(place)
        if frame.on:
            if watchers is None:
                if len(self._watched) >= self._host.limits.watched_actors_max:
                    link.close(OverloadedError(f"{len(self._watched)} actors are watched already"))
                    return
                watchers = self._watched[place] = _Watchers(frame.actor_type, frame.key)
                self._host.watch_here(actor_type, frame.key, watchers, on=True)
            watchers.links.add(link)
        elif watchers is not None:
            self._drop(place, link)

    def closed(self, link: Link) -> None:
        """A link is gone, and what was watched or borrowed over it."""
        self.loans.closed(link)
        self.blocks.closed(link)
        for place in [place for place, one in self._watched.items() if link in one.links]:
            self._drop(place, link)

    def _drop(self, place: tuple[ActorType, str], link: Link) -> None:
        watchers = self._watched[place]
        watchers.links.discard(link)
        if not watchers.links:
            del self._watched[place]
            self._host.watch_here(*place, watchers, on=False)


class _Watchers:
    """The links over which one actor is watched; a Watcher."""

    def __init__(self, type_name: str, key: str) -> None:
        self._frame = Changed(type_name, key)
        self.links: set[Link] = set()

    def changed(self) -> None:
        for link in self.links:
            link.send(self._frame)
