"""Stored names, versions and migrations: what is refused, and how a stored state is read."""

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure import Actor, App, DefinitionError, StoreFormatError, expose, migrate
from perdure.actor.methods import ActorType, actor_type_of
from perdure.base.codec import encode
from perdure.store.api import ActorSchema, StoredActor

State = dict[str, Any]


def keep(state: State) -> State:
    return state


def stored(state: Any, schema: int) -> StoredActor:
    return StoredActor(
        "alice", encode(state), version=7, created_at_ms=1, updated_at_ms=2, schema=schema
    )


def compiled(**body: Any) -> ActorType:
    """A class called Cart with this body."""
    return actor_type_of(type("Cart", (Actor,), {"__module__": __name__, **body}))  # type: ignore[arg-type]


def versions(*tos: Any) -> dict[str, Any]:
    return {f"to_{number}": migrate(to=to)(lambda state: state) for number, to in enumerate(tos)}


class Order(Actor, name="purchase", ttl=timedelta(days=30)):
    """Renamed twice inside: version 2 splits the name, version 3 counts in cents."""

    first_name: str = ""
    last_name: str = ""
    cents: int = 0
    notes: list[str] = []

    @migrate(to=2)
    def split_the_name(state: State) -> State:
        first, _, last = state.pop("name").partition(" ")
        return {**state, "first_name": first, "last_name": last}

    @migrate(to=3)
    @staticmethod
    def count_in_cents(state: State) -> State:
        state["cents"] = round(state.pop("price") * 100)
        return state

    @expose
    async def rename(self, first: str) -> None:
        self.first_name = first


# -- what the class says -------------------------------------------------------------------------


def test_the_schema_says_name_version_fields_and_whether_it_expires() -> None:
    actor_type = actor_type_of(Order)
    assert actor_type.schema == ActorSchema(
        "purchase", 3, ("first_name", "last_name", "cents", "notes"), expires=True
    )
    assert (actor_type.name, actor_type.route_name) == ("purchase", "order")
    assert actor_type.ttl_ms == 30 * 86_400_000
    assert list(actor_type.methods) == ["rename"]


def test_a_class_that_says_nothing_is_version_1_under_its_own_name() -> None:
    actor_type = compiled()
    assert actor_type.schema == ActorSchema("cart", 1, (), expires=False)
    assert actor_type.ttl_ms is None


def test_name_and_ttl_are_not_inherited_but_fields_and_migrations_are() -> None:
    class GiftOrder(Order):
        wrapped: bool = False

    actor_type = actor_type_of(GiftOrder)
    assert (actor_type.name, actor_type.ttl_ms) == ("gift_order", None)
    assert (actor_type.schema.version, actor_type.schema.fields[-1]) == (3, "wrapped")


def test_msgspec_keywords_still_work() -> None:
    class Renamed(Actor, rename="camel", tag="cart", name="renamed_cart"):
        unit_price: int = 0

    actor_type = actor_type_of(Renamed)
    assert actor_type.schema.fields == ("unitPrice",)
    state = encode(Renamed(3))
    assert state == b'{"type":"cart","unitPrice":3}'
    assert actor_type.migrations.unknown_fields(state) == set()
    assert actor_type.decode_stored(stored({"unitPrice": 3, "new": 1}, 1)) == (Renamed(3), True)


def test_a_migration_can_be_called_like_any_function() -> None:
    assert Order.split_the_name({"name": "Ada L"}) == {"first_name": "Ada", "last_name": "L"}
    assert Order().count_in_cents({"price": 1.5}) == {"cents": 150}


def test_staticmethod_may_stand_on_either_side_or_not_at_all() -> None:
    for step in (
        migrate(to=2)(keep),
        migrate(to=2)(staticmethod(keep)),
        staticmethod(migrate(to=2)(keep)),
    ):
        assert compiled(step=step).schema.version == 2


@pytest.mark.parametrize("name", ["Cart", "shoppingCart", "a-b", "", "a b", "1a", 'x"y', 7])
def test_a_stored_name_must_be_snake_case(name: Any) -> None:
    class Wrong(Actor, name=name):
        pass

    with pytest.raises(DefinitionError, match="is not in snake_case"):
        actor_type_of(Wrong)


