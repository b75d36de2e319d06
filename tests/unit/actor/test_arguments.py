"""Whatever JSON or text comes in is a valid call or BadArgumentsError, never another exception."""

import json
from collections.abc import Callable
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure import Actor, BadArgumentsError
from perdure.actor.methods import actor_type_of


class Line(msgspec.Struct):
    sku: str
    qty: int = 1


class Order(Actor):
    async def place(
        self,
        sku: str,
        qty: int = 1,
        price: float | None = None,
        lines: list[Line] = [],  # noqa: B006
        how: Literal["fast", "slow"] = "fast",
        extra: dict[str, Any] = {},  # noqa: B006
    ) -> None: ...

    async def number(self, count: int) -> None: ...

    async def nothing(self) -> None: ...


METHODS = actor_type_of(Order).methods
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(["sku", "qty", "price", "lines", "how", "extra", "more", ""])


def _call_or_refusal(convert: Callable[..., msgspec.Struct], *values: Any) -> msgspec.Struct | None:
    """The arguments; None when they were refused. Any other exception is a bug."""
    try:
        return convert(*values)
    except BadArgumentsError:
        return None


def _is_call_or_refusal(name: str, body: bytes) -> None:
    method = METHODS[name]
    arguments = _call_or_refusal(method.arguments_from_json, body)
    if arguments is not None:
        assert method.arguments_from_json(msgspec.json.encode(arguments)) == arguments


@given(name=st.sampled_from(sorted(METHODS)), value=JSON | st.dictionaries(FIELDS, JSON))
def test_any_json_is_a_call_or_a_refusal(name: str, value: Any) -> None:
    _is_call_or_refusal(name, json.dumps(value).encode())


@given(name=st.sampled_from(sorted(METHODS)), body=st.binary(max_size=200))
def test_any_bytes_are_a_call_or_a_refusal(name: str, body: bytes) -> None:
    _is_call_or_refusal(name, body)


@given(
    name=st.sampled_from(sorted(METHODS)),
    values=st.dictionaries(FIELDS | st.just("count"), st.text()),
)
def test_any_query_is_a_call_or_a_refusal(name: str, values: dict[str, str]) -> None:
    arguments = _call_or_refusal(METHODS[name].arguments_from_text, values)
    assert arguments is None or isinstance(arguments, METHODS[name].arguments_type)


@given(JSON)
def test_any_python_value_is_a_call_or_a_refusal(value: Any) -> None:
    for method in METHODS.values():
        arguments = _call_or_refusal(method.arguments_from_python, (value,), {})
        assert arguments is None or isinstance(arguments, method.arguments_type)


@pytest.mark.parametrize(
    "body",
    [
        b'{"sku":"a","extra":{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}}",
        b"[" * 200_000,
        b'{"sku":"\xff"}',
        b"\xff\xfe",
        b'{"sku":"\\ud800"}',
        b'{"sku":"a","qty":1e400}',
        b'{"sku":"a","qty":' + b"9" * 5000 + b"}",
        b'{"sku":"a","price":NaN}',
    ],
)
def test_hostile_json_is_refused(body: bytes) -> None:
    with pytest.raises(BadArgumentsError):
        METHODS["place"].arguments_from_json(body)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"{}", "sku"),
        (b'{"sku":1}', "sku"),
        (b'{"sku":"a","qty":"1"}', "qty"),
        (b'{"sku":"a","nope":1}', "nope"),
        (b'{"sku":"a","how":"late"}', "how"),
        (b'{"sku":"a","lines":[{"sku":"b","qty":[]}]}', "lines[0].qty"),
        (b"[]", None),
        (b"{", None),
    ],
)
def test_a_refusal_names_the_field(body: bytes, field: str | None) -> None:
    with pytest.raises(BadArgumentsError) as caught:
        METHODS["place"].arguments_from_json(body)
    if field is None or "." not in field:
        assert caught.value.field == field
    else:
        assert caught.value.field is not None
        assert caught.value.field.startswith("lines[")


def test_no_body_is_no_arguments() -> None:
    assert METHODS["nothing"].arguments_from_json(b"") == METHODS["nothing"].arguments_from_json(
        b"{}"
    )


def test_python_arguments_are_bound_like_a_call() -> None:
    method = METHODS["place"]
    assert method.arguments_from_python(("a",), {"qty": 2}) == method.arguments_from_json(
        b'{"sku":"a","qty":2}'
    )
    for positional, named in (((), {}), (("a",), {"sku": "b"}), (("a",), {"x": 1}), ((1,), {})):
        with pytest.raises(BadArgumentsError, match=r"Order\.place|Expected"):
            method.arguments_from_python(positional, named)
