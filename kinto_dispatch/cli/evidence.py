"""Where an event can be found again, and what became of it for one channel."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from kinto_dispatch.cli.pages import (
    attempt_records,
    dead_letters,
    event_in,
    is_about,
    log_entries,
    read_event,
)
from kinto_dispatch.cli.times import seconds_of


if TYPE_CHECKING:
    from kinto_dispatch.attempt import AttemptRecord
    from kinto_dispatch.event import Event
    from kinto_dispatch.plugins import Channel
    from kinto_dispatch.queue.protocol import Queue
    from kinto_dispatch.queue.values import DeadLetter, LaneStatus

Source = Literal["log", "dead letter", "file"]
State = Literal[
    "delivered", "dead", "retry", "waiting", "unrouted", "unknown", "joined", "skipped"
]

ENDS: Mapping[str, State] = {
    "delivered": "delivered",
    "joined": "joined",
    "skipped": "skipped",
}
"""What a delivery's last record says of it; any other outcome is attempted again, or dead."""


@dataclass(frozen=True, slots=True)
class Found:
    """An event and where it was found; ``position`` is its place in the log, if it is there."""

    event: Event
    source: Source
    position: str | None = None


async def find_by_id(queue: Queue, event_id: str, lanes: Iterable[str]) -> Found | None:
    """The event from the log; from a dead letter when the log has forgotten it already, and then
    with only the changes that the channel wanted."""
    needle = event_id.encode()
    async for entry in log_entries(queue):
        if needle in entry.body:
            event = read_event(entry.body)
            if event is not None and event.id == event_id:
                return Found(event, "log", entry.id)
    for lane in lanes:
        async for page in dead_letters(queue, lane):
            for letter in page:
                if needle in letter.body and (event := event_in(letter, event_id)):
                    return Found(event, "dead letter")
    return None


async def find_by_uri(queue: Queue, uri: str, at: float | None) -> Found | None:
    """The event that changed this object nearest to ``at``, or last when no time is given."""
    nearest: Found | None = None
    async for found in _changes_of(queue, uri):
        if nearest is None or at is None or _distance(found, at) <= _distance(nearest, at):
            nearest = found
    return nearest


async def _changes_of(queue: Queue, uri: str) -> AsyncIterator[Found]:
    needle = uri.encode()
    async for entry in log_entries(queue):
        event = read_event(entry.body) if needle in entry.body else None
        if event is not None and any(change.uri == uri for change in event.changes):
            yield Found(event, "log", entry.id)


def _distance(found: Found, at: float) -> float:
    return abs(seconds_of(found.event.timestamp) - at)


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of one delivery: its state, and everything that is on record."""

    key: str
    state: State
    attempts: Sequence[AttemptRecord]
    dead: Sequence[DeadLetter]


async def fates_of(
    queue: Queue, found: Found, channel: Channel, lane: LaneStatus, cursor: str
) -> Sequence[Fate]:
    """What became of each delivery of the event to this channel: of those that its route wants
    now, and of those that are on record. The lane itself cannot be searched; ``cursor`` is how
    far it has been routed."""
    attempts: Mapping[str, list[AttemptRecord]] = defaultdict(list)
    others: set[str] = set()  # What a delivery of this event became a part of.
    async for record in attempt_records(queue, channel.name, _earliest(found)):
        if record.event_id == found.event.id or record.key in others:
            attempts[record.key].append(record)
            others |= {record.into} if record.into else set()
    dead: Mapping[str, list[DeadLetter]] = defaultdict(list)
    async for page in dead_letters(queue, channel.name):
        for letter in page:
            if is_about(letter, found.event.id) or letter.key in others:
                dead[letter.key].append(letter)
    keys = dict.fromkeys([*_wanted_keys(channel, found.event), *attempts, *dead])
    untouched = _untouched(found, lane, cursor)
    return [
        Fate(key, _state(attempts[key], dead[key]) or untouched, attempts[key], dead[key])
        for key in keys
    ]


def _earliest(found: Found) -> float:
    """From when on there may be attempts. The event's own time may lie in the future, since
    clients of Kinto may write it; it came into the log before it was attempted."""
    from kinto_dispatch.queue.entries import position

    at = seconds_of(found.event.timestamp)
    if found.position is not None:
        return min(at, position(found.position)[0] / 1000)
    return at if at < time.time() else 0.0


def _wanted_keys(channel: Channel, event: Event) -> Sequence[str]:
    from kinto_dispatch.errors import RouteError
    from kinto_dispatch.router import deliveries

    try:
        return [entry.key for entry in deliveries(channel, event, b"")]
    except RouteError:
        return []


def _state(attempts: Sequence[AttemptRecord], dead: Sequence[DeadLetter]) -> State | None:
    """What the records say, if there are any."""
    if dead:
        return "dead"
    return ENDS.get(attempts[-1].outcome, "retry") if attempts else None


def _untouched(found: Found, lane: LaneStatus, cursor: str) -> State:
    """Where a delivery is that is neither attempted nor dead, as far as can be known: it waits,
    if anything waits in the lane at all."""
    from kinto_dispatch.queue.entries import position

    if found.position is not None and position(found.position) > position(cursor):
        return "unrouted"
    has_any = lane.waiting or lane.in_flight or lane.retry or lane.collecting
    return "waiting" if has_any else "unknown"
