"""What schemathesis cannot know from an OpenAPI document; it loads this module by its name."""

import uuid
from typing import Any

import schemathesis


@schemathesis.hook  # type: ignore[untyped-decorator]
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """A good request gets an idempotency key of its own: under one that another request had it is
    refused, and must be. It comes without If-Match: which tag is its actor's no document tells."""
    if not _is_good(case) or case.headers is None:
        return
    case.headers.pop("If-Match", None)
    if "Idempotency-Key" in case.headers:
        case.headers["Idempotency-Key"] = str(uuid.uuid4())


@schemathesis.hook  # type: ignore[untyped-decorator]
def filter_case(context: Any, case: Any) -> bool:
    """To JSON Schema 1.0 is an integer, to us it is none, and no schema can tell the two apart."""
    return not _is_good(case) or not _has_whole_float(case.body)


def _is_good(case: Any) -> bool:
    return case.meta is not None and case.meta.generation.mode.value == "positive"


def _has_whole_float(value: Any) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return any(map(_has_whole_float, value))
    return isinstance(value, float) and value.is_integer()
