"""Which source of backends the options of `perdure balance` name."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import msgspec

from perdure.balance.backends import Target
from perdure.balance.sources import DnsSource, FileSource, FixedSource, Source, read_once
from perdure.balance.sources_store import StoreSource
from perdure.base.clock import SystemClock
from perdure.base.errors import SourceError, StoreError
from perdure.cli.failures import NO_INPUT, Failure
from perdure.store.registry import Registry
from perdure.store.url import registry_from_url

_HINT = "give BACKEND…, or one of --file, --dns and --store"


class SourceOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Where backends are named; one of these."""

    file: str | None = None
    dns: str | None = None
    stores: tuple[str, ...] = ()  # the cells of one cluster, in their order


def source_of(
    targets: Sequence[Target], options: SourceOptions, *, with_owners: bool = False
) -> Source:
    """The source; raises Failure unless there is exactly one."""
    given = [bool(targets), options.file is not None, options.dns is not None, options.stores != ()]
    if sum(given) != 1:
        raise Failure("no backends" if not any(given) else "backends from two sources", _HINT)
    if with_owners and not options.stores:
        raise Failure("who owns an actor is only told by its cluster", "--by-owner needs --store")
    if options.file is not None:
        return FileSource(Path(options.file))
    if options.dns is not None:
        try:
            return DnsSource(options.dns)
        except SourceError as error:
            raise Failure(f"--dns: {error}", "for example --dns shop.internal:8000") from error
    if options.stores:
        registries = [_registry(url) for url in options.stores]
        return StoreSource(registries, SystemClock(), with_owners=with_owners)
    return FixedSource(targets)


def check_file(path: str) -> None:
    """Raise Failure if nothing can be read in it now. Later that only keeps the list before; and
    so it is for a process that is started again."""
    try:
        asyncio.run(read_once(FileSource(Path(path))))
    except SourceError as error:
        raise Failure(f"--file {error}", exit_code=NO_INPUT) from error


def _registry(url: str) -> Registry:
    try:
        registry = registry_from_url(url)
    except StoreError as error:
        raise Failure(str(error)) from error
    if registry is None:
        raise Failure(
            "a store in memory or SQLite belongs to one machine, and tells others nothing",
            "--store postgresql://…, or name the backends",
        )
    return registry
