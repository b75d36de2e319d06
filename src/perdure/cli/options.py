"""What `perdure run` was told, on its way from the supervisor to each of its processes."""

import msgspec

from perdure.base.metrics import Audience
from perdure.cli.front import FrontOptions
from perdure.runtime.place import Place


class ServeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a process serves, what its part in it is, and how to talk about it."""

    target: str
    stores: tuple[str, ...]  # several: the cells of one app, in their order
    log_level: str = "warning"
    log_format: str = "text"
    is_again: bool = False  # another process was here before this one
    waits: bool = False  # for a database that is away
    is_first: bool = True  # of those with its role: what concerns all of them, it says for them
    place: Place = Place()
    metrics: Audience = "local"  # who may ask for them where requests come in
    front: FrontOptions = FrontOptions()

    def to_line(self) -> bytes:
        """As a line for the descriptor that a process inherits; `options_from_line` reads it.

        Not for a command line or the environment: the place holds a key, and the store may hold a
        password.
        """
        return msgspec.json.encode(self) + b"\n"


def options_from_line(line: bytes) -> ServeOptions:
    """The options that `to_line` wrote."""
    return msgspec.json.decode(line, type=ServeOptions)
