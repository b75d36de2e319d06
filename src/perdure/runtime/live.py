"""Live views: results that are sent anew whenever a commit has changed them.

One *topic* is one method of one actor with its arguments, whoever watches. After a commit of its
actor a topic runs the method as an ordinary read turn, so its result comes out of the output gate:
no watcher sees what a crash could take back. Commits that come while it runs, or while its last
frame is still being given out, are answered by one more run. A result that differs becomes a
*frame*, one object for all subscribers: a JSON Merge Patch where one is exact and shorter, else a
snapshot.

A *token* names what a subscriber holds. It is a digest of the whole result, as JSON, and nothing
else: no counter and no epoch. Whoever comes with a token holds exactly the value that it names,
wherever they got it. So it cannot be confused by a restart, another process, or another topic:
- it names the present result: nothing changed, nothing is sent, even by a process started anew;
- it names a result whose later patches are all still in the ring: those are sent;
- anything else: a snapshot.
A version of the actor was rejected: results may change without a commit (code that was deployed,
a clock), and the version would deny it.

Invariants:
- at most one run of a topic is under way, and none while its last frame is given out;
- a subscriber's first frame comes from a run that began after it had subscribed, or from one that
  no commit has followed: who writes and then watches sees what they wrote. Where the actor may live
  in another process only the former will do: news of a commit may be under way, or be lost;
- a subscriber that missed a frame gets the newest snapshot, never a queue.
"""

import asyncio
import hashlib
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import msgspec

from perdure.actor.host import Watcher
from perdure.actor.methods import ActorType, Method
from perdure.actor.turn import Turn
from perdure.base.codec import decoder, encode
from perdure.base.errors import OverloadedError, PerdureError, StoppingError
from perdure.base.limits import Limits
from perdure.base.merge_patch import difference

log = logging.getLogger("perdure.live")

_NEWS_PER_PASS = 64  # subscribers told in one pass of the event loop: a millisecond or less
_ATTEMPTS_MAX = 5  # at a run that operating trouble, such as a full disk, keeps from its end
_RETRY_S = 0.05  # doubled with each attempt
_RING_BYTES_MIN = 4096

_decode = decoder(Any).decode


class Frame(msgspec.Struct, frozen=True, eq=False):
    """What is sent to all subscribers of a topic, and the token of what they hold after it."""

    event: str  # snapshot or patch
    body: bytes  # JSON on one line
    token: str
    rendered: dict[Callable[["Frame"], bytes], bytes] = {}

    def render(self, form: Callable[["Frame"], bytes]) -> bytes:
        """The frame in a wire format; made once, however many want it."""
        data = self.rendered.get(form)
        if data is None:
            data = self.rendered[form] = form(self)
        return data


class Listener(Protocol):
    """Where a subscription's news go."""

    def news(self) -> None:
        """`take` has frames; take them now, or when there is room for them."""
        ...

    def ended(self, error: BaseException) -> None:
        """The method raised this, or the process stops: no more news will come."""
        ...


class LiveTurn(Turn, kw_only=True):
    """A turn whose result goes to a topic."""

    cause = "live"

    topic: "Topic"

    def succeed(self, body: bytes) -> None:
        self.topic.succeeded(body)

    def fail(self, error: BaseException) -> None:
        self.topic.failed(error)


class Host(Protocol):
    """What live views need of the node."""

    limits: Limits
    now_s: Callable[[], float]

    def submit(self, actor_type: ActorType, key: str, turn: Turn) -> None:
        """Run a turn."""
        ...


class Watch(Protocol):
    """Tells a watcher of every commit of an actor from now on; or stops."""

    def __call__(self, actor_type: ActorType, key: str, watcher: Watcher, *, on: bool) -> None: ...


