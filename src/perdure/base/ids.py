"""Randomness: the only module that draws any."""

import secrets


def new_id() -> str:
    """128 random bits as 32 hexadecimal digits: unique, and too many to guess."""
    return secrets.token_hex(16)


def jittered(value: float) -> float:
    """A half to one and a half times the value, so that many who wait do not come back at once."""
    return value * (0.5 + random_below(1.0))


def random_below(limit: float) -> float:
    """A number from 0 up to `limit`, any as likely as another: to keep two from acting in step."""
    return secrets.randbits(53) / (1 << 53) * limit
