"""Commits as a chain: each is valid only on top of the one before it.

Every process that commits stands on a row of `perdure_fence`: its incarnation, and the number of
its last commit. Commit n changes that row from n - 1 to n, in the very transaction that writes its
rows.

- *Taking a process out* is deleting its row. That waits for a commit under way, since both want the
  row; and every later commit finds no row, writes nothing, and fails with FencedError.
- *A lost connection* leaves open what became of commit n. The row knows: in a transaction of its
  own it is locked and read. At n, the commit is there. At n - 1 it is not; but the statement may
  still lie in some socket, or wait in the server. So the number is set to n + 1, on which nothing
  but the next commit can build: the lost statement finds n + 1 where it wants n - 1, now and for
  ever. At n + 1, an earlier try at this did that already, and its answer was lost as well.
- *Anything else* means that the database has forgotten commits that it confirmed, as after a
  failover to a replica that lagged behind. Memory is then newer than the store, and the process
  must throw it away: FencedError.
- *No row* in such a case: the process was taken out, before or after commit n. Nobody can tell, so
  the outcome is unknown; and every later commit is fenced.

If the row cannot be read within the time that a commit has, the outcome stays unknown, and whoever
calls next settles it before anything else is done.

Message ids are drawn by commits, a block of a sequence for each commit that sends any, and the
block is noted in the row; so they are known also when the answer was lost. They were not taken from
a range that is reserved ahead: an actor that moves to another process must get higher ids there
than it got here, and only a number that is drawn after the move is sure to be higher.

Whoever is no member commits on row 0, which it takes by raising its number: whoever stood there
before is fenced. Nobody gets it while there are members, and whoever becomes a member raises it,
too. So nothing is ever committed beside a cluster.
"""

import asyncio

from perdure.base.clock import Clock
from perdure.base.errors import FencedError, OutcomeUnknownError
from perdure.base.ids import jittered
from perdure.store.postgres_link import LostError, Server, Session, UnreachableStoreError
from perdure.store.postgres_registry_tables import IS_THERE

ALONE = 0  # the incarnation of one that is no member

_RETRY_S = 0.02

_READ = "SELECT commit_number, message_block FROM perdure_fence WHERE incarnation = $1 FOR UPDATE"
_ANY_MEMBER = "SELECT 1 FROM perdure_member LIMIT 1"
_LOOK = "SELECT commit_number FROM perdure_fence WHERE incarnation = $1"
_PASS_OVER = "UPDATE perdure_fence SET commit_number = $2 WHERE incarnation = $1"
_TAKE = (
    "INSERT INTO perdure_fence (incarnation, commit_number) VALUES ($1, 0)"
    " ON CONFLICT (incarnation) DO UPDATE"
    # two: a lost commit of the owner before, which wanted one more than there is, must not fit
    " SET commit_number = perdure_fence.commit_number + 2 RETURNING commit_number"
)


