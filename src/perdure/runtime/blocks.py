"""Blocks: transactions that code in web processes has opened, and that this node carries out.

    web process                             node: the owner of the block's first actor
    Open  ───────────────────────────────▶  a transaction without a home
    Lock, Call(block=…)  ────────────────▶  run in it; Answer or Failed
    Close(is_commit)  ───────────────────▶  commit or roll back; Answer or Failed

*open* → *ending* → gone. A block ends by itself when its link breaks or its deadline is over before
Close has come: it is rolled back.

After Close has been sent the link may break, and the web process does not know the outcome. But
the commit remembers the number of that Close, as that of a call. So it asks again, the same
process while that lives: there a block that is ending says its outcome, and one that is still open
is rolled back at once, so that a Close that comes late finds none. Once that process is gone, as a
member or from its store, its commits are refused: then anybody can tell from the store.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from perdure.actor.answers import Origin, answer_among
from perdure.actor.methods import ActorType, Method
from perdure.actor.trail import follow
from perdure.actor.transaction import Grounds, Transaction, all_of
from perdure.base.errors import (
    DeadlineError,
    FencedError,
    PerdureError,
    StoppingError,
    TransactionConflictError,
)
from perdure.cluster.frames import Answer, Call, Close, Lock, NotMine, Open
from perdure.cluster.link import Link
from perdure.runtime.remote_errors import failed

_DONE = b"null"


class Carrier(Grounds, Protocol):
    """The node, as its blocks need it."""

    @property
    def is_running(self) -> bool:
        """True while calls are taken."""
        ...

    def has(self, key: str) -> bool:
        """True if actors with this key live here."""
        ...

    @property
    def map_version(self) -> int:
        """Of the shard map that it goes by."""
        ...

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` as a task that the process keeps a reference to."""
        ...

    async def find_answers(self, origin: Origin) -> list[bytes]:
        """What commits hold for a call."""
        ...


class _Block:
    """One of them."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.closing: asyncio.Future[Close | None] = asyncio.get_running_loop().create_future()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transaction: Transaction | None = None
        self.error: BaseException | None = None


class Blocks:
    """All blocks that this node carries out, by the process that opened them and its number."""

    def __init__(
        self,
        carrier: Carrier,
        types: dict[str, ActorType],
        method_of: Callable[[str, str], Method],
    ) -> None:
        self._carrier = carrier
        self._types = types
        self._method_of = method_of
        self._blocks: dict[Origin, _Block] = {}

    def open(self, link: Link, frame: Open) -> None:
        """Begin a block."""
        carrier = self._carrier
        if not carrier.has(frame.key):
            link.send(NotMine(frame.id, carrier.map_version))
        elif not carrier.is_running:
            link.send(failed(frame.id, StoppingError("this process is stopping")))
        else:
            block = self._blocks[_origin(link, frame.id)] = _Block(link)
            carrier.spawn(self._run(block, frame))

    async def _run(self, block: _Block, frame: Open) -> None:
        try:
            async with asyncio.timeout(frame.left_s) as timeout:
                block.transaction = Transaction(None, timeout)
                block.link.send(Answer(frame.id, _DONE))
                await self._end(block, await block.closing)
        except TimeoutError:
            block.error = DeadlineError("a transaction ran past its deadline")
        except asyncio.CancelledError:
            block.error = StoppingError("this process is stopping")
            raise
        except Exception as error:
            block.error = error
        finally:
            if block.transaction is not None:
                block.transaction.roll_back()
            self._blocks.pop(_origin(block.link, frame.id), None)
            block.ended.set_result(None)

    async def _end(self, block: _Block, close: Close | None) -> None:
        transaction = block.transaction
        assert transaction is not None
        if close is None:
            raise TransactionConflictError("the process that opened this transaction was lost")
        if not close.is_commit:
            # what its error rests on must be durable, as in a block that ends here
            await transaction.give_up(PerdureError("rolled back"))
            return
        durable = transaction.commit(_origin(block.link, close.id))
        try:
            await all_of(durable)
        except FencedError as error:
            raise TransactionConflictError(f"{error}; nothing of it has happened") from error

    def close(self, link: Link, close: Close) -> None:
        """End a block, or say how it has ended."""
        self._carrier.spawn(self._close(link, close))

    async def _close(self, link: Link, close: Close) -> None:
        block = self._blocks.get(_origin(link, close.block))
        error: BaseException | None = None
        if block is not None:
            if not block.closing.done():
                block.closing.set_result(None if close.is_again else close)
            await block.ended
            error = block.error
        elif close.is_again:
            try:
                origin = _origin(link, close.id)
                if answer_among(await self._carrier.find_answers(origin), origin[1]) is None:
                    error = TransactionConflictError("its process was lost; nothing has happened")
            except PerdureError as failure:
                error = failure
        else:
            error = DeadlineError("this transaction has ended already")
        link.send(Answer(close.id, _DONE) if error is None else failed(close.id, error))

    def lock(self, link: Link, frame: Lock) -> None:
        """Take an actor for a block."""
        self._carrier.spawn(self._answer(link, frame, self._lock(link, frame)))

    async def _lock(self, link: Link, frame: Lock) -> bytes:
        transaction = self._transaction(link, frame.block)
        await transaction.lock(self._carrier, self._types[frame.actor_type], frame.key)
        return _DONE

    def call(self, link: Link, call: Call) -> None:
        """Run a call in a block."""
        self._carrier.spawn(self._answer(link, call, self._call(link, call)))

    async def _call(self, link: Link, call: Call) -> bytes:
        follow(call.trail)
        transaction = self._transaction(link, call.block)
        method = self._method_of(call.actor_type, call.method)
        arguments = method.arguments_from_json(call.arguments)
        return await transaction.call_bound(
            self._carrier, method, call.key, arguments, call.request_id
        )

    def _transaction(self, link: Link, number: int) -> Transaction:
        block = self._blocks.get(_origin(link, number))
        if block is None or block.transaction is None:
            raise TransactionConflictError("this transaction has ended already")
        return block.transaction

    async def _answer(
        self, link: Link, frame: Lock | Call, work: Coroutine[Any, Any, bytes]
    ) -> None:
        try:
            link.send(Answer(frame.id, await work))
        except Exception as error:
            link.send(failed(frame.id, error))

    def closed(self, link: Link) -> None:
        """A link is gone, and the blocks that were opened over it."""
        for block in list(self._blocks.values()):
            if block.link is link and not block.closing.done():
                block.closing.set_result(None)


def _origin(link: Link, number: int) -> Origin:
    assert link.peer is not None
    return link.peer.process, number
