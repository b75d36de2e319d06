"""The laboratory for several machines: each is one `perdure run` with its processes, all on one
database, and clients that know all of them.

A machine is a process group of its own at an address of its own; in `network` it gets a network
namespace as well. What a client does is what a user of HTTP would do: a keyed call or a read whose
connection broke is sent again, to the next machine; an unkeyed call is not, since nobody knows. So
is one whose machine says that it cannot reach the owner, after a pause.
"""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.faults.history import Checked, History
from tests.faults.supervised import Supervised, free_port, until

KEY = "0123456789abcdef0123456789abcdef"
APP = Path(__file__).with_name("cluster_app.py").read_text()
CALL_S = 35.0  # beyond the servers' own deadline for a call
ENTRIES_MAX = 60  # of one list; then the clients begin another
NO_EFFECT = {"overloaded", "unreachable", "newer-state"}
CUT_OFF = {"unreachable", "unanswered"}  # by the machine that was asked: another may do better
CUT_OFF_TOLD = {
    "keyed cut off",  # and sent again, as reads are
    "read cut off",
    "unkeyed 503 unreachable",
    "unkeyed 504 unanswered",
}
CUT_OFF_PAUSE_S = 0.2
THINK_S = 0.01  # between an answer and the next call of a client: the machines share two cores

Address = tuple[str, int]


class Machine(Supervised):
    """The processes of one machine. `with_http` says if clients are told of it."""

    def __init__(
        self,
        folder: Path,
        number: int,
        store: str | Sequence[str],
        *,
        web: int | None = None,
        state: int | None = None,
        app: str = APP,
        source: Path | None = None,
        environment: Mapping[str, str] | None = None,
        host: str = "127.0.0.1",
        cluster: Address | None = None,
        advertise: Address | None = None,
        wrapper: Sequence[str] = (),
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.number = number
        self.cluster = cluster or (f"127.0.0.{number + 10}", free_port())
        self._how = {
            "web": web,
            "state": state,
            "app": app,
            "source": source,
            "environment": environment,
            "host": host,
            "cluster": self.cluster,
            "advertise": advertise,
            "wrapper": wrapper,
        }
        self._store = store
        stores = [store] if isinstance(store, str) else store
        options = [part for one in stores for part in ("--store", one)]
        if web is not None:
            options += ["--web", str(web), "--state", str(1 if state is None else state)]
        if state != 0:
            options += ["--cluster-listen", "{}:{}".format(*self.cluster)]
        if advertise is not None:
            options += ["--advertise", "{}:{}".format(*advertise)]
        self.with_http = web != 0
        paths = {"PYTHONPATH": str(source)} if source else {}
        named = {"PERDURE_CLUSTER_KEY": KEY, **paths, **(environment or {})}
        super().__init__(folder, app, named, options, host=host, wrapper=wrapper)

    def again(self, **changes: Any) -> "Machine":
        """Another start of the same machine, with these things changed."""
        return Machine(self.folder, self.number, self._store, **{**self._how, **changes})

    @property
    def address(self) -> Address:
        """Where its web processes listen."""
        return self.host, self.port

    def wait_served(self) -> None:
        """Wait until all of its processes are ready."""
        until(
            lambda: "Perdure is " in self.log() or self.process.poll() is not None,
            f"the start of machine {self.number}:\n{self.log()}",
            60,
        )
        assert self.process.poll() is None, self.log()

    def owner(self) -> int:
        """The pid of the only process of it that owns actors."""
        return next(pid for pid, title in self.titles().items() if not title.startswith("web"))

    @property
    def member(self) -> str:
        """The address of that process, as the registry has it."""
        return "tcp:{}:{}".format(*self.cluster)

    def stop(self) -> int:
        """End it in order; returns the exit code."""
        self.process.terminate()
        return self.process.wait(60)


@dataclass
class Cluster:
    """Several machines on one database."""

    folder: Path
    store: str | Sequence[str]  # several: cells
    machines: list[Machine] = field(default_factory=list)
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, count: int = 1, *, wait: bool = True, **how: Any) -> None:
        """Start machines, and wait until they serve."""
        for _ in range(count):
            number = len(self.machines) + 1
            store = how.pop("store", self.store)
            machine = Machine(self.folder / f"machine-{number}", number, store, **how)
            self.machines.append(self._stack.enter_context(machine))
        if wait:
            self.wait_served()

    def wait_served(self) -> None:
        """Wait until all machines are ready."""
        for machine in self.machines:
            machine.wait_served()

    def restart(self, number: int, *, wait: bool = True, **changes: Any) -> None:
        """Stop a machine in order, and start it once more with these things changed."""
        machine = self.machines[number]
        assert machine.stop() == 0, machine.log()
        self.machines[number] = self._stack.enter_context(machine.again(**changes))
        if wait:
            self.machines[number].wait_served()

    def addresses(self) -> list[Address]:
        """Where clients may go."""
        return [machine.address for machine in self.machines if machine.with_http]

    def logs(self) -> str:
        """What all machines wrote, for a failing test."""
        return "\n".join(
            f"-- machine {machine.number}\n{machine.log()[-3000:]}" for machine in self.machines
        )


