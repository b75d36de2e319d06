"""A start while the database is away: who waits for it, and who says so and ends.

What is started by a machine waits, without end: after a power cut, or in a compose file, the
database may come up last, and who would end here is only started again. It says in the log what it
waits for. What a person has typed ends at once with a hint, since that is where the mistake is
likely to be: that is one process that does all, below a terminal, at its first start.

Nobody waits where waiting is of no use: a wrong password, no such database, a certificate that is
not trusted. That ends with one line for everybody.
"""

import logging
from collections.abc import Sequence
from itertools import cycle

from perdure.base.clock import SystemClock
from perdure.cli.failures import NO_INPUT, Failure

log = logging.getLogger("perdure.server")

_SAY_EVERY_S = 60.0
_HINT = (
    "start it; --store postgresql:embedded brings one along;"
    " with --web, or where there is no terminal, perdure run waits for it"
)


async def reach_database(urls: Sequence[str], *, waits: bool) -> None:
    """Return when one of the databases of these stores takes connections; at once if a store needs
    none.

    The pauses between attempts grow to about two seconds. Raises StoreError, or Failure if the
    databases are away and `waits` is false.
    """
    if not all(url.startswith(("postgresql://", "postgres://")) for url in urls):
        return
    from perdure.store.postgres_link import Server, UnreachableStoreError  # heavy

    clock = SystemClock()
    servers = cycle([Server(url, clock) for url in urls])
    told: set[str] = set()
    say_at_s = 0.0
    began_s = clock.monotonic_s()
    while True:
        server = next(servers)
        try:
            session = await server.connect()
            break
        except UnreachableStoreError as error:
            if not error.may_pass:
                raise
            if not waits:
                raise Failure(str(error), _HINT, exit_code=NO_INPUT) from error
            now_s = clock.monotonic_s()
            if str(error) not in told or now_s >= say_at_s:
                told.add(str(error))
                say_at_s = now_s + _SAY_EVERY_S
                log.warning("waiting for the database", extra={"error": str(error)})
        await clock.sleep(max(server.retry_in_s(), 0.0) + 0.001)
    await session.connection.close()
    if told:
        log.info(
            "the database is there",
            extra={"waited_s": round(clock.monotonic_s() - began_s, 1)},
        )
