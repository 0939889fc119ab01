"""How fast a lane goes in one process, and what follows from that. Pure."""

from __future__ import annotations

from kinto_dispatch.limit import RateLimit


AHEAD_SECONDS = 0.02
AHEAD_MOST = 400
"""How many claims may wait for a slot: as many as were lately attempted in that time. So slots
never wait for the server, and where deliveries are slow, none is held back from others."""

RETRY_SHARE = 0.2
"""How many of the attempts may be retries while new deliveries wait: so few that these hardly
notice, so many that ten thousand are through by the time forty thousand others are."""

RETRY_MOST = 200.0
"""What is saved of that share, at most."""


class Pace:
    """Counts attempts, and tells how many deliveries to take. Times are seconds of one clock."""

    def __init__(self, slots: int, limit: RateLimit | None) -> None:
        self._slots = slots
        self._limit = limit
        self._attempts = 0
        self._since = 0.0
        self._attempts_since_promoting = 0
        self._credit = 0.0
        self.ahead = 0
        """How many claims may wait for a slot."""

    @property
    def is_moving(self) -> bool:
        """Whether anything was attempted since ``retries`` was asked."""
        return self._attempts_since_promoting > 0

    def count(self) -> None:
        """One attempt has ended."""
        self._attempts += 1
        self._attempts_since_promoting += 1

    def measure(self, now: float) -> None:
        """Find out how fast the lane went since it was measured last."""
        pace = self._attempts / max(now - self._since, 0.001)
        self._attempts, self._since = 0, now
        self.ahead = min(AHEAD_MOST, int(pace * AHEAD_SECONDS))

    def retries(self) -> tuple[int, int]:
        """How many deliveries may wait in the lane before what is due comes behind them, and how
        many of what is due come in any case: for ``Queue.promote``.

        As many may wait as are begun soon, so that what is new never waits for long behind what
        is due.
        """
        earned = RETRY_SHARE * self._attempts_since_promoting
        self._credit = min(self._credit + earned, RETRY_MOST)
        self._attempts_since_promoting = 0
        soon = self._slots + 5 * self.ahead
        return min(soon, self._limit.burst) if self._limit else soon, int(self._credit)

    def promoted(self, count: int) -> None:
        """So many were due and have come."""
        self._credit = max(0.0, self._credit - count)
