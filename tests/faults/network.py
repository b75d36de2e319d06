"""A network of one's own: hosts that are network namespaces, around a router that can drop packets.

Each host has a veth pair to the router, which is a namespace, too, so nothing outside is touched. A
packet that a rule of the router drops is gone without a word, in one direction or both, also on
connections that stand: neither end learns of it, as when a cable is pulled behind a switch.
"""

import ctypes
import os
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Self

import pytest

_CLONE_NEWNET = 0x40000000
_ROUTER = "router"


class Network:
    """Hosts by name, such as `n1` or `db`. Use as a context manager."""

    def __init__(self, *hosts: str) -> None:
        self._numbers = {host: number for number, host in enumerate(hosts, 1)}
        self._prefix = f"perdure-{os.getpid()}-"
        self._cuts: set[tuple[str, str]] = set()

    def __enter__(self) -> Self:
        try:
            for host in (_ROUTER, *self._numbers):
                _ip("netns", "add", self._prefix + host)
                self._ip(host, "link", "set", "lo", "up")
            self._run(_ROUTER, "sysctl", "-qw", "net.ipv4.ip_forward=1")
            for host, number in self._numbers.items():
                self._connect(host, number)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for host in (*self._numbers, _ROUTER):
            name = self._prefix + host
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)

    def _connect(self, host: str, number: int) -> None:
        end = f"to-{host}"
        names = ("name", end, "type", "veth", "peer", "name", "eth0", "netns", self._prefix + host)
        self._ip(_ROUTER, "link", "add", *names)
        self._ip(_ROUTER, "address", "add", f"10.77.{number}.1/24", "dev", end)
        self._ip(_ROUTER, "link", "set", end, "up")
        self._ip(host, "address", "add", f"{self.address(host)}/24", "dev", "eth0")
        self._ip(host, "link", "set", "eth0", "up")
        self._ip(host, "route", "add", "default", "via", f"10.77.{number}.1")

    # -- what runs in it -------------------------------------------------------------------------

    def address(self, host: str) -> str:
        """Its IP address."""
        return f"10.77.{self._numbers[host]}.2"

    def wrapper(self, host: str) -> tuple[str, ...]:
        """What to put before a command, so that it runs there."""
        return ("ip", "netns", "exec", self._prefix + host)

    def enter(self, host: str) -> Callable[[], None]:
        """What to call in a thread, so that all its sockets are there from then on."""
        path = Path("/run/netns", self._prefix + host)

        def go() -> None:
            with path.open() as namespace:
                done = ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET)
            if done != 0:
                raise OSError(ctypes.get_errno(), "setns")

        return go

    # -- faults ----------------------------------------------------------------------------------

    def cut(self, one: str, *others: str, ways: int = 2) -> None:
        """Drop what goes from `one` to the others, or to all; two ways: and what comes back."""
        for other in others or tuple(self._numbers):
            if other != one:
                self._drop(one, other)
                if ways == 2:
                    self._drop(other, one)

    def heal(self) -> None:
        """Let everything pass again."""
        for pair in sorted(self._cuts):
            self._ip(_ROUTER, "rule", "delete", *self._rule(*pair))
        self._cuts.clear()

    def _drop(self, source: str, target: str) -> None:
        if (source, target) not in self._cuts:
            self._ip(_ROUTER, "rule", "add", *self._rule(source, target))
            self._cuts.add((source, target))

    def _rule(self, source: str, target: str) -> tuple[str, ...]:
        return ("from", self.address(source), "to", self.address(target), "blackhole")

    def _ip(self, host: str, *arguments: str) -> None:
        _ip("-n", self._prefix + host, *arguments)

    def _run(self, host: str, *command: str) -> None:
        _checked([*self.wrapper(host), *command])


def _ip(*arguments: str) -> None:
    _checked(["ip", *arguments])


def _checked(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stderr}"


@cache
def _works() -> bool:
    try:
        with Network("probe", "other") as network:
            network.cut("probe", "other")
    except (AssertionError, OSError):
        return False
    return True


needs_network = pytest.mark.skipif(
    os.geteuid() != 0 or not _works(),
    reason="network namespaces cannot be made here (root and iproute2 are needed)",
)
