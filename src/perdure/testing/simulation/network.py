"""A simulated network: streams of bytes between processes, which can be cut in every way.

It behaves as TCP does between kernels. Bytes of one direction arrive in order, in any pieces, or
not at all; while a way is cut they wait, as if sent again and again, and nobody is told. A process
that is killed has its connections closed by its kernel; a machine that goes down says nothing.
Who connects where nobody listens is refused; who connects into a cut way waits in vain.

Ways are named by host, which is the first part of a process' name: `n1` for the life `n1.3`.
"""

import asyncio
from collections import deque
from collections.abc import Iterable
from contextvars import copy_context
from typing import Any

from perdure.cluster.network import ProtocolFactory
from perdure.testing.simulation.loop import SeededLoop
from perdure.testing.simulation.mangler import Mangler
from perdure.testing.simulation.process import SimulatedProcess
from perdure.testing.simulation.trace import Trace

_OUTSIDE = copy_context()  # of no process
_CONNECT_WITHIN_S = 20.0  # then a kernel gives up
_HIGH_BYTES, _LOW_BYTES = 1 << 20, 1 << 18  # that are on their way: pause and resume writing


class SimulatedNetwork:
    """All ways between all hosts, as they are just now."""

    def __init__(self, loop: SeededLoop, trace: Trace) -> None:
        self.loop = loop
        self.trace = trace
        self.random = loop.random
        self.delay_s = 0.0002  # on average, each way
        self.mangled = 0.0  # probability that a frame comes twice, out of order or not at all
        self._listening: dict[str, _Listener] = {}
        self._cut: dict[tuple[str, str], None] = {}  # (from, to)
        self._refusing: dict[tuple[str, str], None] = {}
        self._down: dict[str, None] = {}
        self._ways: dict[_Way, None] = {}  # of connections that are open
        self._stuck: dict[_Way, None] = {}  # have something that cannot pass

    def of(self, process: SimulatedProcess) -> "ProcessNetwork":
        """The network as one process has it."""
        return ProcessNetwork(self, process)

    # -- faults ----------------------------------------------------------------------------------

    def cut(self, sender: str, receiver: str) -> None:
        """Let nothing pass from one host to another; the way back stays."""
        self._cut[sender, receiver] = None

    def mend(self, sender: str, receiver: str) -> None:
        """Let through what has waited, and all that follows."""
        self._cut.pop((sender, receiver), None)
        self._pass_stuck()

    def part(self, *groups: Iterable[str]) -> None:
        """Cut all ways between hosts of different groups."""
        for group in groups:
            for other in groups:
                if group is not other:
                    for sender in group:
                        for receiver in other:
                            self.cut(sender, receiver)

    def refuse(self, host: str, other: str) -> None:
        """Break all connections between two hosts, and refuse new ones in both directions: as if
        nobody listened, although both live."""
        pairs = ((host, other), (other, host))
        self._refusing.update(dict.fromkeys(pairs))
        for way in [one for one in self._ways if one.hosts in pairs]:
            way.reset()

    def admit(self, host: str, other: str) -> None:
        """Let them connect again."""
        self._refusing.pop((host, other), None)
        self._refusing.pop((other, host), None)

    def mend_all(self) -> None:
        """Let everything through."""
        self._cut.clear()
        self._refusing.clear()
        self._pass_stuck()

    def take_down(self, host: str) -> None:
        """Cut the power of a machine: nobody is told. Kill its processes beside."""
        self._down[host] = None

    def put_up(self, host: str) -> None:
        """Let the machine answer again: it knows nothing of the connections it had."""
        self._down.pop(host, None)
        self._pass_stuck()

    def is_cut(self, sender: str, receiver: str) -> bool:
        """True if nothing passes."""
        return (sender, receiver) in self._cut or sender in self._down or receiver in self._down

    def _pass_stuck(self) -> None:
        stuck, self._stuck = self._stuck, {}
        for way in stuck:
            way.try_again()

    # -- for processes and ways ------------------------------------------------------------------

    def draw_delay_s(self) -> float:
        return self.random.expovariate(1.0) * self.delay_s

    def is_refused(self, caller: str, listener: str) -> bool:
        """True if nobody seems to listen there."""
        return (caller, listener) in self._refusing

    def opened(self, way: "_Way") -> None:
        self._ways[way] = None

    def closed(self, way: "_Way") -> None:
        self._ways.pop(way, None)

    def stick(self, way: "_Way") -> None:
        self._stuck[way] = None

    def listen(self, listener: "_Listener") -> None:
        if listener.address in self._listening:
            raise OSError(f"somebody listens at {listener.address}")
        self._listening[listener.address] = listener
        listener.process.at_death(lambda: self.close(listener))

    def close(self, listener: "_Listener") -> None:
        if self._listening.get(listener.address) is listener:
            del self._listening[listener.address]

    def listener_at(self, address: str) -> "_Listener | None":
        return self._listening.get(address)


