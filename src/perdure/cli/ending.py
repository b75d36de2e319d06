"""Ending on a signal: the first one asks, a second one does not wait."""

import asyncio
import logging
import os
import signal


class Ending:
    """Waits for SIGTERM, SIGINT or one of some others on the running loop."""

    def __init__(self, *others: signal.Signals) -> None:
        self._told = asyncio.Event()
        self.number = 0  # of the signal, once there was one
        for number in (signal.SIGTERM, signal.SIGINT, *others):
            asyncio.get_running_loop().add_signal_handler(number, self._on_signal, number)

    async def wait(self) -> bool:
        """Wait for the signal; True if nobody waits for what is under way, as with a Ctrl-C."""
        await self._told.wait()
        return self.number == signal.SIGINT

    def _on_signal(self, number: int) -> None:
        if self.number:
            logging.shutdown()
            os._exit(128 + number)
        self.number = number
        self._told.set()
