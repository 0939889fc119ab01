"""A channel whose records may kill the process, to measure what others notice."""

import asyncio
import os
import signal

from kinto_dispatch import hookimpl


class PoisonChannel:
    """Delivered after as long as a quick server takes to answer, or never."""

    @hookimpl
    async def on_event_async(self, event: object) -> None:
        """Wait for 5 ms, or die."""
        if event.changes[0].object_id == "poison":
            os.kill(os.getpid(), signal.SIGKILL)
        await asyncio.sleep(0.005)
