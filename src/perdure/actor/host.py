"""What an activation needs of the process it lives in, and who may follow what becomes of it."""

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from perdure.actor.entries import EntryReader
from perdure.actor.gate import GroupCommit
from perdure.actor.measures import TurnMeasures
from perdure.base.limits import Limits
from perdure.store.api import RequestRecord

if TYPE_CHECKING:
    from perdure.actor.activation import Activation


class Host(EntryReader, Protocol):
    """What an activation needs of the process it lives in."""

    limits: Limits
    outlets: Mapping[str, Any]  # where messages can be sent to, besides actors
    now_s: Callable[[], float]  # monotonic
    wall_ms: Callable[[], int]
    measures: TurnMeasures

    @property
    def lease_until_s(self) -> float:
        """Until when nobody else can own these actors; inf: for ever."""
        ...

    def is_abroad(self, key: str) -> bool:
        """True if actors with this key are in another database."""
        ...

    def join_commit(self) -> GroupCommit:
        """The group commit that is filling up; it will be written without further asking."""
        ...

    def find_request(
        self, activation: "Activation", request_id: str
    ) -> RequestRecord | Awaitable[RequestRecord | None] | None:
        """The stored answer to an idempotency key; at once, where the store never waits."""
        ...

    def flush_later(self, activation: "Activation", loss_max_s: float) -> None:
        """Call `activation.flush()` within that time."""
        ...

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` as a task that the process keeps a reference to."""
        ...


class Watcher(Protocol):
    """Somebody who wants to know when an actor may show something new."""

    def changed(self) -> None:
        """The actor was committed, or thrown away: look at it again, but not at once."""
        ...
