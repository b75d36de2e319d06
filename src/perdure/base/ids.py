"""Randomness: the only module that draws any."""

import os
from collections.abc import Callable

_draw: Callable[[int], bytes] = os.urandom


def new_id() -> str:
    """128 random bits as 32 hexadecimal digits: unique, and too many to guess."""
    return _draw(16).hex()


def jittered(value: float) -> float:
    """A half to one and a half times the value, so that many who wait do not come back at once."""
    return value * (0.5 + random_below(1.0))


def random_below(limit: float) -> float:
    """A number from 0 up to `limit`, any as likely as another: to keep two from acting in step."""
    return (int.from_bytes(_draw(7), "big") >> 3) / (1 << 53) * limit


def draw_from(source: Callable[[int], bytes] | None) -> None:
    """Draw random bytes from elsewhere: a simulation repeats a run. None: from the system again."""
    global _draw
    _draw = os.urandom if source is None else source
