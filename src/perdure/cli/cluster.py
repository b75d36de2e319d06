"""`perdure cluster`: who owns the actors of a database, and letting one hand over all it has.

Everything is read from the registry, and a drain is asked for there: no process has to be reached.
Nothing is created, not even in a database that no cluster has ever run on.
"""

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec
from rich.console import Console

from perdure.base.clock import SystemClock
from perdure.base.codec import encode
from perdure.base.errors import PerdureError
from perdure.base.shards import SHARDS
from perdure.cli.failures import NO_INPUT, NOT_YET, Failure, failure_of
from perdure.cli.tables import print_columns
from perdure.cluster.assignment import targets
from perdure.store.registry import Member, Registry, View
from perdure.store.url import registry_from_url

_WAIT_S = 300.0  # the longest that `drain --wait` waits: a turn may run for so long, hardly longer
_LOOK_S = 0.2

T = TypeVar("T")


class Row(msgspec.Struct):
    """One member, as `--json` tells it."""

    incarnation: int
    name: str
    address: str
    release: str
    state: str
    lease_left_ms: int
    shards: int


class Overview(msgspec.Struct):
    """What `--json` prints."""

    version: int
    members: list[Row]
    shards: int
    shards_without_owner: int


def show(url: str, console: Console) -> None:
    """Print the members and what they own. Raises Failure."""
    overview = _run(_overview(url))
    names = ("incarnation", "name", "address", "release", "state", "lease left", "shards")
    rows = [
        (one.incarnation, one.name, one.address, one.release, one.state, _lease(one), one.shards)
        for one in overview.members
    ]
    if rows:
        print_columns(console, rows, names)
        console.print()
    without = overview.shards_without_owner
    console.print(
        f"{len(rows)} member{'' if len(rows) == 1 else 's'}, version {overview.version} of the map, "
        f"{without:,} of {overview.shards:,} shards without an owner"
    )


def as_json(url: str) -> bytes:
    """The same as one line of JSON. Raises Failure."""
    return encode(_run(_overview(url))) + b"\n"


def why_not_ready(url: str) -> str | None:
    """Why an exec probe on this machine should say no; None: it is ready. Raises Failure."""
    return _run(_why_not_ready(url))


def drain(url: str, node: str, *, wait: bool) -> Member:
    """Ask a member to hand over everything, and wait for it if told to. Raises Failure."""
    return _run(_drain(url, node, wait=wait))


def _lease(row: Row) -> str:
    return f"{row.lease_left_ms / 1000:.1f} s" if row.lease_left_ms >= 0 else "over"


def _run(work: Coroutine[Any, Any, T]) -> T:
    try:
        return asyncio.run(work)
    except PerdureError as error:
        raise failure_of(error) from error


@asynccontextmanager
async def _registry(url: str) -> AsyncIterator[Registry]:
    registry = registry_from_url(url)
    if registry is None:
        raise Failure(
            f"{url.partition(':')[0]}: this store has one owner and no members to show",
            "clusters run on PostgreSQL: --store postgresql://…",
        )
    try:
        await registry.open(make_tables=False)
        yield registry
    finally:
        await registry.close()


async def _overview(url: str) -> Overview:
    async with _registry(url) as registry:
        view = await registry.view(0)
    owned = _owned(view)
    members = [
        Row(
            one.incarnation,
            one.name,
            one.address,
            one.release,
            one.state,
            one.lease_left_ms,
            owned[one.incarnation],
        )
        for one in view.members
    ]
    return Overview(view.version, members, SHARDS, SHARDS - sum(one.shards for one in members))


def _owned(view: View) -> Counter[int]:
    return Counter(view.owners or ())


async def _why_not_ready(url: str) -> str | None:
    """The members of this machine live and own what they can, and no shard is without an owner.

    That is what must be so before the next machine may be taken down. It is not asked whether all
    shards are where they should be: one long turn would keep its shard, and a roll-out, for long.
    """
    async with _registry(url) as registry:
        view = await registry.view(0)
    living = {one.incarnation: one for one in view.members if one.lease_left_ms >= 0}
    host = socket.gethostname()
    here = [key for key, one in living.items() if one.name.partition("/")[0] == host]
    if not here:
        return f"no member on {host} has a lease"
    owned, wanted = _owned(view), set(targets(living.values()))
    if idle := [key for key in here if key in wanted and not owned[key]]:
        return f"{living[idle[0]].name} owns nothing yet"
    if lost := SHARDS - sum(owned[key] for key in living):
        return f"{lost:,} shards have no living owner"
    return None


async def _drain(url: str, node: str, *, wait: bool) -> Member:
    async with _registry(url) as registry:
        view = await registry.view(0)
        member = _the_one(node, view.members)
        owned = _owned(view)[member.incarnation]
        others = [one for one in view.members if one.state == "active" and one.lease_left_ms >= 0]
        if owned and all(one.incarnation == member.incarnation for one in others):
            raise Failure(f"nobody else is there to take the {owned:,} shards of {member.name}")
        if not await registry.ask_to_drain(member.incarnation):
            raise Failure(f"{member.name} has just left", exit_code=NO_INPUT)
        if wait:
            await _wait_until_drained(registry, member)
    return member


async def _wait_until_drained(registry: Registry, member: Member) -> None:
    clock = SystemClock()
    end_s = clock.monotonic_s() + _WAIT_S
    while owned := _owned(await registry.view(0))[member.incarnation]:
        if clock.monotonic_s() >= end_s:
            raise Failure(
                f"{member.name} still owns {owned:,} shards after {_WAIT_S:g} s; it goes on",
                exit_code=NOT_YET,
            )
        await clock.sleep(_LOOK_S)


def _the_one(node: str, members: Sequence[Member]) -> Member:
    """The member with this incarnation or name, or the only one whose name begins so."""
    by_incarnation = [one for one in members if str(one.incarnation) == node]
    by_name = [one for one in members if one.name == node]
    by_prefix = [one for one in members if one.name.startswith(node)]
    found = by_incarnation or by_name or by_prefix
    if len(found) == 1:
        return found[0]
    if not found:
        raise Failure(
            f"there is no member {node!r}", "perdure cluster shows them", exit_code=NO_INPUT
        )
    told = ", ".join(f"{one.incarnation} ({one.name})" for one in found)
    raise Failure(f"{node!r} may be several members: {told}", "say the incarnation")
