"""What is kept of every attempt, and its one line in the log."""

from __future__ import annotations

import logging

import msgspec

from kinto_dispatch.lines import log_fields
from kinto_dispatch.queue.values import Dead, Done, Fate, Later


logger = logging.getLogger("kinto_dispatch.attempt")


class AttemptRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is kept of every attempt. ``at`` is seconds since the epoch, when it began.

    A delivery that went into another one has a record, too, with the outcome ``joined`` or
    ``skipped`` and the other's key in ``into``.
    """

    event_id: str
    key: str
    channel: str
    attempt: int
    outcome: str
    at: float
    duration_seconds: float
    reason: str | None = None
    replay: bool = False
    into: str | None = None


def log_attempt(record: AttemptRecord, fate: Fate) -> None:
    """One line per attempt with all its fields; only what needs a person is a warning."""
    level = {Done: logging.DEBUG, Later: logging.INFO, Dead: logging.WARNING}[type(fate)]
    if not logger.isEnabledFor(level):
        return
    fields = msgspec.structs.asdict(record)
    if isinstance(fate, Later):
        fields["retry_in_seconds"] = round(fate.delay_seconds, 3)
    if isinstance(fate, Dead):
        fields["dead_letter"] = fate.kind
    log_fields(logger, level, "delivery.attempted", fields)
