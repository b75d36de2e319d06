"""`perdure run`: check what was asked for, bind the address, and serve."""

import msgspec

from perdure.cli.address import bind
from perdure.cli.failures import Failure

_LEVELS = ("debug", "info", "warning", "error")
_FORMATS = ("text", "json")


def run_app(
    target: str,
    store: str,
    *,
    listen: str,
    with_supervisor: bool,
    log_level: str,
    log_format: str,
) -> int:
    """Serve until stopped; returns the exit code. Raises Failure."""
    _check("--log-level", log_level, _LEVELS)
    _check("--log-format", log_format, _FORMATS)
    chosen = {
        "target": target,
        "store": store,
        "log_level": log_level,
        "log_format": log_format,
    }
    bound = bind(listen)
    if with_supervisor:
        from perdure.cli.supervisor import Supervisor

        return Supervisor(msgspec.json.encode(chosen).decode(), bound).run()
    from perdure.cli.serve import ServeOptions, serve

    return serve(ServeOptions(**chosen), bound, None)


def _check(option: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise Failure(f"{option} is {value!r}", f"use one of: {', '.join(allowed)}")
