"""Lets come back into a lane what is due, by and by."""

from __future__ import annotations

import asyncio

from kinto_dispatch.lane.destination import Destination
from kinto_dispatch.lane.pace import Pace
from kinto_dispatch.patience import Patience
from kinto_dispatch.queue.protocol import Queue


PROMOTE_SECONDS = 0.5
"""How late a delivery that became due may be noticed when another worker scheduled it."""

MORE_SECONDS = 0.05
"""How soon to look again where more was due than the lane should take at once."""

PROMOTE_BATCH = 200


class Promoter:
    """Promotes what is due in one lane, as fast as the lane goes and its destination answers."""

    def __init__(self, lane: str, queue: Queue, destination: Destination, pace: Pace) -> None:
        self._lane = lane
        self._queue = queue
        self._destination = destination
        self._pace = pace

    async def run(self, stopping: asyncio.Event, patience: Patience) -> None:
        """Until ``stopping`` is set."""
        what = f"retrying in lane {self._lane!r}"
        while not stopping.is_set():
            seconds = await patience.attempt(self._promote, what)
            await patience.pause(PROMOTE_SECONDS if seconds is None else seconds)

    async def _promote(self) -> float:
        """Promote, and return when to do so again."""
        is_moving = self._pace.is_moving
        upto, at_least = self._pace.retries()
        if not self._destination.is_trusted:
            # One to probe with.
            upto, at_least = 1, 0
        moved, next_due = await self._queue.promote(
            self._lane, PROMOTE_BATCH, upto=min(PROMOTE_BATCH, upto), at_least=at_least
        )
        self._pace.promoted(moved)
        if next_due is None or (next_due <= 0 and not moved and not is_moving):
            return PROMOTE_SECONDS
        return min(PROMOTE_SECONDS, max(MORE_SECONDS, next_due))