class LiveHub:
    """All topics of one process.

    Args:
        hears_at_once: True if `watch` tells of each commit before its caller hears of it.
    """

    def __init__(self, host: Host, watch: Watch, *, hears_at_once: bool) -> None:
        self.host = host
        self.hears_at_once = hears_at_once
        self._watch_actor = watch
        self.subscribers = 0
        self._topics: dict[tuple[Method, str, bytes], Topic] = {}
        self._actors: dict[tuple[ActorType, str], _WatchedActor] = {}
        self._telling: deque[Iterator[Topic]] = deque()
        self._stopping = False

    def subscribe(
        self, method: Method, key: str, arguments: msgspec.Struct, token: str | None = None
    ) -> "Subscription":
        """Watch a method. Raises OverloadedError or StoppingError.

        Args:
            token: what the subscriber holds from another time.
        """
        limits = self.host.limits
        if self._stopping:
            raise StoppingError("this process is stopping")
        if self.subscribers >= limits.live_subscribers_max:
            raise OverloadedError(f"{self.subscribers} subscribers already watch live views")
        name = (method, key, encode(arguments))
        topic = self._topics.get(name)
        if topic is None:
            if len(self._topics) >= limits.live_topics_max:
                raise OverloadedError(f"{len(self._topics)} live views are already watched")
            topic = self._topics[name] = Topic(self, method, key, arguments)
            self._watch(topic)
        self.subscribers += 1
        return topic.join(token)

    def stop(self) -> None:
        """End all subscriptions."""
        self._stopping = True
        for topic in list(self._topics.values()):
            topic.end(StoppingError("this process is stopping"))

    def drop(self, topic: "Topic") -> None:
        """Forget a topic that has ended or that nobody watches any more."""
        name = (topic.method, topic.key, encode(topic.arguments))
        if self._topics.get(name) is topic:
            del self._topics[name]
            place = (topic.method.actor_type, topic.key)
            actor = self._actors[place]
            actor.topics.discard(topic)
            if not actor.topics:
                del self._actors[place]
                self._watch_actor(*place, actor, on=False)

    def tell(self, topic: "Topic", listeners: Sequence["Subscription"]) -> None:
        """Give these the news of a topic, some in each pass of the event loop, then settle it."""
        self._telling.append(_in_turn(topic, listeners))
        if len(self._telling) == 1:
            # not at once: the answers that left the gate with this result go first
            asyncio.get_running_loop().call_soon(self._tell_some)

    def _tell_some(self) -> None:
        left = _NEWS_PER_PASS
        while self._telling and left:
            # round robin: a view that thousands watch must not hold up one that a few do
            telling = self._telling[0]
            if next(telling, None) is None:
                self._telling.popleft()
            else:
                self._telling.rotate(-1)
                left -= 1
        if self._telling:
            asyncio.get_running_loop().call_soon(self._tell_some)

    def _watch(self, topic: "Topic") -> None:
        place = (topic.method.actor_type, topic.key)
        actor = self._actors.get(place)
        if actor is None:
            actor = self._actors[place] = _WatchedActor()
            self._watch_actor(*place, actor, on=True)
        actor.topics.add(topic)
        topic.changed()


class _WatchedActor:
    """The topics of one actor, asleep or awake; the Watcher of its activations."""

    def __init__(self) -> None:
        self.topics: set[Topic] = set()

    def changed(self) -> None:
        for topic in self.topics:
            topic.changed()


def _in_turn(topic: "Topic", listeners: Sequence["Subscription"]) -> Iterator["Topic"]:
    for listener in listeners:
        try:
            listener.tell()
        except Exception:  # one subscriber's trouble must not keep the others waiting
            log.exception("a live view could not be told", extra={"view": str(topic.method)})
        yield topic
    topic.settle()