class ProcessNetwork:
    """The `Network` of one process."""

    def __init__(self, network: SimulatedNetwork, process: SimulatedProcess) -> None:
        self._network = network
        self._process = process

    async def listen(self, address: str, factory: ProtocolFactory) -> "_Listener":
        listener = _Listener(self._network, self._process, address, factory)
        self._network.listen(listener)
        return listener

    async def connect(self, address: str, factory: ProtocolFactory) -> None:
        network, here = self._network, self._process
        there = address.split(":")[1]
        await asyncio.sleep(network.draw_delay_s())
        if network.is_cut(here.host, there) or network.is_cut(there, here.host):
            await asyncio.sleep(_CONNECT_WITHIN_S)
            raise TimeoutError(f"{address} does not answer")
        listener = network.listener_at(address)
        if listener is None or network.is_refused(here.host, there):
            raise ConnectionRefusedError(f"nobody listens at {address}")
        other = listener.process
        near, far = _Way(network, here, other), _Way(network, other, here)
        if network.mangled:
            near.mangler = Mangler(network.random, messages=1)
            far.mangler = Mangler(network.random, messages=2)
        mine, theirs = Transport(here, near, factory()), Transport(other, far, None)
        near.source = far.target = mine
        far.source = near.target = theirs
        other.call_after(network.draw_delay_s(), theirs.accept, listener.factory)
        mine.open()


class _Listener:
    def __init__(
        self,
        network: SimulatedNetwork,
        process: SimulatedProcess,
        address: str,
        factory: ProtocolFactory,
    ) -> None:
        self.address = address
        self.process = process
        self.factory = factory
        self._network = network

    def close(self) -> None:
        self._network.close(self)


class _Way:
    """One direction of one connection: what was sent and has not arrived, in order."""

    def __init__(
        self, network: SimulatedNetwork, sender: SimulatedProcess, receiver: SimulatedProcess
    ) -> None:
        self.source: Transport
        self.target: Transport
        self.mangler: Mangler | None = None
        self.bytes = 0  # on their way
        self._network = network
        self._sender = sender
        self._receiver = receiver
        self._items: deque[bytes | _End] = deque()
        self._due = 0  # arrivals that are announced
        self._last_s = 0.0
        self.hosts = (sender.host, receiver.host)
        network.opened(self)

    def send(self, item: "bytes | _End") -> None:
        """Put something on its way; it may arrive in pieces."""
        if isinstance(item, bytes) and self.mangler is not None and self._network.mangled:
            item = self.mangler.mangle(item, self._network.mangled, self._network.trace)
            if not item:
                return
        for piece in self._pieces(item):
            self._items.append(piece)
            self.bytes += len(piece) if isinstance(piece, bytes) else 0
            self._announce()

    def _pieces(self, item: "bytes | _End") -> "list[bytes | _End]":
        draw = self._network.random.random
        if not isinstance(item, bytes) or len(item) < 2 or draw() > 0.1:
            return [item]
        cut = 1 + int(draw() * (len(item) - 1))
        return [item[:cut], item[cut:]]

    def drop(self) -> None:
        """Forget what has not arrived."""
        self._items.clear()
        self.bytes = 0

    def reset(self) -> None:
        """Something between the two has ended the connection."""
        self.drop()
        self.target.arrived(_End(ConnectionResetError("reset on its way")))

    def close(self) -> None:
        """Its sender has closed; what is on its way arrives."""
        self._network.closed(self)

    def _announce(self) -> None:
        network = self._network
        at_s = max(network.loop.now_s + network.draw_delay_s(), self._last_s)
        self._last_s = at_s
        self._due += 1
        # not in the receiver's lane: its kernel takes what comes while it stands still
        network.loop.call_later(at_s - network.loop.now_s, self._arrive, context=_OUTSIDE)

    def try_again(self) -> None:
        """The way may be free again."""
        for _ in range(len(self._items) - self._due):
            self._announce()

    def _arrive(self) -> None:
        self._due -= 1
        if not self._items:
            return
        if self._network.is_cut(self._sender.host, self._receiver.host):
            self._network.stick(self)
            return
        item = self._items.popleft()
        self.bytes -= len(item) if isinstance(item, bytes) else 0
        self.target.arrived(item)
        self.source.has_room(self.bytes)


