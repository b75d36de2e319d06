"""Active checks: each backend is asked, again and again, whether it would take requests.

It exists because failures of requests tell too late, and nothing at all of a backend that is left
out. Whoever is about to stop says so here first, before it refuses anything.

Invariants:
- The first check decides at once; later ones only after `rise` or `fall` of them in a row. Who
  says 503 is believed at once: it is about to stop, and has no time for a second question.
- One check of a backend at a time, each with a timeout, each on a connection of its own.
"""

import asyncio
import contextlib
import logging

import msgspec

from perdure.balance import proxy_protocol
from perdure.balance.backends import Backend, Backends
from perdure.base.ids import jittered

log = logging.getLogger("perdure.balance")

_ANSWER_BYTES_MAX = 64 << 10
_CONNECTED = 200  # instead of a status, where none is asked for
_SILENT = -1  # instead of a status: connected, perhaps, and no answer in time


class HealthRules(msgspec.Struct, frozen=True, kw_only=True):
    """How backends are asked."""

    path: str | None = "/-/ready"  # any 2xx or 3xx will do; None: a connection is enough
    sends_proxy: bool = False  # begins with a PROXY header, as all connections to it do
    interval_s: float = 0.5  # less than the second for which a server that stops goes on serving
    timeout_s: float = 2.0
    rise: int = 2  # good answers in a row until it gets requests again
    fall: int = 2  # bad ones, or none, until it does not


class HealthChecks:
    """Checks every backend from `start` to `close`."""

    def __init__(self, backends: Backends, rules: HealthRules) -> None:
        self._backends = backends
        self._rules = rules
        self._tasks: dict[Backend, asyncio.Task[None]] = {}

    def start(self) -> None:
        """Begins; backends that come later are checked as well."""
        for backend in self._backends.all():
            self._on_change(backend)
        self._backends.watch(self._on_change)

    async def close(self) -> None:
        """Ends every check."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _on_change(self, backend: Backend) -> None:
        if backend.state == "gone":
            task = self._tasks.pop(backend, None)
            if task is not None:
                task.cancel()
        elif backend not in self._tasks:
            self._tasks[backend] = asyncio.get_running_loop().create_task(self._watch(backend))

    async def _watch(self, backend: Backend) -> None:
        rules = self._rules
        in_a_row = 0
        is_first = True
        while True:
            status = await self._ask(backend)
            is_good = 200 <= status < 400
            if is_good == backend.is_healthy:
                in_a_row = 0
            else:
                in_a_row += 1
                needed = 1 if is_first or status == 503 else rules.rise if is_good else rules.fall
                if in_a_row >= needed:
                    in_a_row = 0
                    log.warning(
                        "backend healthy again" if is_good else "backend unhealthy",
                        extra={"backend": backend.target.name},
                    )
                    self._backends.set_health(
                        backend, is_healthy=is_good, is_silent=status == _SILENT
                    )
            is_first = False
            # Not in step with other balancers, nor with the checks of other backends.
            await self._backends.clock.sleep(jittered(rules.interval_s))

    async def _ask(self, backend: Backend) -> int:
        """The status it answers with; 0 when it refuses to, or says nonsense."""
        try:
            async with asyncio.timeout(self._rules.timeout_s):
                return await self._ask_patiently(backend)
        except TimeoutError:
            return _SILENT
        except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return 0

    async def _ask_patiently(self, backend: Backend) -> int:
        target = backend.target
        if target.path is not None:
            reader, writer = await asyncio.open_unix_connection(
                target.path, limit=_ANSWER_BYTES_MAX
            )
        else:
            reader, writer = await asyncio.open_connection(
                target.host, target.port, limit=_ANSWER_BYTES_MAX
            )
        try:
            if self._rules.sends_proxy:
                writer.write(proxy_protocol.encode(None, None))
            if self._rules.path is None:
                return _CONNECTED
            host = f"[{target.host}]" if ":" in target.host else target.host or "localhost"
            writer.write(
                f"GET {self._rules.path} HTTP/1.1\r\nhost: {host}:{target.port}\r\n"
                "user-agent: perdure-balance\r\nconnection: close\r\n\r\n".encode()
            )
            line = await reader.readuntil(b"\r\n")
            return int(line[9:12]) if line.startswith(b"HTTP/1.") else 0
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
