"""How a Python class name becomes a route and a table name."""

import re

_WORD_START = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def kebab_case(name: str) -> str:
    """`ShoppingCart` → `shopping-cart`, `HTTPLog` → `http-log`."""
    return _WORD_START.sub("-", name).replace("_", "-").lower()


def snake_case(name: str) -> str:
    """`ShoppingCart` → `shopping_cart`."""
    return kebab_case(name).replace("-", "_")
