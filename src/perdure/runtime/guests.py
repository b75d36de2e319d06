"""Guests: actors of other processes that transactions of this one have borrowed.

The protocol, between the borrower (whose transaction it is) and the owner (see `loans`):

    borrower                                owner
    Borrow  ─────────────────────────────▶  a lock waits in the mailbox, as any call
                                            granted: wait until all of the actor is durable
    a guest wakes, and works   ◀── Answer   *lent*: it keeps the lock
    group commit, while the owner stands
    Returned ────────────────────────────▶  takes over what is stored now, and lets others in

Borrower, for each guest: *asking* (the forwarder sends it again until somebody lends) → *visiting*
→ *joined* a commit → gone. What can fail:

- *The link breaks while asking:* whoever owns the actor then is asked anew.
- *It breaks while visiting:* the owner will let others in, so the guest is thrown away, and the
  transaction with it: TransactionConflictError, at its next step.
- *It breaks once joined:* the store decides. The owner writes the actor's next version; the one of
  both that comes second finds a version that it was not based on. Its group is left out, no other.
- *The owner dies:* its shards go to others only when it is no member, and then the commit, which
  names it as `standing`, is refused. Until then nobody else has loaded the actor.
- *The borrower dies:* its link breaks, and the owner decides as above.
- *Its commit's outcome is unknown:* it says so, and the owner decides as above.

*Deadlocks.* Within a process they are found at once. Through several nobody sees the whole circle;
so a lock that may wait for another process is given up after about a second, with
TransactionConflictError. That ends every circle of locks, since one through two processes has such
a lock. A `@transaction` function then runs again, and locks all actors that it has wanted so far
in the one order that all keep to. Its runs so come to an end: each conflict among runs that keep
the order needs an actor that was new to one of them, and what they want is finite. The wait has
jitter, so that two do not give up at the same moment again and again.

*Cost.* A guest costs a round trip and a wait for the owner's commit. Its own commit is one round
trip to the store, as any, unless something is left out. A conflict leaves out the transaction and
what shares a commit with its actors; other actors of the same group commit do not notice.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from perdure.actor.guest import Ending, Guest
from perdure.actor.host import Host
from perdure.actor.locks import LockTurn
from perdure.actor.turn import Turn
from perdure.base.clock import Clock
from perdure.base.errors import LimitError, TransactionConflictError
from perdure.base.ids import jittered
from perdure.cluster.frames import Borrow, Returned
from perdure.cluster.link import Link
from perdure.runtime.forwarder import Forwarder
from perdure.runtime.loans import LoanTurn
from perdure.store.api import StoredActor

_WAIT_S = 1.0  # for a lock that may wait for another process; with jitter

_pack = msgspec.msgpack.Encoder().encode
_unpack_lent = msgspec.msgpack.Decoder(tuple[int, StoredActor | None]).decode


class BorrowTurn(Turn, kw_only=True):
    """Asks the owner of an actor to lend it."""

    guests: "Guests"
    lock: LockTurn
    guest: Guest
    link: Link | None = None  # on which it was sent last
    id: int = 0

    def __str__(self) -> str:
        return str(self.lock)

    def succeed(self, body: bytes) -> None:
        self.guests.lent(self, body)

    def fail(self, error: BaseException) -> None:
        self.lock.fail(error)
        self.guest.kill(error)


class Guests:
    """All guests of one process."""

    def __init__(self, host: Host, clock: Clock, forwarder: Forwarder) -> None:
        self._host = host
        self._clock = clock
        self._forwarder = forwarder
        self._visiting: dict[Guest, BorrowTurn] = {}  # their owners wait for Returned

    def borrow(self, lock: LockTurn) -> None:
        """Get an actor of another process for a lock."""
        actor_type, key = lock.address
        guest = Guest(self._host, actor_type, key, self._ended)
        borrow = BorrowTurn(
            None,  # type: ignore[arg-type]  # there is no method
            None,
            lock.deadline_s,
            guests=self,
            lock=lock,
            guest=guest,
        )
        lock.on_settled = partial(self._settled, borrow, lock.on_settled)
        guest.submit(lock)
        chain: list[tuple[str, str]] = []
        if lock.parent is not None:
            held = [one.activation for one in lock.parent.holders()]
            chain = [
                *lock.parent.chain,
                *((one.actor_type.name, one.key) for one in reversed(held)),
            ]
        self._forwarder.borrow(actor_type, borrow, Borrow(0, 0.0, actor_type.name, key, chain))

    def _settled(self, borrow: BorrowTurn, told: Callable[[LockTurn], Any], lock: LockTurn) -> None:
        if not lock.is_granted and borrow.guest not in self._visiting:
            self._forwarder.withdraw(borrow.id)
        told(lock)

    def lent(self, borrow: BorrowTurn, body: bytes) -> None:
        """The owner has lent an actor."""
        guest = borrow.guest
        guest.owner, stored = _unpack_lent(body)
        self._visiting[guest] = borrow
        guest.wake(stored)

    def _ended(self, guest: Guest, ending: Ending, stored: StoredActor | None) -> None:
        borrow = self._visiting.pop(guest, None)
        if borrow is None or borrow.link is None:
            return
        try:
            borrow.link.send(Returned(borrow.id, ending, _pack(stored)))
        except LimitError:  # what is stored now is too large to be told: let the owner look
            borrow.link.send(Returned(borrow.id, "unknown"))

    def closed(self, link: Link) -> None:
        """A link is gone: the owner of these guests lets others have them."""
        for guest in [one for one, borrow in self._visiting.items() if borrow.link is link]:
            del self._visiting[guest]
            if guest.commit is None:
                guest.kill(
                    TransactionConflictError(f"{guest}: its owner was lost; nothing has happened")
                )

    # -- waits that nobody sees the whole of -----------------------------------------------------

    def watch_over(self, lock: LockTurn) -> None:
        """Give up a lock in time, if what it waits for may be in another process."""
        if not lock.is_granted and lock.refusal is None:
            self._clock.call_later(jittered(_WAIT_S), partial(self._look, lock))

    def _look(self, lock: LockTurn) -> None:
        if lock.is_granted or lock.refusal is not None:
            return
        if _may_wait_for_others(lock):
            lock.fail(
                TransactionConflictError(f"{lock}: others, maybe in another process, hold it")
            )
        else:
            self.watch_over(lock)


def _may_wait_for_others(lock: LockTurn) -> bool:
    if isinstance(lock, LoanTurn) or isinstance(lock.target.running, LoanTurn):
        return True
    return lock.transaction is not None and lock.transaction.has_guests
