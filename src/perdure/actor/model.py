"""What users write: `Actor`, the decorators for its methods, and `Caller`.

An actor class is a `msgspec.Struct`: its fields are C slots, typed, with defaults copied for each
instance, and encode straight to JSON. Assigning a name that is not a declared field fails at once
with AttributeError, so no state can be lost for want of a declaration.
"""

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, Unpack, overload

import msgspec

from perdure.actor.rate import RateOrRates, rates_of
from perdure.actor.versions import Lifetime, Versioned
from perdure.base.errors import BadArgumentsError, DefinitionError, NotRunningError
from perdure.base.texts import unstorable

if TYPE_CHECKING:
    from perdure.actor.messages import OutletSender
    from perdure.actor.query import Row, Selection
    from perdure.actor.timers import Timers
    from perdure.actor.turn import Turn

Function = TypeVar("Function", bound=Callable[..., Any])

current_turn: ContextVar["Turn | None"] = ContextVar("perdure_turn", default=None)


class Caller(msgspec.Struct, frozen=True):
    """Who makes a call: an id that stays the same, and whatever else the app knows of them."""

    id: str
    claims: dict[str, Any] = {}

    def __post_init__(self) -> None:
        if what := unstorable(self.id):
            raise BadArgumentsError(f"the id of a caller holds {what}", "id")


AccessRule = (
    Literal["anyone", "signed_in", "owner"] | Callable[[Caller | None, str], bool | Awaitable[bool]]
)
anyone: AccessRule = "anyone"
signed_in: AccessRule = "signed_in"
owner: AccessRule = "owner"


class MethodOptions(msgspec.Struct, frozen=True):
    """What the decorators said about one method."""

    exposed: bool = False
    access: AccessRule | None = None  # None: the app's default
    read: bool = False
    interleave: bool = False
    loss_max_s: float | None = None  # not None: relaxed
    live: bool = False
    timeout_s: float | None = None  # over HTTP; None: Limits.call_timeout_s
    body_bytes_max: int | None = None  # None: Limits.call_body_bytes_max
    route: str | None = None  # its name in the path; None: its own
    lifetime: Lifetime = Lifetime()
    rate: RateOrRates | None = None


class ClassOptions(msgspec.Struct, frozen=True):
    """What the class statement said beside the fields; checked by `actor.schema`."""

    name: str | None = None  # None: from the name of the class
    ttl: timedelta | None = None


class ActorMeta(msgspec.StructMeta):
    """Takes Perdure's own keywords out of the class statement; msgspec refuses those it lacks."""

    __perdure_options__: ClassOptions

    # The class's name is positional-only, since `name=` is a keyword of ours.
    def __new__(  # noqa: PYI034  # Self has no meaning in a metaclass
        meta,
        class_name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        /,
        *,
        name: str | None = None,
        ttl: timedelta | None = None,
        **config: Any,
    ) -> "ActorMeta":
        made = super().__new__(meta, class_name, bases, namespace, **config)
        made.__perdure_options__ = ClassOptions(name, ttl)  # of this class, not of subclasses
        return made


