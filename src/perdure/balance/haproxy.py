"""The engine `haproxy`: a real HAProxy that does the balancing, driven through its run-time API.

    source ─► Found ─► state ─► commands ─► Unix socket ─► HAProxy
                         └────► configuration file, for the next start

It is a child of this process and ends with it, however that ends. What it is told stands in its
configuration too, so that one that had to be started again begins where the one before was.

Invariant: what was told and what is wanted are two states. After a command that failed nobody knows
what HAProxy has; then it is told everything anew, by a start.
"""

import asyncio
import contextlib
import ctypes
import ipaddress
import logging
import shutil
import signal
import socket
import tempfile
from pathlib import Path

import msgspec

from perdure.balance.backends import Target
from perdure.balance.haproxy_config import SLOTS, Files, HaproxyOptions, configuration
from perdure.balance.haproxy_slots import Slot, State, commands, followed_by, map_lines
from perdure.balance.sources import Found
from perdure.base.errors import EngineError

log = logging.getLogger("perdure.balance")

_ANSWER_S = 5.0
_ANSWER_BYTES_MAX = 1 << 20
_MAP_LINES_MAX = 1_000  # in one command, which must fit HAProxy's buffer of 16 KiB
_START_S = 10.0
_POLL_S = 0.02
_RESTART_S = 1.0
_PR_SET_PDEATHSIG = 1
# What HAProxy answers to a command that it has carried out.
_DONE = ("no need to change", "IP changed", "port changed", "New version created")


