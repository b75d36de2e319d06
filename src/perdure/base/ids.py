"""Randomness: the only module that draws any."""

import secrets


def new_id() -> str:
    """128 random bits as 32 hexadecimal digits: unique, and too many to guess."""
    return secrets.token_hex(16)