class Actor(msgspec.Struct, metaclass=ActorMeta, forbid_unknown_fields=True):
    """Base of every actor class: declare fields with types and defaults, and async methods.

    An actor is addressed by class and key, `Cart.at("alice")`, exists as soon as it is called, and
    keeps its fields through crashes and restarts. Its methods run one at a time, each as one turn:
    state changes are durable before the caller hears the result, and an exception undoes them.

    `class Basket(Actor, name="cart", ttl=timedelta(days=30))`: both are optional, and subclasses do
    not inherit them. `name` is what the class is stored under, in snake_case: a class keeps its
    data when it gets another name, and its route follows the new one. `ttl`: an actor that was not
    written for so long expires; at least one second.
    """

    @classmethod
    def at(cls, key: str, *, request_id: str | None = None) -> Self:
        """A reference to the actor of this class with this key; calls through it are awaited.

        Arguments and results pass by value, as between machines. Raises InvalidKeyError.

        Args:
            request_id: makes the next call happen once: the same call under the same id, however
                often it is sent and across crashes, has one effect and gets the first answer.
        """
        from perdure.actor.methods import actor_type_of  # the model is below its compiler

        return actor_type_of(cls).reference(key, request_id)  # type: ignore[return-value]

    @classmethod
    def where(cls, /, **conditions: Any) -> "Selection[Self]":
        """The actors of this class whose fields fit, all of them without conditions.

        Awaiting it gives one `Page`; `async for row in Order.where(…)` goes through all pages.
        A condition is `field=value`, or compares with `field__ne`, `__lt`, `__le`, `__gt`, `__ge`,
        or `__in` a list. Only fields marked `indexed` or `unique` can be searched by. `None` means
        that there is no value. Sort with `order_by`; by default it is by key.

        *Consistency:* finds committed state. A turn does not see its own changes in it, nor those
        of other turns under way.

        Raises BadArgumentsError here; NotRunningError, DeadlineError and StoreError when asked.
        """
        from perdure.actor.query import select  # the model is below its queries

        return select(cls, conditions)

    @classmethod
    async def find(cls, /, **field: Any) -> "Row[Self] | None":
        """The one actor that has this value in a `unique` field, as in `find(email="a@b.c")`.

        *Consistency:* as with `where`. That nothing was found does not keep the value free; the
        commit decides, with UniqueError.

        Raises BadArgumentsError, NotRunningError, DeadlineError and StoreError.
        """
        from perdure.actor.query import find

        return await find(cls, field)

    @property
    def key(self) -> str:
        """The key this actor is addressed by; only within a turn."""
        return _turn_of(self).activation.key

    @property
    def caller(self) -> Caller | None:
        """Who made the call this turn serves, or None if nobody signed in; only within a turn."""
        return _turn_of(self).caller

    async def save(self) -> None:
        """Commit the state as it is now, in the middle of a long turn, and wait for that.

        What comes before it is then kept, whatever becomes of the rest of the turn.
        """
        turn = _turn_of(self)
        await turn.activation.save(turn)

    @property
    def tell(self) -> Self:
        """Calls that nobody waits for: `await Stock.at("tea").tell.reserve(3)`, within a turn.

        They are committed with the turn, delivered after it, in the order in which they were sent
        to that receiver, and applied once, across crashes. A delivery that fails is tried again,
        longer and longer after; in the end it becomes a dead letter. Awaiting waits for nothing.
        """
        raise NotRunningError("tell belongs to a reference, like Stock.at('tea').tell.reserve(3)")

    @property
    def timers(self) -> "Timers":
        """The named timers of this actor; only within a turn."""
        from perdure.actor.timers import Timers

        return Timers(_turn_of(self))

    @property
    def outbox(self) -> "OutletSender":
        """Ways to the outside, such as webhooks: `self.outbox.send("mail", to=…)`, in a turn."""
        from perdure.actor.messages import OutletSender

        return OutletSender(_turn_of(self))

    def forget(self) -> None:
        """Let this actor go when the turn ends: its state, timers and collections are deleted.

        Messages it has sent are still delivered. The next call finds an actor with its defaults.
        """
        from perdure.actor.effects import effects_of

        turn = _turn_of(self)
        turn.activation.refuse_sharing(turn)
        effects_of(turn).forget = True

    async def on_expire(self) -> None:
        """Called when nobody has called this actor for the `ttl` of its class, as its last turn.

        Override it to tell others. What it changes in its own fields goes with them; when it
        raises, the actor stays, and is asked again later.
        """


def running_turn() -> "Turn":
    """The turn this code runs in; raises NotRunningError outside of any."""
    turn = current_turn.get()
    if turn is None or turn.finished:  # finished: a task outlived the turn that began it
        raise NotRunningError(
            "key, caller, save() and the like exist only while an actor runs a method"
        )
    return turn


def _turn_of(actor: Actor) -> "Turn":
    turn = running_turn()
    if turn.activation.actor is not actor:  # else `row.state.forget()` would be about the asker
        raise NotRunningError(
            f"this {type(actor).__name__} is not the one whose turn this is; if a query found it, "
            "call it through `row.reference`"
        )
    return turn