class _End:
    """The end of one direction."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error  # None: in order


class Transport(asyncio.Transport):
    """One end of one connection."""

    def __init__(
        self, process: SimulatedProcess, way: _Way, protocol: asyncio.Protocol | None
    ) -> None:
        super().__init__()
        self._process = process
        self._way = way
        self._protocol = protocol
        self._is_closing = False
        self._is_gone = False  # no bytes are taken any more
        self._is_reading = True
        self._is_paused = False
        self._unread: deque[bytes | _End] = deque()
        self._is_due = False  # `_read` is about to run
        process.at_death(self._die)

    # -- the connection's beginning

    def open(self) -> None:
        """The protocol hears that it is connected; in the process' own context."""
        assert self._protocol is not None
        self._protocol.connection_made(self)
        self._read_on()

    def accept(self, factory: ProtocolFactory) -> None:
        """The same at the other end, once the listener gets to it."""
        if not self._is_gone:
            self._protocol = factory()
            self.open()

    # -- what the protocol does

    def write(self, data: Any) -> None:
        if self._is_closing or self._is_gone or not data:
            return
        self._way.send(bytes(data))
        if self._way.bytes > _HIGH_BYTES and not self._is_paused and self._protocol is not None:
            self._is_paused = True
            self._protocol.pause_writing()

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None:
        if self._is_closing:
            return
        self._is_closing = True
        self._way.send(_End(None))
        self._process.call_soon(self._gone, None)

    def abort(self) -> None:
        self._is_closing = True
        self._way.drop()
        self._way.send(_End(ConnectionResetError("the other end has aborted")))
        self._process.call_soon(self._gone, None)

    def is_closing(self) -> bool:
        return self._is_closing

    def get_write_buffer_size(self) -> int:
        return self._way.bytes

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """The limits are the network's."""

    def pause_reading(self) -> None:
        self._is_reading = False

    def resume_reading(self) -> None:
        self._is_reading = True
        self._read_on()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    # -- what comes

    def arrived(self, item: "bytes | _End") -> None:
        """The kernel has it; the process gets it when it looks."""
        if self._is_gone or not self._process.is_alive:
            if isinstance(item, bytes):  # whoever sends to a closed end is told
                self._way.drop()
                self._way.send(_End(ConnectionResetError("the other end was closed")))
            return
        self._unread.append(item)
        self._read_now()

    def has_room(self, way_bytes: int) -> None:
        """Something has arrived at the other end."""
        if self._is_paused and way_bytes < _LOW_BYTES and self._protocol is not None:
            self._is_paused = False
            self._process.call_soon(self._protocol.resume_writing)

    def _read_on(self) -> None:
        if self._protocol is not None and self._is_reading and self._unread and not self._is_due:
            self._is_due = True
            self._process.call_soon(self._read)

    def _read_now(self) -> None:
        """The same as soon as it arrives, if the process has nothing else to do; a step less."""
        process = self._process
        if process.is_idle and self._protocol is not None and self._is_reading:
            process.context.run(self._read)
        else:
            self._read_on()

    def _read(self) -> None:
        self._is_due = False
        while self._unread and self._is_reading and not self._is_closing:
            item = self._unread.popleft()
            assert self._protocol is not None
            if isinstance(item, bytes):
                self._protocol.data_received(item)
                continue
            if item.error is None:
                self._protocol.eof_received()
            self._is_closing = True
            self._way.send(_End(None))
            self._gone(item.error)

    def _gone(self, error: Exception | None) -> None:
        if not self._is_gone:
            self._is_gone = True
            self._way.close()
            if self._protocol is not None:
                self._protocol.connection_lost(error)

    def _die(self) -> None:
        """The kernel closes what its process had open."""
        if not self._is_closing:
            self._is_closing = self._is_gone = True
            self._way.close()
            self._way.send(_End(None))