class Chain:
    """Where this process stands, the one session it commits through, and what is open."""

    def __init__(self, server: Server, clock: Clock) -> None:
        self._server = server
        self._clock = clock
        self.turn = asyncio.Lock()  # one commit at a time
        self._session: Session | None = None
        self._fenced: str | None = None
        self._doubt: int | None = None  # the number of a commit whose outcome is not known
        self.is_left_open = False  # and somebody was told so, or is not waiting any more
        self.incarnation = ALONE
        self.number = 0  # of the last commit that is there

    @property
    def is_in_doubt(self) -> bool:
        """Whether it is open what became of the last commit: also while it is under way."""
        return self._doubt is not None

    def stand_on(self, incarnation: int, number: int = 0) -> None:
        """Commit on this row from now on, which has this number."""
        self.incarnation, self.number = incarnation, number
        self._fenced = self._doubt = None
        self.is_left_open = False

    async def stand_alone(self, session: Session, timeout_s: float) -> None:
        """Take row 0 from whoever has it; within a transaction. Beside members, nothing can be
        committed before `stand_on`."""
        [[number]] = await session.step(_TAKE, (ALONE,), timeout_s)
        self.stand_on(ALONE, number)
        [[has_registry]] = await session.step(IS_THERE, (), timeout_s)
        if has_registry and await session.step(_ANY_MEMBER, (), timeout_s):
            self._fenced = (
                f"{self._server.label}: a cluster runs on this database, of which this process is "
                "no member"
            )

    def adopt(self, session: Session) -> None:
        """Commit through this session."""
        self._session = session

    def end(self) -> None:
        """Begin no commit any more: this process has another name now. One that is under way goes
        on, under the old one."""
        self._fenced = f"incarnation {self.incarnation} has ended"
        if not self.turn.locked():
            self.close()

    def close(self) -> None:
        """Cut the connection."""
        if self._session is not None:
            self._session.drop()
            self._session = None

    # -- one commit

    def begin(self) -> int:
        """The number of the next commit. Raises FencedError."""
        if self._fenced is not None:
            raise FencedError(self._fenced)
        return self.number + 1

    def sent(self, number: int) -> None:
        """The commit is on its way: from now on it may be there."""
        self._doubt = number

    def done(self, number: int) -> None:
        """It is there."""
        self.number, self._doubt = number, None

    def confirmed(self, incarnation: int) -> int:
        """The number of the last commit of this incarnation that is there."""
        return self.number if incarnation == self.incarnation else 0

    def failed(self) -> None:
        """It is certainly not there, and never will be."""
        self._doubt = None

    def fence(self, why: str | None = None) -> FencedError:
        """The database refused the number; no later one will do."""
        self._doubt = None
        self._fenced = why or (
            f"{self._server.label}: incarnation {self.incarnation} may commit no longer: it was "
            "taken out of the members; or, if it never was one, others use this database now"
        )
        return FencedError(self._fenced)

    async def refused(self, session: Session, timeout_s: float) -> FencedError:
        """The same, and why; within a transaction."""
        row = await session.step(_LOOK, (self.incarnation,), timeout_s)
        if row and row[0][0] < self.number:
            return self.fence(self._forgotten(row[0][0]))
        return self.fence()

    def _forgotten(self, found: int) -> str:
        return (
            f"{self._server.label} holds commit {found} of this process, which has made "
            f"{self.number}: it has forgotten commits that it confirmed (a failover to a replica "
            "that was behind?); what this process has in memory is of no use"
        )

    async def session(self, deadline_s: float) -> Session:
        """The session to commit through. Raises UnreachableStoreError; see `Server.connect_by`."""
        if self._session is None or not self._session.is_usable:
            self._session = await self._server.connect_by(deadline_s)
        return self._session

    # -- what became of a commit

    async def settle(self, deadline_s: float) -> int | None:
        """Find out what became of the commit in doubt: the block of its messages, or None when it
        is not there and never will be. Raises FencedError or OutcomeUnknownError."""
        number = self._doubt
        assert number is not None
        why = "its connection was lost"
        while (left_s := deadline_s - self._clock.monotonic_s()) > 0:
            try:
                session = await self.session(deadline_s)
                async with asyncio.timeout(left_s), session.transaction(left_s):
                    row = await session.step(_READ, (self.incarnation,), left_s)
                    if row and row[0][0] == number - 1:
                        await session.step(_PASS_OVER, (self.incarnation, number + 1), left_s)
            except UnreachableStoreError as error:
                why = str(error)
                break
            except (LostError, TimeoutError) as error:
                why = str(error) or "no answer"
            else:
                return self._settled(number, row)
            await self._clock.sleep(jittered(_RETRY_S))
        self.is_left_open = True
        raise OutcomeUnknownError(
            f"{self._server.label}: whether commit {number} is there could not be found out: {why}"
        )

    def _settled(self, number: int, row: list[tuple[int, int]]) -> int | None:
        if not row:
            self.fence()
            raise OutcomeUnknownError(
                f"{self._server.label}: this process was taken out of the members while the "
                "outcome of a commit was open; nobody can tell any more whether it is there"
            )
        [(found, block)] = row
        if found == number:
            self.done(number)
            return block
        if found in {number - 1, number + 1}:
            self.done(number + 1)  # a commit of nothing
            return None
        raise self.fence(self._forgotten(found))
