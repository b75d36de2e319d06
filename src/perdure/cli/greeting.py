"""The one line that says what runs, where it is reached, and where its data are."""

import socket
from collections.abc import Sequence
from urllib.parse import urlsplit

from perdure.cli.address import url_of
from perdure.cli.layout import Layout
from perdure.cli.options import ServeOptions


def greeting(
    options: ServeOptions,
    bound: socket.socket | None,
    metrics: Sequence[socket.socket],
    layout: Layout,
) -> str:
    """What `perdure run` says once everything serves."""
    what = (
        f"serving {options.target} on {_url(options, bound)}"
        if bound
        else f"running {options.target}"
    )
    parts = (str(layout), _all_data(options.stores), _metrics(metrics))
    told = [text for text in parts if text]
    return f"Perdure is {what} ({'; '.join(told)})"


def _url(options: ServeOptions, bound: socket.socket) -> str:
    return options.front.scheme + url_of(bound).removeprefix("http")


def _all_data(stores: Sequence[str]) -> str:
    if len(stores) == 1:
        return _data(stores[0])
    return f"{_data(stores[0])} and {len(stores) - 1} more"


def _metrics(bound: Sequence[socket.socket]) -> str:
    if not bound:
        return ""
    ports = [one.getsockname()[1] for one in bound[1:]]
    return ", ".join([f"metrics on {url_of(bound[0])}", *map(str, ports)])


def _data(store: str) -> str:
    scheme, _, rest = store.partition(":")
    if scheme == "sqlite":
        return f"data in {rest}"
    if scheme == "memory":
        return "data in memory, gone when it stops"
    if rest.partition(":")[0] == "embedded":
        return f"data in {rest.partition(':')[2] or 'data'}, an embedded PostgreSQL"
    parts = urlsplit(store)  # there may be a password in it
    return f"data in PostgreSQL at {parts.hostname or 'localhost'}{parts.path}"