class Haproxy:
    """One HAProxy, and what it was told. Use `take` as what a source is followed with."""

    def __init__(self, options: HaproxyOptions, *, program: str = "haproxy") -> None:
        self._options = options
        self._program = program
        self._told = _nothing()
        self._wanted = _nothing()
        self._news: Found | None = None
        self._has_news = asyncio.Event()
        self._child: asyncio.subprocess.Process | None = None

    def take(self, found: Found) -> None:
        """From now on there are these backends."""
        self._news = found
        self._has_news.set()

    async def run(self) -> None:
        """Balance until cancelled. Raises EngineError if HAProxy cannot be started at all."""
        program = shutil.which(self._program)
        if program is None:
            raise EngineError(f"there is no {self._program} on this machine; apt install haproxy")
        with tempfile.TemporaryDirectory(prefix="perdure-haproxy-") as directory:
            self._directory = Path(directory)
            self._files = Files(f"{directory}/admin", f"{directory}/owners.map")
            await self._has_news.wait()
            was_started = False
            try:
                while True:
                    await self._take_news()
                    try:
                        await self._start(program)
                        was_started = True
                        await self._drive()
                    except EngineError as error:
                        if not was_started:
                            raise
                        log.error("haproxy is started again", extra={"error": str(error)})
                        await self._kill()
                        await asyncio.sleep(_RESTART_S)
            finally:
                await self._stop()

    @property
    def state(self) -> State:
        """What HAProxy was told."""
        return self._told

    # -- what it is told -------------------------------------------------------------------------

    async def _drive(self) -> None:
        assert self._child is not None
        ended = asyncio.create_task(self._child.wait())
        try:
            while not ended.done():
                news = asyncio.create_task(self._has_news.wait())
                await asyncio.wait({ended, news}, return_when=asyncio.FIRST_COMPLETED)
                news.cancel()
                if not ended.done():
                    await self._take_news()
                    await self._tell()
        finally:
            ended.cancel()
        raise EngineError(f"haproxy ended by itself, with code {ended.result()}")

    async def _take_news(self) -> None:
        self._has_news.clear()
        if self._news is None:
            return
        found, self._news = self._news, None
        targets = [await _resolved(target) for target in found.targets]
        usable = tuple(target for target in targets if target is not None)
        self._wanted = followed_by(self._wanted, msgspec.structs.replace(found, targets=usable))
        held = sum(slot.target is not None for slot in self._wanted.slots)
        if held < len(usable):
            log.error("more backends than slots", extra={"backends": len(usable), "slots": held})

    async def _tell(self) -> None:
        wanted, by_owner = self._wanted, bool(self._options.by_owner)
        for command in commands(self._told, wanted, by_owner=by_owner):
            if isinstance(command, str):
                await self._ask(command)
            else:
                await self._swap_map(command)
        self._told = wanted

    async def _swap_map(self, lines: tuple[str, ...]) -> None:
        """All entries change at once, between two requests."""
        path = self._files.owners
        answer = await self._ask(f"prepare map {path}")
        version = answer.rpartition(":")[2].strip()
        for begin in range(0, len(lines), _MAP_LINES_MAX):
            part = "\n".join(lines[begin : begin + _MAP_LINES_MAX])
            await self._ask(f"add map @{version} {path} <<\n{part}\n")
        await self._ask(f"commit map @{version} {path}")

    async def _ask(self, command: str) -> str:
        """Say one command; raises EngineError unless it was carried out."""
        name = command.partition("\n")[0]
        try:
            async with asyncio.timeout(_ANSWER_S):
                reader, writer = await asyncio.open_unix_connection(self._files.socket)
                try:
                    writer.write(command.encode() + b"\n")
                    answer = (await reader.read(_ANSWER_BYTES_MAX)).decode().strip()
                finally:
                    writer.close()
                    await writer.wait_closed()
        except (OSError, TimeoutError) as error:
            raise EngineError(f"haproxy does not answer to {name!r}: {error}") from None
        if answer and not any(done in answer for done in _DONE):
            raise EngineError(f"haproxy answered {answer!r} to {name!r}")
        return answer

    # -- its life --------------------------------------------------------------------------------

    async def _start(self, program: str) -> None:
        """Start it with what is wanted already in its configuration, and wait until it listens."""
        path = self._write_files()
        self._child = await asyncio.create_subprocess_exec(
            program,
            *("-db", "-f", str(path)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            preexec_fn=_end_with_parent,
        )
        assert self._child.stderr is not None
        self._reading = asyncio.create_task(_last_words(self._child.stderr))
        end_s = asyncio.get_running_loop().time() + _START_S
        while not await self._listens():
            if self._child.returncode is not None or asyncio.get_running_loop().time() > end_s:
                await self._kill()
                raise EngineError(f"haproxy does not start: {await self._reading}")
            await asyncio.sleep(_POLL_S)
        self._told = State(
            tuple(msgspec.structs.replace(slot, is_draining=False) for slot in self._wanted.slots),
            self._wanted.owners,
        )
        await self._tell()
        log.info("haproxy serves", extra={"listen": self._options.listen})

    def _write_files(self) -> Path:
        path = self._directory / "haproxy.cfg"
        path.write_text(configuration(self._options, self._files, self._wanted))
        Path(self._files.owners).write_text("\n".join(map_lines(self._wanted.owners)) + "\n")
        Path(self._files.socket).unlink(missing_ok=True)
        return path

    async def _listens(self) -> bool:
        try:
            _, writer = await asyncio.open_unix_connection(self._files.socket)
            writer.close()
            await writer.wait_closed()
        except OSError:
            return False
        return True

    async def _kill(self) -> None:
        if self._child is not None and self._child.returncode is None:
            self._child.kill()
            await self._child.wait()

    async def _stop(self) -> None:
        """Let it end what it has begun: `hard-stop-after` bounds that."""
        if self._child is None:
            return
        if self._child.returncode is None:
            self._child.send_signal(signal.SIGUSR1)
            await self._child.wait()
        await self._reading


def _nothing() -> State:
    return State((Slot(),) * SLOTS)


async def _resolved(target: Target) -> Target | None:
    """With numbers for a host: commands take nothing else. None: it cannot be used."""
    if target.path is not None:
        log.error("haproxy is not told of Unix sockets", extra={"backend": target.name})
        return None
    with contextlib.suppress(ValueError):  # it is a name
        ipaddress.ip_address(target.host)
        return target
    try:
        answers = await asyncio.get_running_loop().getaddrinfo(
            target.host, target.port, type=socket.SOCK_STREAM
        )
    except OSError as error:
        log.error("backend not resolved", extra={"backend": target.name, "error": str(error)})
        return None
    return msgspec.structs.replace(target, host=str(answers[0][4][0]))


async def _last_words(stream: asyncio.StreamReader) -> str:
    """Pass on what it complains about; returns the last of it."""
    last = ""
    while line := await stream.readline():
        if said := line.decode(errors="replace").strip():
            last = said
            log.warning("haproxy", extra={"says": said})
    return last


def _end_with_parent() -> None:
    """In the child: let the system end it when this process is gone, were it by SIGKILL."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
