"""`perdure run`: check what was asked for, bind the address, and serve."""

from perdure.cli.address import bind
from perdure.cli.failures import Failure
from perdure.cli.options import ServeOptions

_LEVELS = ("debug", "info", "warning", "error")
_FORMATS = ("text", "json")


def run_app(options: ServeOptions, *, listen: str, with_supervisor: bool) -> int:
    """Serve until stopped; returns the exit code. Raises Failure."""
    _check("--log-level", options.log_level, _LEVELS)
    _check("--log-format", options.log_format, _FORMATS)
    _check_store(options.store)
    bound = bind(listen)
    if with_supervisor:
        from perdure.cli.supervisor import Supervisor

        return Supervisor(options, bound).run()
    from perdure.cli.serve import serve  # heavy, and the supervisor has no use for it

    return serve(options, bound)


def _check(option: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise Failure(f"{option} is {value!r}", f"use one of: {', '.join(allowed)}")


def _check_store(url: str) -> None:
    scheme, _, rest = url.partition(":")
    is_embedded = scheme == "postgresql" and rest.partition(":")[0] == "embedded"
    if not ((scheme == "sqlite" and rest) or (scheme == "memory" and not rest) or is_embedded):
        raise Failure(f"unknown store {url!r}", "use sqlite:DIRECTORY or memory:")
