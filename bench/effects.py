"""Messages and timers: how many a second, and how late. `python -m bench.effects` prints a table.

One process, SQLite with fsync before anything counts; no HTTP. Messages go from 1,000 senders to
1,000 receivers, each message its own turn and its own row; timers are on 100,000 actors, all due
within one second, and then 1,000 a second for ten seconds on actors of their own.
"""

import asyncio
import tempfile
import time
from datetime import UTC, datetime, timedelta

from perdure import Actor, App, Limits

MESSAGES = 20_000
TIMERS = 100_000
STEADY = 10_000

late_ms: list[float] = []


class Receiver(Actor):
    """Counts what arrives."""

    count: int = 0

    async def take(self, amount: int) -> None:
        """Count."""
        self.count += amount


class Sender(Actor):
    """Sends a few messages at a time."""

    sent: int = 0

    async def send(self, number: int, count: int) -> None:
        """Send `count` messages to receiver `number`."""
        self.sent += count
        for _ in range(count):
            await Receiver.at(f"r{number}").tell.take(1)


class Bell(Actor):
    """Rings once, and notes how late."""

    due_at_ms: int = 0

    async def set(self, at: datetime) -> None:
        """Ring at that time."""
        self.due_at_ms = int(at.timestamp() * 1000)
        self.timers.set("ring", at=at, call="ring")

    async def ring(self) -> None:
        """Note the lateness."""
        late_ms.append(time.time() * 1000 - self.due_at_ms)


async def until(app: App, counter: str, count: int) -> None:
    """Wait until a counter of the app has got there."""
    while app.statistics()[counter] < count:
        await asyncio.sleep(0.01)


async def measure_messages(app: App) -> float:
    """Messages a second, from the first send to the last that was applied durably."""
    begun_s = time.perf_counter()
    for _ in range(MESSAGES // 10_000):
        await asyncio.gather(*(Sender.at(f"s{n}").send(n, 10) for n in range(1_000)))
    await until(app, "messages_delivered", MESSAGES)
    return MESSAGES / (time.perf_counter() - begun_s)


async def set_timers(first: int, times: list[datetime]) -> None:
    """Set a timer on an actor of its own for each time."""
    for start in range(0, len(times), 1_000):
        chunk = times[start : start + 1_000]
        await asyncio.gather(
            *(Bell.at(f"b{first + start + n}").set(at) for n, at in enumerate(chunk))
        )


async def measure_burst(app: App) -> float:
    """Seconds from the first due time until all of a burst within one second have fired."""
    begin = datetime.now(UTC) + timedelta(seconds=25)
    await set_timers(0, [begin + timedelta(seconds=n / TIMERS) for n in range(TIMERS)])
    left_s = (begin - datetime.now(UTC)).total_seconds()
    assert left_s > 0, f"setting took {-left_s:.0f} s too long"
    await until(app, "timers_fired", TIMERS)
    return (datetime.now(UTC) - begin).total_seconds()


async def measure_steady(app: App) -> tuple[float, float]:
    """Median and 99th percentile of the lateness at 1,000 timers a second, in milliseconds."""
    late_ms.clear()
    begin = datetime.now(UTC) + timedelta(seconds=5)
    await set_timers(TIMERS, [begin + timedelta(milliseconds=n) for n in range(STEADY)])
    await until(app, "timers_fired", TIMERS + STEADY)
    ordered = sorted(late_ms)
    assert ordered[0] >= 0, "a timer fired early"
    return ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100]


async def main() -> None:
    """Measure all and print it."""
    with tempfile.TemporaryDirectory() as directory:
        limits = Limits(awake_max=250_000)
        app = App(Sender, Receiver, Bell, store=f"sqlite:{directory}", limits=limits)
        async with app:
            print(f"messages: {await measure_messages(app):,.0f} a second")
            burst_s = await measure_burst(app)
            print(f"{TIMERS:,} timers due within one second: all fired in {burst_s:.1f} s")
            p50_ms, p99_ms = await measure_steady(app)
            print(f"1,000 timers a second: late by {p50_ms:.1f} ms (p50), {p99_ms:.1f} ms (p99)")


if __name__ == "__main__":
    asyncio.run(main())
