"""Random tests of actors with hypothesis, which this module needs and the rest does not.

`calls_of(Cart)` makes calls that fit the signatures; `actor_machine(Cart, CartModel)` compares an
actor with a model of it, a class of plain Python, under random calls, crashes and passing time.
"""

import asyncio
import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

import msgspec

from perdure.actor.methods import ActorType, Method, actor_type_of
from perdure.actor.model import Actor
from perdure.base.codec import decoder, encode
from perdure.base.errors import DomainError
from perdure.testing import VirtualClock, crash, running
from perdure.web.app import App

try:
    from hypothesis import strategies as st
    from hypothesis.stateful import RuleBasedStateMachine, rule
except ImportError as error:
    raise ImportError(
        "perdure.testing.properties needs hypothesis: python -m pip install hypothesis"
    ) from error

from perdure.testing.json_strategies import json_values

__all__ = ["Call", "actor_machine", "calls_of"]

_plain = decoder(Any).decode


class Call(msgspec.Struct, frozen=True):
    """One call of a method, yet to be made: `await call.on(Cart.at("alice"))`."""

    method: str
    arguments: dict[str, Any]

    def on(self, target: Any) -> Any:
        """Make it: on a reference, and then it is to be awaited, or on a model."""
        return getattr(target, self.method)(**self.arguments)


def calls_of(
    actor_class: type[Actor],
    *methods: str,
    values: Mapping[str, "st.SearchStrategy[Any]"] | None = None,
) -> "st.SearchStrategy[Call]":
    """Calls with any arguments that fit: of these methods, or of all that are exposed.

    `values` has strategies for parameters by name, to be used instead of what the type allows:
    `calls_of(Cart, values={"sku": st.sampled_from(["tea", "milk"])})`. Raises ValueError for a
    method or parameter that is not there, or when there is no method to call.
    """
    actor_type = actor_type_of(actor_class)
    chosen = [_method(actor_type, name) for name in methods] or [
        method for method in actor_type.methods.values() if method.options.exposed
    ]
    if not chosen:
        raise ValueError(f"{actor_class.__name__} has no exposed method; name those to call")
    known = {name for method in chosen for name in method.arguments_type.__struct_fields__}
    if unknown := set(values or ()) - known:
        raise ValueError(f"no method has the parameter {', '.join(sorted(unknown))}")
    return st.one_of([_calls(method, values or {}) for method in chosen])


def _method(actor_type: ActorType, name: str) -> Method:
    if name not in actor_type.methods:
        raise ValueError(f"{actor_type.actor_class.__name__} has no method {name!r}")
    return actor_type.methods[name]


def _calls(
    method: Method, values: Mapping[str, "st.SearchStrategy[Any]"]
) -> "st.SearchStrategy[Call]":
    required: dict[str, st.SearchStrategy[Any]] = {}
    optional: dict[str, st.SearchStrategy[Any]] = {}
    for field in msgspec.structs.fields(method.arguments_type):
        strategy = values.get(field.name)
        if strategy is None:
            strategy = json_values(field.type).map(_converter(field.type))
        (required if field.required else optional)[field.name] = strategy
    arguments = st.fixed_dictionaries(required, optional=optional)
    return arguments.map(lambda given: Call(method.name, given))


def _converter(wanted: Any) -> Callable[[Any], Any]:
    return lambda value: msgspec.json.decode(encode(value), type=wanted)


# -- an actor against its model --------------------------------------------------------------------


def actor_machine(
    actor_class: type[Actor],
    model: Callable[[], Any],
    *,
    keys: Sequence[str] = ("a", "b"),
    values: Mapping[str, "st.SearchStrategy[Any]"] | None = None,
    advance_s: "st.SearchStrategy[float] | None" = None,
    others: Sequence[type[Actor]] = (),
) -> type[RuleBasedStateMachine]:
    """A hypothesis state machine that compares an actor with a model of it; `.TestCase` is a test.

    `model()` makes one model per key: an object with the same methods, not async. Each call must
    give the same result on both, compared as JSON, or be refused by both with a DomainError of the
    same class. Crashes come at any time; after each, all exposed `@read` methods without parameters
    must still agree. With `advance_s`, time passes too, and the model's `advance(seconds)` is
    called. `others` are classes that run along.
    """
    steps: dict[str, Any] = {
        "call": rule(key=st.sampled_from(list(keys)), call=calls_of(actor_class, values=values))(
            _call
        ),
        "crash": rule()(_crash),
    }
    if advance_s is not None:
        steps["advance"] = rule(seconds=advance_s)(_advance)
    body = {"pair": (actor_class, *others), "model": staticmethod(model), "keys": tuple(keys)}
    return type(f"{actor_class.__name__}Machine", (_ActorMachine,), body | steps)


class _ActorMachine(RuleBasedStateMachine):
    pair: tuple[type[Actor], ...]
    model: Callable[[], Any]
    keys: tuple[str, ...]

    def __init__(self) -> None:
        super().__init__()
        self.models = {key: self.model() for key in self.keys}
        self.clock = VirtualClock()
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.app: App = self.runner.run(self._start())

    async def _start(self) -> App:
        return await self.stack.enter_async_context(running(*self.pair, clock=self.clock))

    def compare(self, key: str, call: Call) -> None:
        """Make a call on both sides."""
        expected = _outcome_of_model(self.models[key], call)
        got = self.runner.run(_outcome(self.pair[0], key, call))
        self.runner.run(self.clock.advance(0))  # messages that it sent have arrived
        told = ", ".join(f"{name}={value!r}" for name, value in call.arguments.items())
        at = f"{self.pair[0].__name__}({key!r}).{call.method}({told})"
        assert got == expected, f"{at}: the actor gave {got!r}, the model {expected!r}"

    def compare_reads(self) -> None:
        """Call all reads that need no arguments on both sides."""
        for method in actor_type_of(self.pair[0]).methods.values():
            if (
                method.read
                and method.options.exposed
                and not method.arguments_type.__struct_fields__
            ):
                for key in self.keys:
                    self.compare(key, Call(method.name, {}))

    def teardown(self) -> None:
        try:
            self.runner.run(self.stack.aclose())
        finally:
            self.runner.close()


def _call(self: _ActorMachine, key: str, call: Call) -> None:
    self.compare(key, call)


def _crash(self: _ActorMachine) -> None:
    self.runner.run(crash(self.app))
    self.compare_reads()


def _advance(self: _ActorMachine, seconds: float) -> None:
    self.runner.run(self.clock.advance(seconds))
    for model in self.models.values():
        model.advance(seconds)
    self.compare_reads()


async def _outcome(actor_class: type[Actor], key: str, call: Call) -> Any:
    try:
        return _plain(encode(await call.on(actor_class.at(key))))
    except DomainError as error:
        return type(error)


def _outcome_of_model(model: Any, call: Call) -> Any:
    try:
        return _plain(encode(copy.deepcopy(call).on(model)))  # it may keep what it is given
    except DomainError as error:
        return type(error)
