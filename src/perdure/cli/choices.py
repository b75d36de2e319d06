"""Options whose value is one of a few words, for every command that has them."""

from perdure.cli.failures import Failure

_LEVELS = ("debug", "info", "warning", "error")
_FORMATS = ("text", "json")


def check_logs(level: str, log_format: str) -> None:
    """Raise Failure for what --log-level and --log-format do not know."""
    _check("--log-level", level, _LEVELS)
    _check("--log-format", log_format, _FORMATS)


def _check(option: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise Failure(f"{option} is {value!r}", f"use one of: {', '.join(allowed)}")
