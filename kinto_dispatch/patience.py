"""How a loop of the worker lives through the absence of a server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from kinto_dispatch.errors import OutboxUnavailable, QueueRejected, QueueUnavailable


logger = logging.getLogger(__name__)

FIRST_SECONDS = 0.1
LONGEST_SECONDS = 2.0

T = TypeVar("T")


class Patience:
    """Waits between attempts to reach a server: 0.1 s, doubling to 2 s, with jitter.

    The longest wait bounds how late a loop notices that the server is back. Says once that the
    server is away and once that it is back. Ends its waits at once when ``stopping`` is set. A
    request that the server rejects is borne the same way, so that whatever is wrong in one lane
    holds up no other; ``rejected`` holds those that still are, by what they are for.
    """

    def __init__(self, stopping: asyncio.Event) -> None:
        self._stopping = stopping
        self._wait: dict[str, float] = {}
        self.rejected: dict[str, QueueRejected] = {}

    async def attempt(self, step: Callable[[], Awaitable[T]], what: str) -> T | None:
        """The result of ``step``, or ``None`` after a wait when the server is away."""
        try:
            result = await step()
        except (QueueUnavailable, OutboxUnavailable) as error:
            self.rejected.pop(what, None)
            if isinstance(error, QueueRejected):
                self.rejected[what] = error
            await self._bear(what, error)
            return None
        if what in self._wait:
            del self._wait[what]
            self.rejected.pop(what, None)
            logger.warning("%s goes on", what)
        return result

    async def pause(self, seconds: float) -> None:
        """Wait, but not past ``stopping``."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    async def _bear(self, what: str, error: Exception) -> None:
        if what not in self._wait:
            rejected = isinstance(error, QueueRejected)
            logger.log(logging.ERROR if rejected else logging.WARNING, "%s waits: %s", what, error)
        wait = min(LONGEST_SECONDS, self._wait.get(what, FIRST_SECONDS / 2) * 2)
        self._wait[what] = wait
        await self.pause(wait * random.uniform(0.5, 1.0))
