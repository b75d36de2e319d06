"""What processes say to each other: one Struct for each kind of frame.

A frame on the wire is a header (length and sequence number, two big-endian 32-bit numbers) and the
Struct as a MessagePack array that begins with its tag. The sequence number starts at 0 on each
link, in each direction, and rises by one: a frame that comes twice is dropped, and a gap ends the
link, whatever it was that stood between the two processes.

A process of the version before knows fewer kinds and fewer fields. So: new fields go to the end and
have defaults, and a new kind raises `VERSION`; it is sent only on links that agreed on it.
"""

from typing import Any, Literal

import msgspec

from perdure.base.trail import Trail

VERSION = 2
VERSION_MIN = 1  # the oldest that is still spoken
LOOKING_VERSION = 2  # since when there are LookingCall and TaggedAnswer


class Call(msgspec.Struct, array_like=True, tag=1):
    """Run one method of an actor and answer with Answer, Failed or NotMine."""

    id: int  # of the sender of this frame, rising; the answer repeats it
    left_s: float  # until the deadline
    actor_type: str
    key: str
    method: str
    arguments: bytes  # JSON
    caller: bytes | None = None  # JSON of the Caller
    request_id: str | None = None  # the idempotency key
    map_version: int = 0  # that the sender went by
    is_again: bool = False  # it was sent before, and not answered
    root: tuple[str, int] | None = None  # process and id of the call that all this began with
    chain: list[tuple[str, str]] = []  # actors that wait for the answer, outermost first
    standing: list[int] = []  # the incarnations that own them, and must when this commits
    block: int = 0  # the id of the Open whose transaction it is part of
    trail: Trail | None = None  # for logs


class Answer(msgspec.Struct, array_like=True, tag=2):
    """The result of a call, as JSON."""

    id: int
    body: bytes
    replayed: bool = False  # it is the answer that this idempotency key got before


class Failed(msgspec.Struct, array_like=True, tag=3):
    """The error of a call."""

    id: int
    kind: str
    status: int
    message: str
    path: str = ""  # `module.Class` of an application's own error
    field: str | None = None


class NotMine(msgspec.Struct, array_like=True, tag=4):
    """The call was not begun, since another owns the actor: send it there."""

    id: int
    map_version: int  # that the answer goes by


class Map(msgspec.Struct, array_like=True, tag=5):
    """Who owns what; see `shard_map`."""

    version: int
    members: list[Any]  # of registry.Member, as arrays
    owners: bytes  # for each shard the place of its owner in `members`, 16 bits; 0xFFFF: nobody


class Watch(msgspec.Struct, array_like=True, tag=6):
    """Say Changed after each commit of this actor from now on; or stop."""

    actor_type: str
    key: str
    on: bool = True


class Changed(msgspec.Struct, array_like=True, tag=7):
    """A watched actor was committed, or may have been: look at it."""

    actor_type: str
    key: str


class Posted(msgspec.Struct, array_like=True, tag=8):
    """There are new messages in the store for an actor of yours: a hint, which may get lost."""

    streams: list[tuple[str, str, str, str]]  # the fields of store.api.Stream
    trails: list[list[tuple[int, Trail]]] = []  # of each stream: those of its messages, by id


class Ask(msgspec.Struct, array_like=True, tag=9):
    """Look up actors by their fields; the answer's body is a list of StoredActor."""

    id: int
    left_s: float
    query: bytes  # a store.api.Query


class Ping(msgspec.Struct, array_like=True, tag=10):
    """Are you there? Answered by Pong, at once."""


class Pong(msgspec.Struct, array_like=True, tag=11):
    """Here I am."""


class Borrow(msgspec.Struct, array_like=True, tag=12):
    """Lend an actor to a transaction of the sender; see `runtime.guests`. The answer's body is your
    incarnation and what is stored of the actor; or there is Failed or NotMine."""

    id: int
    left_s: float
    actor_type: str
    key: str
    chain: list[tuple[str, str]] = []  # actors that wait for the transaction, outermost first
    map_version: int = 0
    is_again: bool = False


class Returned(msgspec.Struct, array_like=True, tag=13):
    """The sender has ended with an actor that you have lent, or wants it no more."""

    id: int  # of Borrow
    ending: Literal["unchanged", "committed", "unknown"] = "unchanged"
    stored: bytes = b""  # of a committed one, what is stored of it now


class Open(msgspec.Struct, array_like=True, tag=14):
    """Begin a transaction for the sender; see `runtime.blocks`."""

    id: int
    left_s: float
    actor_type: str  # of the first actor that takes part
    key: str


class Lock(msgspec.Struct, array_like=True, tag=15):
    """Take an actor for a transaction."""

    id: int
    block: int  # the id of its Open
    actor_type: str
    key: str


class Close(msgspec.Struct, array_like=True, tag=16):
    """End a transaction."""

    id: int
    block: int  # the id of its Open
    is_commit: bool
    is_again: bool = False  # say how it ended, and if it has not, roll it back


class LookingCall(Call, array_like=True, tag=17):
    """A call that looks at the state it begins on; see `actor.state_tags`. TaggedAnswer answers."""

    wanted: list[str] | None = None  # tags: it runs on one of these states only


class TaggedAnswer(Answer, array_like=True, tag=18):
    """The result of a call, and the tag of the state it was made from; "" if there is none."""

    state: str = ""


Frame = (
    Call
    | Answer
    | Failed
    | NotMine
    | Map
    | Watch
    | Changed
    | Posted
    | Ask
    | Ping
    | Pong
    | Borrow
    | Returned
    | Open
    | Lock
    | Close
    | LookingCall
    | TaggedAnswer
)
