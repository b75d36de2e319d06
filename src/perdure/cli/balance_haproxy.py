"""`perdure balance --engine haproxy`: HAProxy does the work, and this process tells it of what."""

import asyncio

import uvloop

from perdure.balance.haproxy import Haproxy
from perdure.balance.haproxy_config import HaproxyOptions
from perdure.balance.sources import Source, follow
from perdure.base.clock import SystemClock
from perdure.base.errors import EngineError
from perdure.cli.balance_options import BalanceOptions, networks, policy
from perdure.cli.ending import Ending
from perdure.cli.failures import UNAVAILABLE, Failure
from perdure.cli.logs import set_up_logs


def run_haproxy(source: Source, options: BalanceOptions) -> int:
    """Let HAProxy balance until told to stop; returns the exit code. Raises Failure."""
    set_up_logs(options.log_level, options.log_format)
    told = HaproxyOptions(
        listen=options.listen,
        mode="tcp" if options.is_tcp else "http",
        policy=policy(options),
        hash_by=options.hash_key,
        by_owner=options.by_owner,
        health_path=options.health_path,
        health_interval_s=options.health_interval_s,
        send_proxy=options.send_proxy,
        trusted=tuple(str(network) for network in networks(options)),
        accept_proxy=options.accept_proxy,
    )
    try:
        uvloop.run(_drive(source, told))
    except EngineError as error:
        raise Failure(str(error), exit_code=UNAVAILABLE) from error
    return 0


async def _drive(source: Source, options: HaproxyOptions) -> None:
    engine, ending = Haproxy(options), Ending()
    following = asyncio.create_task(follow(source, engine.take, SystemClock()))
    running = asyncio.create_task(engine.run())
    told = asyncio.create_task(ending.wait())
    print(f"perdure drives haproxy on {options.listen}", flush=True)  # noqa: T201
    await asyncio.wait({running, told}, return_when=asyncio.FIRST_COMPLETED)
    told.cancel()
    following.cancel()
    running.cancel()
    await asyncio.gather(following, told, return_exceptions=True)
    try:
        await running
    except asyncio.CancelledError:
        return
