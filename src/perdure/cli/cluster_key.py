"""The key that all processes of a cluster share: from a file or the environment, never argv.

What stands on a command line is read by everyone who may call `ps`.
"""

import os
import stat
from pathlib import Path

from perdure.cli.failures import NO_INPUT, Failure

VARIABLE = "PERDURE_CLUSTER_KEY"
CHARACTERS_MIN = 32
_BYTES_MAX = 4096
_HINT = (
    "make one with (umask 077; openssl rand -hex 32 > cluster.key), give it to every machine, "
    "and say --cluster-key-file cluster.key"
)


def read_key(file: Path | None) -> bytes:
    """The key in the file, or else in the environment, which then forgets it; b"" if in neither.

    Raises Failure for a file that cannot be read, and for a key that is too short to be one.
    """
    # taken away, since everything that the app starts would inherit it
    from_environment = os.environ.pop(VARIABLE, "")
    where = VARIABLE if file is None else str(file)
    text = from_environment if file is None else _read(file)
    key = text.strip()
    if len(key) < CHARACTERS_MIN and (key or file is not None):
        raise Failure(
            f"the key in {where} has {len(key)} characters; at least {CHARACTERS_MIN} are needed",
            _HINT,
        )
    return key.encode()


def no_key(why: str) -> Failure:
    """The failure of an option that needs a key, and what to do about it."""
    return Failure(f"{why} needs the key that all processes of the cluster share", _HINT)


def is_read_by_others(file: Path) -> bool:
    """Whether others than its owner may read or change the file."""
    return bool(stat.S_IMODE(file.stat().st_mode) & (stat.S_IRWXG | stat.S_IRWXO))


def _read(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return opened.read(_BYTES_MAX).decode()
    except OSError as error:
        raise Failure(f"cannot read {file}: {error.strerror}", exit_code=NO_INPUT) from error
    except UnicodeDecodeError as error:
        raise Failure(f"the key in {file} is no text", _HINT) from error
