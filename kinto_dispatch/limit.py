"""How often a lane may attempt: a number of times in a stretch of time. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass


UNITS = {"second": 1.0, "minute": 60.0, "hour": 3600.0}


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most ``count`` attempts in ``seconds``, evenly spread, by all workers together.

    A lane that was idle may make up for at most ``burst`` of them at once: what one second brings,
    or one. So in any stretch of time there are at most its share and ``burst`` more.
    """

    count: int
    seconds: float

    @property
    def interval_seconds(self) -> float:
        """Between one attempt and the next."""
        return self.seconds / self.count

    @property
    def burst(self) -> int:
        """How many attempts may come at once."""
        return max(1, math.floor(self.count / self.seconds))

    def __str__(self) -> str:
        unit = next(name for name, seconds in UNITS.items() if seconds == self.seconds)
        return f"{self.count}/{unit}"
