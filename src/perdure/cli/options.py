"""What `perdure run` was told, on its way from the supervisor to the server."""

import msgspec


class ServeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What to serve, and how to talk about it."""

    target: str
    store: str
    log_level: str = "warning"
    log_format: str = "text"
    is_again: bool = False  # a server ran before this one, and died

    def to_text(self) -> str:
        """As one argument of a command line; `options_from_text` reads it."""
        return msgspec.json.encode(self).decode()


def options_from_text(text: str) -> ServeOptions:
    """The options that `to_text` wrote."""
    return msgspec.json.decode(text, type=ServeOptions)