class NoAnswerError(Exception):
    """The connection ended, or nothing came in time."""


class Caller:
    """One client: a connection that it keeps, to one machine after the other."""

    def __init__(
        self,
        addresses: Callable[[], Sequence[Address]],
        start: int = 0,
        patience_s: float = CALL_S,
    ) -> None:
        self._addresses = addresses
        self._patience_s = patience_s
        self._turn = start
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def call(self, path: str, request_id: str = "", body: Any = None) -> tuple[int, Any]:
        """One try; raises NoAnswerError."""
        try:
            async with asyncio.timeout(self._patience_s):
                if self._streams is None:
                    self._streams = await self._connect()
                reader, writer = self._streams
                writer.write(_request(path, request_id, json.dumps(body or {}).encode()))
                return await self._answer(reader)
        except (OSError, EOFError, TimeoutError) as error:
            self.close()
            raise NoAnswerError(f"{type(error).__name__}: {error}") from None

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """To the first that takes a connection: nothing was sent, so there is no harm in it."""
        for _ in range(1_000):
            addresses = self._addresses()
            self._turn += 1
            host, port = addresses[self._turn % len(addresses)]
            try:
                async with asyncio.timeout(1):
                    return await asyncio.open_connection(host, port)
            except (OSError, TimeoutError):
                if self._turn % len(addresses) == 0:
                    await asyncio.sleep(0.02)
        raise ConnectionError("no machine takes connections")

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[int, Any]:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        size = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        body = await reader.readexactly(size)
        if b"connection: close" in head:
            self.close()
        return int(head[9:12]), json.loads(body)

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def _request(path: str, request_id: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n"
    head += f"idempotency-key: {request_id}\r\n" if request_id else ""
    return f"{head}\r\n".encode() + body


class Load:
    """Clients in a thread of their own, which append and read until told to end.

    Args:
        addresses: where to go; asked for each connection.
        lists: how many lists are in use at a time.
        patience_s: how long a client waits for an answer.
        enter: called in the thread before the first connection, to go to a network namespace.
    """

    def __init__(
        self,
        addresses: Callable[[], Sequence[Address]],
        *,
        clients: int = 8,
        lists: int = 8,
        name: str = "load",
        patience_s: float = CALL_S,
        enter: Callable[[], None] | None = None,
    ) -> None:
        self.history = History()
        self.done = 0
        self.refused_after_s: list[float] = []  # by machines that were cut off from owners
        self._addresses = addresses
        self._clients = clients
        self._lists = lists
        self._name = name
        self._patience_s = patience_s
        self._enter = enter
        self._appended: dict[int, int] = {}  # by place: how many appends were made there
        self._over = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(60)

    def wait_for_more(self, answers: int, within_s: float = 60.0) -> None:
        """Wait for so many answers more than there are now."""
        wanted = self.done + answers
        until(
            lambda: self.done >= wanted or self._failure,
            f"{answers} answers: {dict(self.history.errors)}",
            within_s,
        )
        self._raise()

    def end(self) -> None:
        """Let all clients come to their ends."""
        self._over.set()
        self._thread.join(CALL_S + 5)
        assert not self._thread.is_alive(), "clients do not end"
        self._raise()

    def check(self) -> Checked:
        """End, read every list, and compare."""
        self.end()
        return self.history.check(self.states())

    def append_to(self, key: str, entry: str, method: str = "append") -> int:
        """One append beside the load; returns how long the list is then."""
        return int(self.in_place(self._append_to(key, entry, method)))

    async def _append_to(self, key: str, entry: str, method: str) -> int:
        with closing(Caller(self._addresses)) as caller:
            request_id = f"id-{entry}" if method == "append" else ""
            path, body = f"/journal/{key}/{method}", {"entry": entry}
            status, result = await _persist(caller, path, request_id, body)
            assert status == 200, result
            return int(result)

    def states(self) -> dict[str, list[str]]:
        """Every list that was used, as it is now."""
        return self.in_place(self._read_all())

    def list_of(self, pid: int) -> str:
        """A list in use that this process owns, once there is one."""

        def find() -> str:
            keys = [self._key(place) for place in range(min(self._lists, 32))]
            return next((key for key in keys if self.owner_of(key) == pid), "")

        found: str = until(find, f"a list of process {pid}", 60)
        return found

    def owner_of(self, key: str) -> int:
        """The pid of the process that owns a list; waits until one says so."""
        return int(self.in_place(self._owner_of(key)))

    def wait_for_owner(self, key: str, since_ns: int) -> float:
        """Wait until a list is answered for, and all that waited for others; returns the longest
        wait since then, in seconds."""
        self.owner_of(key)
        until_ns = self.history.now_ns()
        until(lambda: not self.history.waits_since_before(until_ns), "answers", 60)
        self.wait_for_more(20)
        return self.history.slowest_s(since_ns)

    async def _owner_of(self, key: str) -> str:
        with closing(Caller(self._addresses)) as caller:
            _, body = await _persist(caller, f"/journal/{key}/view", "", None)
            return str(body[2])

    def in_place(self, work: Any) -> Any:
        """Run asynchronous work where the clients are."""
        result: list[Any] = []

        def go() -> None:
            if self._enter is not None:
                self._enter()
            result.append(asyncio.run(work))

        thread = threading.Thread(target=go)
        thread.start()
        thread.join()
        return result[0]

    async def _read_all(self) -> dict[str, list[str]]:
        found = {}
        with closing(Caller(self._addresses)) as caller:
            for key in self.history.operations:
                status, body = await _persist(caller, f"/journal/{key}/view", "", None)
                assert status == 200, body
                found[key] = body[0]
        return found

    # -- the thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            if self._enter is not None:
                self._enter()
            asyncio.run(self._all())
        except BaseException as error:
            self._failure = error

    def _raise(self) -> None:
        if self._failure is not None:
            raise AssertionError("the load itself failed") from self._failure

    async def _all(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(self._clients):
                group.create_task(self._client(number))

    async def _client(self, number: int) -> None:
        client = f"{self._name}.{number}"
        stride = max(self._lists // self._clients, 1)
        with closing(Caller(self._addresses, number, self._patience_s)) as caller:
            for count in range(1_000_000):
                if self._over.is_set():
                    break
                place = (number * stride + count) % self._lists
                key = self._key(place)
                kind = ("keyed", "read", "unkeyed")[count % 3]
                if kind == "read":
                    await self._view(caller, client, key)
                else:
                    await self._append(caller, client, key, f"{client}.{count}", kind)
                await asyncio.sleep(THINK_S)

    def _key(self, place: int) -> str:
        """The list that is in use at this place now."""
        generation = self._appended.get(place, 0) // ENTRIES_MAX
        return f"{self._name}-{place}-{generation}"

    async def _view(self, caller: Caller, client: str, key: str) -> None:
        operation = self.history.calls(client, key, "read", None)
        status, body = await self._persist(caller, "read", f"/journal/{key}/view", "", None)
        if status == 200:
            self.history.readers[operation.called_at] = body[2]
            self.history.ends(operation, body[0])
            self.done += 1
        else:
            self.history.refuses(key, operation)

    async def _append(self, caller: Caller, client: str, key: str, entry: str, kind: str) -> None:
        place = int(key.split("-")[1])
        self._appended[place] = self._appended.get(place, 0) + 1
        operation = self.history.calls(client, key, "append", entry)
        path, body = f"/journal/{key}/append", {"entry": entry}
        if kind == "keyed":
            status, result = await self._persist(caller, kind, path, f"id-{entry}", body)
        else:
            began_s = time.monotonic()
            try:
                status, result = await caller.call(path, "", body)
                self._note_refusal(result, began_s)
            except NoAnswerError as error:
                self._note(f"unkeyed 0 {str(error).partition(':')[0]}")
                self.history.gives_up(operation)
                return
        if status == 200:
            self.history.ends(operation, result)
            self.done += 1
            return
        self._note(f"{kind} {_told(status, result)}")
        if kind == "unkeyed" and _problem(result) in NO_EFFECT:
            self.history.refuses(key, operation)
        else:
            self.history.gives_up(operation)

    async def _persist(
        self, caller: Caller, kind: str, path: str, request_id: str, body: Any
    ) -> tuple[int, Any]:
        """A call that may be sent again, when its connection broke or its machine was cut off."""

        def told(result: Any, began_s: float) -> None:
            self._note(
                f"{kind} cut off" if self._note_refusal(result, began_s) else f"{kind} again"
            )

        return await _persist(caller, path, request_id, body, told)

    def _note_refusal(self, result: Any, began_s: float) -> bool:
        is_refusal = _problem(result) in CUT_OFF
        if is_refusal:
            self.refused_after_s.append(time.monotonic() - began_s)
        return is_refusal

    def _note(self, what: str) -> None:
        self.history.errors[what] += 1


async def _persist(
    caller: Caller,
    path: str,
    request_id: str,
    body: Any,
    told: Callable[[Any, float], None] = lambda _result, _began_s: None,
) -> tuple[int, Any]:
    for _ in range(200):
        began_s = time.monotonic()
        try:
            status, result = await caller.call(path, request_id, body)
        except NoAnswerError:
            told(None, began_s)
            continue
        if _problem(result) not in CUT_OFF:
            return status, result
        told(result, began_s)
        caller.close()
        await asyncio.sleep(CUT_OFF_PAUSE_S)
    raise AssertionError(f"{path}: nobody answers")


def _problem(body: Any) -> str:
    return str(body.get("type", "")).rpartition(":")[2] if isinstance(body, dict) else ""


def _told(status: int, body: Any) -> str:
    return f"{status} {_problem(body)}".strip()


def errors_of(history: History, *kinds: str) -> dict[str, int]:
    """What callers of these kinds were told, apart from connections that broke."""
    return {
        what: count
        for what, count in history.errors.items()
        if what.split()[0] in kinds and not what.endswith(" again")
    }


def is_frozen(pid: int) -> bool:
    """Whether a process is stopped by SIGSTOP."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
