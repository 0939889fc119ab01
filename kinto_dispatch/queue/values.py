"""The values that pass through a queue: events in the log, deliveries in lanes, what is held of
them, and what becomes of them. Frozen, and the same for every engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


START_OF_LOG = "0-0"

NEARLY_FULL = 0.9
"""From which share of its memory on a server is short of it."""

DeadKind = Literal["refused", "failed", "poison"]


@dataclass(frozen=True, slots=True)
class LogEntry:
    """A captured event in the log. ``id`` is the engine's and grows in log order."""

    id: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Entry:
    """A delivery on its way into a lane. ``body`` is the event on the wire, by value.

    Those with the same ``digest`` are collected, see ``Queue.route``.
    """

    key: str
    body: bytes
    attempt: int = 1
    replay: bool = False
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class Digesting:
    """How deliveries are collected into digests: for how long from the first on, and whether only
    the latest of them counts."""

    seconds: float = 0.0
    only_latest: bool = False


@dataclass(frozen=True, slots=True)
class DeadEntry:
    """A delivery that never ran, because routing it failed."""

    key: str
    body: bytes
    kind: DeadKind
    reason: str


@dataclass(frozen=True, slots=True)
class Claim:
    """A delivery that one worker holds.

    ``consumer`` and ``token`` are the fence: they change whenever somebody else takes the entry,
    and a settlement with old ones is recognised as stale. ``suspect`` is true when the entry was
    held by a worker that died; ``strikes`` counts the deaths of workers that ran it alone.
    ``skipped`` tells how many older versions it stands for.
    """

    lane: str
    id: str
    consumer: str
    token: int
    key: str
    body: bytes
    attempt: int
    replay: bool = False
    suspect: bool = False
    strikes: int = 0
    skipped: int = 0


@dataclass(frozen=True, slots=True)
class Done:
    """Delivered: leave the lane."""


@dataclass(frozen=True, slots=True)
class Later:
    """Back to the lane as attempt ``attempt`` after ``delay_seconds`` of the server's clock.

    It comes back as ``suspect`` where its process had to be killed to end it. For
    ``rest_seconds`` its destination wants no other delivery either.
    """

    delay_seconds: float
    attempt: int
    suspect: bool = False
    rest_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Dead:
    """Leave the lane for the channel's dead letters.

    ``answered`` tells whether the destination had a part in it, as ``Done`` and ``Later`` do by
    what they are; ``None`` where it was not asked. With ``pause`` it wants nothing else either:
    who settles this pauses the lane first. ``rest_seconds`` as in ``Later``.
    """

    kind: DeadKind
    reason: str
    answered: bool | None = None
    pause: bool = False
    rest_seconds: float = 0.0


Fate = Done | Later | Dead


@dataclass(frozen=True, slots=True)
class Settlement:
    """The fate of a claim, with the record of its attempt (JSON, see ``attempt.py``)."""

    claim: Claim
    fate: Fate
    record: bytes


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead letter as it is kept. ``id`` is the engine's; ``at_ms`` the server's clock."""

    id: str
    lane: str
    key: str
    kind: DeadKind
    reason: str
    attempts: int
    at_ms: int
    body: bytes


@dataclass(frozen=True, slots=True)
class LaneStatus:
    """One lane in numbers. ``oldest_waiting_seconds`` is ``None`` when nothing waits.

    ``collecting`` counts digests that are not deliveries yet.
    """

    channel: str
    waiting: int
    in_flight: int
    retry: int
    dead: int
    oldest_waiting_seconds: float | None
    paused: bool
    breaker: str
    cursor: str | None
    collecting: int = 0


@dataclass(frozen=True, slots=True)
class QueueHealth:
    """Whether the server is fit to hold what must not be lost.

    ``warnings`` are sentences for an operator: an evicting ``maxmemory_policy``, no persistence.
    ``may_evict`` says that it drops what is queued once its memory is full.
    """

    server: str
    version: str
    run_id: str
    used_memory_bytes: int
    max_memory_bytes: int
    warnings: tuple[str, ...] = field(default=())
    may_evict: bool = False

    @property
    def is_short_of_memory(self) -> bool:
        """Whether it soon takes nothing more. A server without bound never is."""
        return self.used_memory_bytes > NEARLY_FULL * self.max_memory_bytes > 0

    @property
    def is_full(self) -> bool:
        """Whether it takes nothing more."""
        return self.used_memory_bytes >= self.max_memory_bytes > 0
