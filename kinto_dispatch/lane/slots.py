"""How many deliveries of one lane may run at a time in one process."""

from __future__ import annotations

import logging

from kinto_dispatch.attempt import Attempter


logger = logging.getLogger(__name__)

STUCK_SLOTS = 8
"""How many run at a time, each in a process of its own, while all threads hang. Half of the places
that the quarantine has for a lane: the others are for its suspects."""


class Slots:
    """As many as the channel's concurrency, and fewer while its threads hang.

    ``running`` is how many run in this process, with a thread each where hooks need one.
    """

    def __init__(self, lane: str, count: int, attempter: Attempter) -> None:
        self.count = count
        self._lane = lane
        self._attempter = attempter
        self._was_stuck = False

    def is_stuck(self, running: int) -> bool:
        """Whether so many threads hang that not every slot has one."""
        return self._attempter.room + running < self.count

    def open(self, running: int) -> int:
        """How many slots there are now."""
        return min(self.count, STUCK_SLOTS) if self.is_stuck(running) else self.count

    def look(self, running: int) -> None:
        """Hooks that were left behind may have ended; where too few do, somebody should know."""
        is_stuck = self.is_stuck(running)
        if is_stuck and not self._was_stuck:
            logger.error(
                "lane.stuck channel=%s: its threads hang in their hooks. Until some return, what "
                "finds no thread runs in a process of its own, %d at a time, and is killed at its "
                "deadline. Give what the hook calls a time-out.",
                self._lane,
                min(self.count, STUCK_SLOTS),
            )
        elif self._was_stuck and not is_stuck:
            logger.warning("lane.unstuck channel=%s: enough of its threads are free", self._lane)
        self._was_stuck = is_stuck
