"""Logs for people and machines: one line an event, a constant message, then its fields."""

import json
import logging
from datetime import UTC, datetime
from typing import Any

from perdure.actor.trail import names_here

_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


# At the level `warning` their info is told too: what a server does with its life.
_LIFE_CYCLE = ("perdure.server", "perdure.supervisor")


def set_up_logs(level: str, log_format: str) -> None:
    """Send the `perdure` loggers, and warnings of all others, to standard error."""
    handler = logging.StreamHandler()
    handler.addFilter(_name_trail)
    handler.setFormatter(_Json() if log_format == "json" else _Text())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("perdure").setLevel(level.upper())
    for name in _LIFE_CYCLE if level == "warning" else ():
        logging.getLogger(name).setLevel(logging.INFO)


def _name_trail(record: logging.LogRecord) -> bool:
    """Let a line say which request the code that logs belongs to, unless it says so itself."""
    for name, value in names_here().items():
        if not hasattr(record, name):
            setattr(record, name, value)
    return True


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _OWN}


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        parts = [_time(record), record.levelname.lower(), record.name, record.getMessage()]
        parts += [
            f"{key}={json.dumps(value, default=str)}" for key, value in _fields(record).items()
        ]
        if record.exc_info:
            parts.append("\n" + self.formatException(record.exc_info))
        return " ".join(parts)


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        event = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            event["traceback"] = self.formatException(record.exc_info)
        return json.dumps(event, default=str)
