"""`calls_of` makes calls that fit; `actor_machine` finds where an actor and its model differ."""

import subprocess
import sys
from datetime import datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test

from perdure import Actor, DomainError, expose, read
from perdure.actor.methods import actor_type_of
from perdure.testing.properties import Call, actor_machine, calls_of


class Size(Enum):
    SMALL = "s"
    LARGE = "l"


class Line(msgspec.Struct):
    sku: Annotated[str, msgspec.Meta(min_length=1, max_length=8)]
    qty: Annotated[int, msgspec.Meta(ge=1, lt=10)]
    inside: "list[Line]" = []


class Everything(Actor):
    @expose
    async def plain(
        self, text: str, number: int, share: float, yes: bool, maybe: int | None
    ) -> None:
        pass

    @expose
    async def nested(
        self,
        line: Line,
        lines: dict[str, list[Line]],
        pair: tuple[int, str],
        by_number: dict[int, bool],
        kinds: set[Literal["a", "b"]],
        anything: Any = None,
    ) -> None:
        pass

    @expose
    async def rich(self, at: datetime, price: Decimal, size: Size, wait: timedelta) -> None:
        pass

    @expose
    async def bounded(
        self,
        even: Annotated[int, msgspec.Meta(gt=0, le=10, multiple_of=2)],
        share: Annotated[float, msgspec.Meta(ge=0, lt=1)],
        code: Annotated[str, msgspec.Meta(pattern="^[a-z]{2}$")],
    ) -> None:
        pass

    async def hidden(self) -> None:
        pass


@given(calls_of(Everything))
@settings(max_examples=150, deadline=None)
def test_every_call_fits_its_method(call: Call) -> None:
    method = actor_type_of(Everything).methods[call.method]
    assert method.options.exposed
    arguments = method.arguments_from_python((), call.arguments)
    assert isinstance(arguments, method.arguments_type)


@given(calls_of(Everything, "hidden"))
@settings(max_examples=5)
def test_methods_can_be_named(call: Call) -> None:
    assert call == Call("hidden", {})


@given(calls_of(Everything, "plain", values={"number": st.just(7)}))
@settings(max_examples=20)
def test_values_of_a_parameter_can_be_given(call: Call) -> None:
    assert call.arguments["number"] == 7


class Silent(Actor):
    async def hidden(self) -> None:
        pass


def test_what_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match="Everything has no method 'gone'"):
        calls_of(Everything, "gone")
    with pytest.raises(ValueError, match="no method has the parameter gone"):
        calls_of(Everything, values={"gone": st.none()})
    with pytest.raises(ValueError, match="Silent has no exposed method"):
        calls_of(Silent)


def test_without_hypothesis_the_error_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['hypothesis'] = None\n"
        "import perdure.testing\n"
        "try:\n    import perdure.testing.properties\n"
        "except ImportError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install hypothesis" in done.stdout, done.stderr


# -- an actor against its model --------------------------------------------------------------------


class Empty(DomainError):
    status = 409


class Till(Actor):
    coins: dict[str, int] = {}

    @expose
    async def put(self, coin: str, number: int = 1) -> int:
        self.coins[coin] = self.coins.get(coin, 0) + number
        self.timers.set(f"gone {coin}", after=timedelta(seconds=60), call="take", coin=coin)
        return self.coins[coin]

    @expose
    async def take(self, coin: str) -> int:
        if coin not in self.coins:
            raise Empty(f"no {coin}")
        self.timers.cancel(f"gone {coin}")
        return self.coins.pop(coin)

    @expose
    @read
    async def view(self) -> dict[str, int]:
        return self.coins


class TillModel:
    def __init__(self) -> None:
        self.coins: dict[str, int] = {}
        self.due_s: dict[str, float] = {}
        self.now_s = 0.0

    def put(self, coin: str, number: int = 1) -> int:
        self.coins[coin] = self.coins.get(coin, 0) + number
        self.due_s[coin] = self.now_s + 60
        return self.coins[coin]

    def take(self, coin: str) -> int:
        if coin not in self.coins:
            raise Empty(coin)
        return self.coins.pop(coin)

    def view(self) -> dict[str, int]:
        return self.coins

    def advance(self, seconds: float) -> None:
        self.now_s += seconds
        for coin in [coin for coin in self.coins if self.due_s[coin] <= self.now_s]:
            del self.coins[coin]


VALUES = {"coin": st.sampled_from(["penny", "pound"]), "number": st.integers(1, 9)}
SHORT = settings(max_examples=15, stateful_step_count=15, deadline=None)

TillMachine = actor_machine(
    Till, TillModel, values=VALUES, advance_s=st.sampled_from([1.0, 30.0, 61.0])
)


def test_an_actor_that_is_right_agrees_with_its_model() -> None:
    run_state_machine_as_test(TillMachine, settings=SHORT)


class GenerousModel(TillModel):
    def take(self, coin: str) -> int:
        return self.coins.pop(coin, 0)


def test_a_refusal_that_the_model_does_not_know_is_found() -> None:
    machine = actor_machine(Till, GenerousModel, values=VALUES)
    with pytest.raises(AssertionError, match=r"take\(coin='p\w+'\): the actor gave .*Empty"):
        run_state_machine_as_test(machine, settings=SHORT)


class PatientModel(TillModel):
    def advance(self, seconds: float) -> None:
        """Nothing is ever given back."""


def test_a_timer_that_the_model_does_not_know_is_found() -> None:
    machine = actor_machine(Till, PatientModel, values=VALUES, advance_s=st.just(61.0))
    with pytest.raises(AssertionError, match=r"the actor gave \{\}, the model \{'p"):
        run_state_machine_as_test(machine, settings=SHORT)


COUNTS: dict[str, int] = {}


class Leaky(Actor):
    """Wrong: it counts beside its state."""

    count: int = 0

    @expose
    async def add(self) -> int:
        COUNTS[self.key] = COUNTS.get(self.key, self.count) + 1
        return COUNTS[self.key]

    @expose
    @read
    async def view(self) -> int:
        return self.count


class CountModel:
    count = 0

    def add(self) -> int:
        self.count += 1
        return self.count

    def view(self) -> int:
        return self.count


def test_a_count_beside_the_state_is_found() -> None:
    def fresh() -> CountModel:
        COUNTS.clear()
        return CountModel()

    with pytest.raises(AssertionError, match="the actor gave 0, the model 1"):
        run_state_machine_as_test(actor_machine(Leaky, fresh), settings=SHORT)