@overload
def expose(function: Function) -> Function: ...
@overload
def expose(
    *,
    access: AccessRule | None = None,
    timeout_s: float | None = None,
    body_bytes_max: int | None = None,
    rate: RateOrRates | None = None,
    route: str | None = None,
    **lifetime: Unpack[Versioned],
) -> Callable[[Function], Function]: ...
def expose(
    function: Function | None = None,
    *,
    access: AccessRule | None = None,
    timeout_s: float | None = None,
    body_bytes_max: int | None = None,
    rate: RateOrRates | None = None,
    route: str | None = None,
    **lifetime: Unpack[Versioned],
) -> Function | Callable[[Function], Function]:
    """Make a method callable over HTTP. Without it, only code of this app can call it.

    Args:
        access: `anyone`, `signed_in`, `owner` (the key is the caller's id), or a function
            `(caller, key) -> bool`, which may be async. By default `signed_in` where the App has
            `identify`, else `anyone`. Calls from Python code of the app are not checked.
        timeout_s: how long a call may take that came over HTTP: DeadlineError. Only less than
            `Limits.call_timeout_s` has an effect.
        body_bytes_max: how long its arguments may be as JSON: BodyTooLargeError. Only less than
            `Limits.call_body_bytes_max` has an effect.
        route: its name in the path; by default its own.
        version, until: the first version of the API that has it, and the first that does not have
            it any more: `/v2/…` selects, for each name, the newest that is not newer.
        deprecated, sunset: dates, since when clients should not use it and from when on it may be
            gone: they are told in the headers of every answer.
        rate: how often it may be called over HTTP, a `Rate` or several: RateLimitError.

    Raises DefinitionError for a bound that is not above zero, a rate that is none, and versions
    that make no sense.
    """
    if function is not None:
        return _with_options(function, exposed=True)
    check_bounds(timeout_s, body_bytes_max)
    rates_of(rate)
    options = {
        "access": access,
        "timeout_s": timeout_s,
        "body_bytes_max": body_bytes_max,
        "rate": rate,
        "route": route,
        "lifetime": Lifetime(**lifetime),
    }
    return lambda wrapped: _with_options(wrapped, exposed=True, **options)


def check_bounds(timeout_s: float | None, body_bytes_max: int | None) -> None:
    """Raise DefinitionError if one of the bounds of a route would let nothing through."""
    for name, bound in (("timeout_s", timeout_s), ("body_bytes_max", body_bytes_max)):
        if bound is not None and not bound > 0:
            raise DefinitionError(f"{name} is {bound}; it must be above zero")


def read(function: Function) -> Function:
    """Declare that a method changes nothing: it is never written, and answers GET if exposed.

    *Consistency:* a read is a turn like any other, after all that came before it, and its result
    waits until what it saw is durable. A change it makes is undone and raises ReadOnlyError.
    """
    return _with_options(function, read=True)


def live(function: Function) -> Function:
    """Let clients watch what a method returns: its new result after every commit that changes it.

    It implies `@read`. One result is for all who watch, so within it `self.caller` is None.

    The same name marks a field, `status: Annotated[str, live] = "new"`: all fields marked so can be
    watched together.

    *Consistency:* a watcher sees committed states only, in their order, and the newest always; when
    commits come faster than it can be told, it does not see each.
    """
    return _with_options(function, read=True, live=True)


def interleave(function: Function) -> Function:
    """Let other turns of the same actor run whenever this method waits.

    *Consistency:* each stretch between two awaits is a turn of its own: atomic and committed by
    itself. What was read before an await may have changed after it, and an exception undoes only
    the stretch it was raised in.
    """
    return _with_options(function, interleave=True)


def relaxed(*, loss_max_s: float) -> Callable[[Function], Function]:
    """Let a method answer before its change is durable, as a game's tick may.

    *Consistency:* a crash can lose at most the last `loss_max_s` seconds of such changes. Any other
    method that writes commits them along with its own, and waits for both.
    """
    return lambda wrapped: _with_options(wrapped, loss_max_s=loss_max_s)


def options_of(function: Callable[..., Any]) -> MethodOptions:
    """What the decorators said, or the defaults."""
    options = getattr(function, "__perdure__", MethodOptions())
    assert isinstance(options, MethodOptions)
    return options


def _with_options(function: Function, **changes: Any) -> Function:
    function.__perdure__ = msgspec.structs.replace(  # type: ignore[attr-defined]
        options_of(function), **changes
    )
    return function