@pytest.mark.parametrize("name", ["perdure_request", "sqlite_x"])
def test_a_stored_name_must_not_be_reserved(name: str) -> None:
    class Wrong(Actor, name=name):
        pass

    with pytest.raises(DefinitionError, match="reserved"):
        actor_type_of(Wrong)


@pytest.mark.parametrize(
    "ttl", [timedelta(0), timedelta(seconds=-1), timedelta(milliseconds=999), 5]
)
def test_a_ttl_is_a_timedelta_of_at_least_a_second(ttl: Any) -> None:
    class Wrong(Actor, ttl=ttl):
        pass

    with pytest.raises(DefinitionError, match="at least one second"):
        actor_type_of(Wrong)


def test_two_classes_cannot_have_one_stored_name() -> None:
    class Basket(Actor, name="order"):
        pass

    class Order(Actor):
        pass

    with pytest.raises(DefinitionError, match="both be stored as 'order'"):
        App(Basket, Order)


@pytest.mark.parametrize("config", [{"array_like": True}, {"forbid_unknown_fields": False}])
def test_a_state_whose_fields_could_be_missed_is_refused(config: dict[str, bool]) -> None:
    class Wrong(Actor, **config):  # type: ignore[call-arg]
        pass

    with pytest.raises(DefinitionError, match="leave array_like"):
        actor_type_of(Wrong)


# -- which migrations there may be ---------------------------------------------------------------


def test_the_version_is_the_highest_step() -> None:
    assert compiled(**versions(2, 3, 4)).schema.version == 4
    assert compiled(**versions(5, 4)).schema.version == 5  # 2 and 3 were dropped


@pytest.mark.parametrize(
    ("tos", "reason"),
    [
        ((2, 4), r"no @migrate\(to=3\)"),
        ((3, 7), r"no @migrate\(to=4\)"),
        ((2, 2), "two migrations to version 2"),
        ((1,), "versions begin at 1"),
        ((0,), "versions begin at 1"),
        ((True,), "versions begin at 1"),
        (("2",), "versions begin at 1"),
    ],
)
def test_steps_that_make_no_sense_are_refused(tos: tuple[Any, ...], reason: str) -> None:
    with pytest.raises(DefinitionError, match=reason):
        compiled(**versions(*tos))


def test_a_migration_must_not_wait() -> None:
    async def later(state: State) -> State:
        return state

    with pytest.raises(DefinitionError, match="not async"):
        compiled(later=migrate(to=2)(later))  # type: ignore[arg-type]


# -- reading what is stored ----------------------------------------------------------------------


def test_an_old_state_goes_through_every_step_from_its_version_on() -> None:
    actor_type = actor_type_of(Order)
    first = stored({"name": "Ada Lovelace", "price": 1.25}, 1)
    second = stored({"first_name": "Ada", "last_name": "Lovelace", "price": 1.25}, 2)
    third = stored({"first_name": "Ada", "last_name": "Lovelace", "cents": 125}, 3)
    for one in (first, second, third):
        assert actor_type.decode_stored(one) == (Order("Ada", "Lovelace", 125), False)


def test_fields_that_no_step_took_are_dropped_with_the_migration() -> None:
    row = stored({"name": "Ada L", "price": 0, "obsolete": [1]}, 1)
    assert actor_type_of(Order).decode_stored(row) == (Order("Ada", "L"), False)


def test_an_unknown_field_in_the_same_version_means_newer_code() -> None:
    row = stored({"cents": 5, "loyalty": {"points": 3}}, 3)
    assert actor_type_of(Order).decode_stored(row) == (Order(cents=5), True)


def test_a_newer_version_is_read_if_it_fits() -> None:
    actor_type = actor_type_of(Order)
    assert actor_type.decode_stored(stored({"cents": 5}, 4)) == (Order(cents=5), True)
    assert actor_type.decode_stored(stored({"cents": 5, "x": 1}, 9)) == (Order(cents=5), True)
    with pytest.raises(StoreFormatError, match="it is of version 4, the class of version 3"):
        actor_type.decode_stored(stored({"cents": "5"}, 4))


