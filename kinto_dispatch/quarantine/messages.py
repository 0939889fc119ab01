"""What the worker and the keeper of its quarantine say to each other."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kinto_dispatch.queue.values import Claim, Fate


@dataclass(frozen=True, slots=True)
class Start:
    """To the keeper, first of all: what to load. Answered with ``Ready``."""

    import_path: list[str]
    log_level: int
    source: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Ready:
    """From the keeper: everything is loaded."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """To the keeper: run this alone, and kill it if it has not ended after ``seconds``."""

    number: int
    claim: Claim
    seconds: float


@dataclass(frozen=True, slots=True)
class Stop:
    """To the keeper: nobody waits for this any more; kill it."""

    number: int


@dataclass(frozen=True, slots=True)
class Settled:
    """From the keeper: the attempt ended."""

    number: int
    fate: Fate
    record: bytes


@dataclass(frozen=True, slots=True)
class Ended:
    """From the keeper: the process ended, and the attempt had not. ``status`` is its exit code,
    negative for a signal; ``was_killed`` means that the keeper did it, at the deadline."""

    number: int
    status: int
    was_killed: bool

    def __str__(self) -> str:
        if self.status < 0:
            return f"killed by {signal.Signals(-self.status).name}"
        return f"exit code {self.status}"


@dataclass(frozen=True, slots=True)
class Failed:
    """From the keeper: there is no room for the attempt, which has not begun."""

    number: int
    reason: str
