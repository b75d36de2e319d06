"""JSON Merge Patch (RFC 7396): what changed between two JSON objects, where that can be said.

A merge patch cannot set a member to null, since null takes a member away, and cannot reach into an
array, which it replaces. `difference` knows: it gives a patch only if applying it leads exactly to
the new object.
"""

from typing import Any

from perdure.base.codec import encode


def difference(before: Any, after: Any) -> dict[str, Any] | None:
    """The patch that turns one object into the other; None when no patch can do that."""
    if not isinstance(before, dict) or not isinstance(after, dict):
        return None
    patch: dict[str, Any] = {name: None for name in before if name not in after}
    for name, value in after.items():
        old = before.get(name)
        if value is None:
            if old is not None or name not in before:
                return None
        elif isinstance(value, dict):
            # a patch merges into an object that is there; into anything else it puts a new one
            inner = difference(old if isinstance(old, dict) else {}, value)
            if inner is None:
                return None
            if inner or not isinstance(old, dict):
                patch[name] = inner
        elif not _is_same(old, value):
            patch[name] = value
    return patch


def apply(value: Any, patch: Any) -> Any:
    """The value after the patch; neither argument is changed."""
    if not isinstance(patch, dict):
        return patch
    result = dict(value) if isinstance(value, dict) else {}
    for name, change in patch.items():
        if change is None:
            result.pop(name, None)
        else:
            result[name] = apply(result.get(name), change)
    return result


def _is_same(old: Any, new: Any) -> bool:
    """Python takes 1, 1.0 and true for equal; JSON does not."""
    return bool(old == new) and encode(old) == encode(new)