class Topic:
    """One live view: its present result, its last frames, and who watches it."""

    def __init__(self, hub: LiveHub, method: Method, key: str, arguments: msgspec.Struct) -> None:
        self.method = method
        self.key = key
        self.arguments = arguments
        self.body = b""  # the present result
        self.number = 0  # of the last frame
        self.begun = 0  # runs
        self.answered = 0
        self.error: BaseException | None = None
        self._hub = hub
        self._subscriptions: dict[Subscription, None] = {}  # in order: who came first hears first
        self._joining: list[Subscription] = []  # have had no frame yet
        self._is_stale = False  # there was a commit after the last run began
        self._is_busy = False  # a run is wanted or under way, or its frame is given out
        self._failures = 0
        self._snapshot: Frame | None = None
        self._ring: deque[Frame] = deque()  # patches, up to the present result
        self._ring_bytes = 0
        self._ring_base = ""  # the token of what the oldest patch applies to

    # -- subscriptions ---------------------------------------------------------------------------

    def join(self, token: str | None) -> "Subscription":
        """One more subscription."""
        if not self._hub.hears_at_once:
            self.changed()
        needed = self.begun + self._is_stale if self._is_busy else 0
        subscription = Subscription(self, needed, token)
        self._subscriptions[subscription] = None
        if not subscription.is_ready:
            self._joining.append(subscription)
        return subscription

    def leave(self, subscription: "Subscription") -> None:
        """One subscription less."""
        if subscription in self._subscriptions:
            del self._subscriptions[subscription]
            self._hub.subscribers -= 1
            if not self._subscriptions:
                self._hub.drop(self)

    def snapshot(self) -> Frame:
        """The present result as a frame."""
        if self._snapshot is None:
            self._snapshot = Frame("snapshot", self.body, _token(self.body))
        return self._snapshot

    def last_frame(self) -> Frame:
        """What was sent last."""
        return self._ring[-1] if self._ring else self.snapshot()

    def since(self, token: str) -> Sequence[Frame]:
        """The frames that lead from the result with this token to the present one."""
        snapshot = self.snapshot()
        if token == snapshot.token:
            return ()
        later: list[Frame] = []
        for frame in reversed(self._ring):
            if frame.token == token:
                return later[::-1]
            later.append(frame)
        return later[::-1] if token == self._ring_base and later else (snapshot,)

    # -- runs ------------------------------------------------------------------------------------

    def changed(self) -> None:
        """The actor was committed: run soon, or once more after the run that is under way."""
        self._is_stale = True
        if not self._is_busy:
            self._is_busy = True
            # not at once: this is called in the midst of a commit
            asyncio.get_running_loop().call_soon(self._run)

    def _run(self) -> None:
        if not self._subscriptions:
            return
        self._is_stale = False
        self.begun += 1
        host = self._hub.host
        deadline_s = host.now_s() + host.limits.call_timeout_s
        turn = LiveTurn(self.method, self.arguments, deadline_s=deadline_s, topic=self)
        host.submit(self.method.actor_type, self.key, turn)

    def succeeded(self, body: bytes) -> None:
        """The method returned."""
        if self.error is not None:
            return
        self._failures = 0
        self.answered = self.begun
        if b"\n" in body or b"\r" in body:  # raw JSON that the method passed on
            body = encode(_decode(body))
        if body != self.body:
            self._take(body)
            told = list(self._subscriptions)
        else:
            told = self._joining
        self._joining = [one for one in self._joining if not one.is_ready]
        self._hub.tell(self, told)

    def failed(self, error: BaseException) -> None:
        """The method raised, or could not be run: operating trouble is given some time."""
        trouble = isinstance(error, PerdureError) and error.status == 503
        if trouble and not isinstance(error, StoppingError) and self._failures < _ATTEMPTS_MAX:
            wait_s = _RETRY_S * 2**self._failures
            self._failures += 1
            asyncio.get_running_loop().call_later(wait_s, self._run)
        else:
            self.end(error)

    def end(self, error: BaseException) -> None:
        """Tell all subscribers why there will be no more."""
        if self.error is None:
            self.error = error
            if not isinstance(error, PerdureError):
                log.error("live view failed", exc_info=error, extra={"view": str(self.method)})
            self._is_busy = True  # for ever
            self._hub.drop(self)
            self._hub.tell(self, list(self._subscriptions))

    def settle(self) -> None:
        """All have been told."""
        if self.error is None:
            if self._is_stale:
                asyncio.get_running_loop().call_soon(self._run)
            else:
                self._is_busy = False

    def _take(self, body: bytes) -> None:
        """Make this the present result, and a frame of what is new in it."""
        before, self.body = self.body, body
        self._snapshot = None
        self.number += 1
        patch = _patch(before, body) if before else None
        if patch is None:
            self._ring.clear()
            self._ring_bytes = 0
            self._ring_base = self.snapshot().token
            return
        self._ring.append(Frame("patch", patch, _token(body)))
        self._ring_bytes += len(patch)
        # a ring longer than the snapshot would only delay whoever comes back
        while self._ring_bytes > max(len(body), _RING_BYTES_MIN) and len(self._ring) > 1:
            oldest = self._ring.popleft()
            self._ring_bytes -= len(oldest.body)
            self._ring_base = oldest.token


class Subscription:
    """One subscriber's place in a topic. Set `listener`, then call `take` for what is there."""

    __slots__ = ("_number", "_token", "_topic", "_wanted_run", "listener")

    def __init__(self, topic: Topic, wanted_run: int, token: str | None) -> None:
        self.listener: Listener | None = None
        self._topic = topic
        self._wanted_run = wanted_run
        self._number = -1  # of the last frame that was taken
        self._token = token

    @property
    def is_ready(self) -> bool:
        """True when a run has ended that saw all that was committed before the subscription."""
        return self._topic.answered >= self._wanted_run

    @property
    def method(self) -> Method:
        """What is watched."""
        return self._topic.method

    @property
    def body(self) -> bytes:
        """The present result, as JSON."""
        return self._topic.body

    def take(self) -> Sequence[Frame]:
        """What leads from what was taken before to the present result; empty: nothing new."""
        topic, taken = self._topic, self._number
        if not self.is_ready:
            return ()
        self._number = topic.number
        if taken == topic.number:
            return ()
        if taken == topic.number - 1 and taken >= 0:
            return (topic.last_frame(),)
        if taken < 0 and self._token is not None:
            return topic.since(self._token)
        return (topic.snapshot(),)

    def tell(self) -> None:
        """Pass the topic's news on."""
        if self.listener is None:
            return
        if self._topic.error is not None:
            self.listener.ended(self._topic.error)
        else:
            self.listener.news()

    def close(self) -> None:
        """Watch no longer; may be called more than once."""
        self.listener = None
        self._topic.leave(self)


def _token(body: bytes) -> str:
    return hashlib.blake2b(body, digest_size=16).hexdigest()


def _patch(before: bytes, after: bytes) -> bytes | None:
    """A merge patch that is exact and shorter than the result itself, or None."""
    try:
        patch = difference(_decode(before), _decode(after))
    except (msgspec.MsgspecError, RecursionError):  # nested more deeply than can be compared
        return None
    if patch is None or len(encoded := encode(patch)) >= len(after):
        return None
    return encoded
