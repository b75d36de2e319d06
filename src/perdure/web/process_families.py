"""What the operating system says of this process, under the names that all clients use."""

import asyncio
import gc
import os
import platform
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from perdure.base.metrics import Family, Histogram, counter, gauge, seconds

_LAG_EVERY_S = 0.25
_STARTED_AT_S = time.time()


class LoopLag:
    """How late the event loop comes to what is due: what blocks it shows here first.

    Args:
        on_look: called each time as well, when the time that counts is taken.
    """

    def __init__(self, on_look: Callable[[], None]) -> None:
        self._on_look = on_look
        self._lag: Histogram = seconds()
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop

    def start(self) -> None:
        """Begin to look, on the running loop."""
        self._loop = asyncio.get_running_loop()
        self._wait()

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait(self) -> None:
        self._due_s = self._loop.time() + _LAG_EVERY_S
        self._timer = self._loop.call_at(self._due_s, self._look)

    def _look(self) -> None:
        self._lag.add(self._loop.time() - self._due_s)
        self._on_look()
        self._wait()

    def families(self) -> list[Family]:
        """What it saw, as Prometheus is told."""
        help_ = "How late the event loop called back, asked four times a second."
        return [
            Family("perdure_event_loop_lag_seconds", "histogram", help_, [({}, self._lag)]),
        ]


def process_families() -> list[Family]:
    """Processor, memory and descriptors; those that this system does not tell are left out."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return [
        counter(
            "process_cpu_seconds",
            "Total user and system CPU time spent in seconds.",
            used.ru_utime + used.ru_stime,
        ),
        gauge(
            "process_start_time_seconds",
            "Start time of the process since unix epoch in seconds.",
            _STARTED_AT_S,
        ),
        *_memory(),
        *_descriptors(),
        Family(
            "python_gc_collections",
            "counter",
            "Number of times this generation was collected",
            [
                ({"generation": str(number)}, one["collections"])
                for number, one in enumerate(gc.get_stats())
            ],
        ),
        Family(
            "perdure_build_info",
            "gauge",
            "Always 1; its labels say what runs.",
            [({"version": version("perdure"), "python": platform.python_version()}, 1)],
        ),
    ]


def _memory() -> Iterator[Family]:
    with suppress(OSError):
        virtual, resident = Path("/proc/self/statm").read_bytes().split()[:2]
        page_bytes = resource.getpagesize()
        yield gauge(
            "process_virtual_memory_bytes",
            "Virtual memory size in bytes.",
            int(virtual) * page_bytes,
        )
        yield gauge(
            "process_resident_memory_bytes",
            "Resident memory size in bytes.",
            int(resident) * page_bytes,
        )


def _descriptors() -> Iterator[Family]:
    with suppress(OSError):
        count = len(os.listdir("/proc/self/fd")) - 1  # the one that lists them
        yield gauge("process_open_fds", "Number of open file descriptors.", count)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    yield gauge("process_max_fds", "Maximum number of open file descriptors.", most)
