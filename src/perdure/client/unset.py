"""Stands for what is left out of a call. Generated clients in Python hold it word for word."""

import enum


class Unset(enum.Enum):
    """What an argument or a field is that is left out, so that the server's own default counts."""

    UNSET = "unset"


UNSET = Unset.UNSET