def test_a_type_that_changed_needs_a_migration_and_the_error_says_so() -> None:
    with pytest.raises(StoreFormatError, match=r"Order\('alice'\).*needs @migrate"):
        actor_type_of(Order).decode_stored(stored({"cents": "5", "x": 1}, 3))


@pytest.mark.parametrize("schema", [1, 3, 4])
@pytest.mark.parametrize("state", [[], 1, None, "text"])
def test_a_state_that_is_no_object_is_refused(state: Any, schema: int) -> None:
    with pytest.raises(StoreFormatError, match="Expected `object`"):
        actor_type_of(Order).decode_stored(stored(state, schema))


def test_a_step_that_raises_is_named_with_class_and_key() -> None:
    with pytest.raises(StoreFormatError) as caught:
        actor_type_of(Order).decode_stored(stored({"price": 1}, 1))
    text = str(caught.value)
    assert text.startswith("Order('alice'): @migrate(to=2) failed on its stored state: KeyError")
    assert "what is stored is as it was" in text


@pytest.mark.parametrize("result", [None, [], "x", {"cents": object()}, {"cents": float("inf")}])
def test_a_step_that_gives_no_state_is_refused(result: Any) -> None:
    actor_type = compiled(
        __annotations__={"cents": int}, cents=0, step=migrate(to=2)(lambda _state: result)
    )
    with pytest.raises(StoreFormatError, match=r"Cart\('alice'\)"):
        actor_type.decode_stored(stored({}, 1))


def test_a_row_older_than_the_oldest_step_is_refused_with_a_hint() -> None:
    actor_type = compiled(**versions(4, 5))
    assert actor_type.decode_stored(stored({}, 3))[1] is False
    with pytest.raises(
        StoreFormatError, match=r"oldest step the class still has is @migrate\(to=4"
    ):
        actor_type.decode_stored(stored({}, 2))


def test_unknown_fields_inside_nested_structs_are_not_seen() -> None:
    """A documented limit."""

    class Line(msgspec.Struct, frozen=True):
        sku: str = ""

    actor_type = compiled(__annotations__={"line": Line}, line=Line())
    actor, newer = actor_type.decode_stored(stored({"line": {"sku": "tea", "new": 1}}, 1))
    assert (actor.line.sku, newer) == ("tea", False)  # type: ignore[attr-defined]


def test_a_step_whose_result_is_nested_too_deeply_is_refused() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    step = migrate(to=2)(lambda _state: {"value": deep})
    actor_type = compiled(__annotations__={"value": Any}, value=None, step=step)
    with pytest.raises(StoreFormatError, match="RecursionError"):
        actor_type.decode_stored(stored({}, 1))


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=10,
)


@given(
    old=st.dictionaries(TEXTS, JSON, max_size=5), tos=st.integers(1, 4), schema=st.integers(1, 4)
)
def test_a_migration_sees_exactly_what_was_stored(old: State, tos: int, schema: int) -> None:
    seen: list[State] = []

    def look(state: State) -> State:
        seen.append(dict(state))
        return {"kept": [*state.get("kept", []), len(seen)]}

    actor_type = compiled(
        __annotations__={"kept": list[int]},
        kept=[],
        **{f"to_{to}": migrate(to=to)(look) for to in range(2, tos + 1)},
    )
    old.pop("kept", None)
    actor, newer = actor_type.decode_stored(stored(old, schema))
    ran = max(0, tos - schema)
    assert actor.kept == list(range(1, ran + 1))  # type: ignore[attr-defined]
    assert seen[:1] == [old] * min(ran, 1)
    assert newer == (schema > tos or (schema == tos and bool(old)))


@given(known=JSON, others=st.dictionaries(TEXTS, JSON, max_size=5))
def test_what_is_known_is_read_the_same_whatever_stands_beside_it(
    known: Any, others: State
) -> None:
    actor_type = compiled(__annotations__={"value": Any}, value=None)
    others.pop("value", None)
    alone, _ = actor_type.decode_stored(stored({"value": known}, 1))
    beside, newer = actor_type.decode_stored(stored({**others, "value": known}, 1))
    assert beside == alone
    assert newer == bool(others)
