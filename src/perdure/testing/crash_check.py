"""`check_crashes`: kill a scenario at every point, and see that the invariant holds after each."""

from collections.abc import Awaitable, Callable, Mapping, Sequence

from perdure.actor.methods import ActorType, actor_type_of
from perdure.actor.model import Actor
from perdure.base.errors import PerdureError
from perdure.base.limits import Limits
from perdure.runtime.outlets import Outlet
from perdure.testing.crash_points import Trial, watched_turns
from perdure.web.app import App

Step = Callable[[Trial], Awaitable[None]]

_TROUBLE = 503, 504  # what a caller may see of a crash


async def check_crashes(
    scenario: Step,
    invariant: Step,
    *,
    actors: Sequence[type[Actor]],
    settle_s: float = 3600.0,
    points_max: int = 500,
    limits: Limits | None = None,
    outlets: Mapping[str, Outlet] | None = None,
) -> int:
    """Run `scenario` once for every point at which it can be killed, and `invariant` after each.

    The scenario calls actors from outside, like a client. Its first run counts the points: before
    and after each commit, at the begin of each message's and timer's turn, and wherever a turn
    waits. Each further run is killed at one of them and restarted on the same store. A call that
    was under way then raises StoreError or StoppingError: a scenario that lets it through ends
    there, one that catches it may try again, which waits for the restart. Afterwards `settle_s`
    seconds pass on a virtual clock, so that messages arrive and timers fire, and the invariant is
    called. It raises when something is wrong.

    Returns the number of points. Raises AssertionError that names the point, and ValueError when
    there are more than `points_max` or when the scenario does not do the same in each run.
    """
    check = _Check(scenario, invariant, actors, settle_s, points_max, limits, outlets)
    counted = await check.run(0)
    if counted.passed > points_max:
        raise ValueError(
            f"the scenario can be killed at {counted.passed} points, but points_max is "
            f"{points_max}: make it shorter, let less time settle ({settle_s:g} s), or raise it"
        )
    for number, point in enumerate(counted.points, start=1):
        trial = await check.run(number)
        if trial.crashed_at != point:
            raise ValueError(
                f"the scenario is not the same in each run: point {number} was {point!r}, "
                f"then {trial.crashed_at!r}"
            )
    return counted.passed


class _Check:
    def __init__(
        self,
        scenario: Step,
        invariant: Step,
        actors: Sequence[type[Actor]],
        settle_s: float,
        points_max: int,
        limits: Limits | None,
        outlets: Mapping[str, Outlet] | None,
    ) -> None:
        self._scenario = scenario
        self._invariant = invariant
        self._actors = actors
        self._types: list[ActorType] = [actor_type_of(actor) for actor in actors]
        self._settle_s = settle_s
        self._points_max = points_max
        self._limits = limits
        self._outlets = outlets

    async def run(self, crash_at: int) -> Trial:
        """One run, killed at that point; 0: at none."""
        trial = Trial(self._types, crash_at=crash_at, points_max=self._points_max)
        app = App(
            *self._actors,
            store="memory:",
            limits=self._limits,
            outlets=self._outlets,
            clock=trial.clock,
        )
        try:
            with watched_turns(trial, self._types):
                await trial.start(app)
                await self._play(trial)
                await self._settle(trial)
                trial.is_over = True
                await self._invariant(trial)
        except Exception as error:
            raise AssertionError(f"{_when(trial)}: {type(error).__name__}: {error}") from error
        finally:
            trial.is_over = True
            await trial.up()
            await app.stop(drain_s=0)
        return trial

    async def _play(self, trial: Trial) -> None:
        try:
            await self._scenario(trial)
        except PerdureError as error:
            if trial.crashed_at is None or error.status not in _TROUBLE:
                raise

    async def _settle(self, trial: Trial) -> None:
        await trial.up()
        was_killed = trial.crashed_at is not None
        await trial.clock.advance(self._settle_s)
        if trial.crashed_at is not None and not was_killed:
            await trial.up()
            await trial.clock.advance(self._settle_s)


def _when(trial: Trial) -> str:
    if trial.crashed_at is None:
        return "without any crash"
    return f"killed {trial.crashed_at}"
