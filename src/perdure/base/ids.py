"""Randomness: the only module that draws any."""

import random
import secrets


def new_id() -> str:
    """128 random bits as 32 hexadecimal digits: unique, and too many to guess."""
    return secrets.token_hex(16)


def jittered(value: float) -> float:
    """A half to one and a half times the value, so that many who wait do not come back at once."""
    return value * random.uniform(0.5, 1.5)
