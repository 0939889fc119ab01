"""What came of an attempt: a value, never a boolean."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Delivered:
    """The destination has it. ``detail`` is shown to operators (a status, an id); no secrets."""

    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Retry:
    """Not now: try again, after ``after`` seconds if the destination said so, else by schedule.

    With ``throttled`` it said so of all deliveries: the lane of the channel rests as long, but at
    most for an hour, and then goes on with a single delivery. Without ``after`` it does not rest.
    """

    reason: str
    after: float | None = None
    throttled: bool = False


@dataclass(frozen=True, slots=True)
class Rejected:
    """Refused for good: a dead letter of kind ``refused``, without more attempts.

    With ``pause`` the destination wants nothing else either: an async channel is paused, and what
    waits for it stays in its lane until somebody resumes it.
    """

    reason: str
    pause: bool = False


@dataclass(frozen=True, slots=True)
class Veto:
    """A synchronous channel with ``phase = before_commit`` refuses the write.

    The client gets ``status`` (400 to 499) with ``reason`` in Kinto's error format.
    """

    status: int
    reason: str

    def __post_init__(self) -> None:
        if not 400 <= self.status <= 499:
            raise ValueError(f"Veto status {self.status} is not a client error; use 400 to 499.")


Outcome = Delivered | Retry | Rejected
