"""The names of the keys. Braces mark the hash tag: a script touches the keys of one tag only."""

from __future__ import annotations


GROUP = "workers"
"""The one consumer group of each lane."""


class LogKeys:
    """The keys of the log.

    ``seen`` is a sorted set of event ids by the time they came, ``mark`` the relay's last mark,
    ``lanes`` a hash: the name of each lane and the id in the log where it begins. ``source`` is
    the name of the outbox that was relayed from last.
    """

    def __init__(self, prefix: str) -> None:
        self.stream = f"{prefix}:{{log}}:stream"
        self.seen = f"{prefix}:{{log}}:seen"
        self.mark = f"{prefix}:{{log}}:mark"
        self.lanes = f"{prefix}:{{log}}:lanes"
        self.source = f"{prefix}:{{log}}:source"


class WorkerKeys:
    """The keys of the workers: ``until`` when each counts as alive, what it said of itself, and
    whether one was ever ``seen``."""

    def __init__(self, prefix: str) -> None:
        self.until = f"{prefix}:{{workers}}:until"
        self.info = f"{prefix}:{{workers}}:info"
        self.seen = f"{prefix}:{{workers}}:seen"


class LaneKeys:
    """The keys of one lane.

    ``due`` is a sorted set of what waits for its next attempt, by the server's time in
    milliseconds, and ``held`` a hash with the entries themselves. ``strikes`` counts for an entry
    how many workers it killed alone. ``breaker`` is a text that begins with the breaker's state,
    or missing where it is closed and nothing failed. ``limit`` tells when the bucket of the rate
    limit will be full again, in microseconds. ``note`` is where something is kept that the
    channel remembers, a key for each. ``digests`` are the keys of what is collected, see
    ``digests.lua``.
    """

    def __init__(self, prefix: str, lane: str) -> None:
        tag = f"{prefix}:{{lane:{lane}}}"
        self.lane = lane
        self.stream = f"{tag}:stream"
        self.cursor = f"{tag}:cursor"
        self.due = f"{tag}:due"
        self.held = f"{tag}:held"
        self.dead = f"{tag}:dead"
        self.attempts = f"{tag}:attempts"
        self.paused = f"{tag}:paused"
        self.strikes = f"{tag}:strikes"
        self.breaker = f"{tag}:breaker"
        self.limit = f"{tag}:limit"
        self._notes = f"{tag}:note:"
        self.collecting = f"{tag}:collecting"
        self.opened = f"{tag}:opened"
        self.members = f"{tag}:members:"
        self.digests = (self.collecting, self.opened, self.members)

    def note(self, name: str) -> str:
        """The key of the note of this name."""
        return self._notes + name
