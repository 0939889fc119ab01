"""One event for one channel, and the key that stays the same over all its attempts."""

from __future__ import annotations

from dataclasses import dataclass


def delivery_key(event_id: str, channel: str, change_index: int | None = None) -> str:
    """The stable key of a delivery: what a receiver compares to recognise a repeat.

    Made of the event's id, the channel's name, and, where a channel has ``split_changes``, the
    position of the change in the event as it was captured.
    """
    key = f"{event_id}:{channel}"
    return key if change_index is None else f"{key}:{change_index}"


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a hook may know of the delivery it runs.

    ``attempt`` counts from 1; a redelivery after a crash keeps its number. ``replay`` is true when
    a person asked for it again. ``timeout_seconds`` is the deadline of this attempt.
    """

    key: str
    attempt: int
    replay: bool
    timeout_seconds: float
