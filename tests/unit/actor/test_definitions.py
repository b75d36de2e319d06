"""A class that cannot work as an actor is refused at import, with a message that says why."""

from typing import Any

import pytest

from perdure import Actor, App, DefinitionError, expose
from perdure.actor.methods import actor_type_of


class Kind:
    """Not JSON."""


def _refused(actor: type[Actor]) -> str:
    with pytest.raises(DefinitionError) as caught:
        App(actor, store="memory:")
    return str(caught.value)


def test_a_field_needs_a_default() -> None:
    class Wrong(Actor):
        owner: str

    assert "Wrong.owner has no default" in _refused(Wrong)


@pytest.mark.parametrize("name", ["at", "caller", "save"])
def test_names_of_actor_itself_are_taken(name: str) -> None:
    async def method(self: Any) -> None: ...

    wrong = type("Wrong", (Actor,), {name: method, "__module__": __name__})
    assert f"Wrong.{name}: that name belongs to Actor itself" in _refused(wrong)


def test_a_field_cannot_be_called_key() -> None:
    class Wrong(Actor):
        key: str = ""

    assert "Wrong.key: that name belongs to Actor itself" in _refused(Wrong)


def test_an_exposed_method_must_be_async() -> None:
    class Wrong(Actor):
        @expose
        def add(self) -> None: ...

    assert "Wrong.add must be `async def`" in _refused(Wrong)


def test_parameters_need_types() -> None:
    class Wrong(Actor):
        async def add(self, amount) -> None: ...  # type: ignore[no-untyped-def]

    assert "Wrong.add: parameter amount has no type" in _refused(Wrong)


def test_variable_parameters_have_no_place_in_json() -> None:
    class Wrong(Actor):
        async def add(self, *amounts: int) -> None: ...

    class Wronger(Actor):
        async def add(self, **amounts: int) -> None: ...

    assert "*amounts has no place in a JSON object" in _refused(Wrong)
    assert "*amounts has no place in a JSON object" in _refused(Wronger)


def test_keyword_only_parameters_are_refused_with_the_way_out() -> None:
    class Wrong(Actor):
        async def add(self, *, amount: int) -> None: ...

    assert "parameter amount is keyword-only; leave the * out" in _refused(Wrong)


def test_annotations_must_be_readable() -> None:
    class Wrong(Actor):
        async def add(self, amount: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821

    assert "Wrong.add: its annotations cannot be read" in _refused(Wrong)


def test_a_default_must_be_copyable() -> None:
    class Wrong(Actor):
        async def add(self, amounts: list[int] = [1]) -> None: ...  # noqa: B006

    assert "Wrong.add" in _refused(Wrong)


def test_a_union_that_json_cannot_tell_apart_is_refused() -> None:
    class Wrong(Actor):
        async def add(self, amount: Kind | int | str) -> None: ...

    class Wronger(Actor):
        amount: Kind | int | str = 0

    assert "Wrong.add: its parameters cannot be read from JSON" in _refused(Wrong)
    assert "Wronger: its fields cannot be read from JSON" in _refused(Wronger)


@pytest.mark.parametrize("name", ["PerdureThing", "SqliteThing"])
def test_names_of_the_stores_own_tables_are_reserved(name: str) -> None:
    assert "reserved" in _refused(type(name, (Actor,), {"__module__": __name__}))


def test_two_classes_with_one_route_are_refused() -> None:
    one = type("ShopCart", (Actor,), {"__module__": __name__})
    two = type("Shop_Cart", (Actor,), {"__module__": __name__})
    with pytest.raises(DefinitionError, match="/shop-cart"):
        App(one, two)


def test_methods_that_only_python_may_call_need_no_decorator() -> None:
    class Fine(Actor):
        total: int = 0

        async def add(self, amount: int, tags: list[str] = []) -> int:  # noqa: B006
            return amount

        async def _private(self) -> None: ...

        def helper(self) -> int:
            return self.total

    assert list(actor_type_of(Fine).methods) == ["add"]
