"""A merge patch is given only where applying it is exact."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.base.merge_patch import apply, difference

NAMES = st.sampled_from(["a", "b", "c"])  # few, so that the same ones meet
LEAVES = st.none() | st.booleans() | st.sampled_from([0, 1, 1.0, -0.0, "", "x"])
VALUES: st.SearchStrategy[Any] = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(NAMES, VALUES, max_size=3)


def canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


@given(OBJECTS, OBJECTS)
@settings(max_examples=500)
def test_a_patch_leads_exactly_to_the_new_value(before: Any, after: Any) -> None:
    patch = difference(before, after)
    if patch is not None:
        kept = canonical(before)
        assert canonical(apply(before, patch)) == canonical(after)
        assert canonical(before) == kept
    elif "null" not in canonical(after):
        pytest.fail("only a null keeps an object from being patched")


@given(VALUES)
def test_nothing_changed_is_an_empty_patch(value: Any) -> None:
    assert difference(value, value) == ({} if isinstance(value, dict) else None)


@pytest.mark.parametrize(
    ("before", "after", "patch"),
    [
        ({"a": 1}, {"a": 2}, {"a": 2}),
        ({"a": 1, "b": 2}, {"b": 2}, {"a": None}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1}}, {"a": {"c": None}}),
        ({"a": [1]}, {"a": [1, None]}, {"a": [1, None]}),
        ({"a": 1}, {"a": {"b": 2}}, {"a": {"b": 2}}),
        ({"a": 1}, {"a": {}}, {"a": {}}),
        ({"a": None}, {"a": None, "b": 1}, {"b": 1}),
        ({"a": True}, {"a": 1}, {"a": 1}),
        ({}, {"a": None}, None),
        ({"a": 1}, {"a": {"b": None}}, None),
        ([1], [2], None),
        ({"a": 1}, [2], None),
    ],
)
def test_patches_as_the_standard_has_them(before: Any, after: Any, patch: Any) -> None:
    assert difference(before, after) == patch
