"""Everything that a lane or the log keeps, read a page at a time."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from kinto_dispatch.cli.times import iso, seconds_of
from kinto_dispatch.errors import UndecodableEvent


if TYPE_CHECKING:
    from kinto_dispatch.attempt import AttemptRecord
    from kinto_dispatch.event import Event
    from kinto_dispatch.queue.protocol import Queue
    from kinto_dispatch.queue.values import DeadLetter, LogEntry

logger = logging.getLogger(__name__)

PAGE = 500

SKEW_SECONDS = 300.0
"""How far the clocks of Kinto, of workers and of the queue's server may be apart."""


def position_before(seconds: float | None) -> str:
    """A position in the log or in a lane's records before what was written at that time; before
    everything where no time is given."""
    from kinto_dispatch.queue.values import START_OF_LOG

    if seconds is None:
        return START_OF_LOG
    return f"{max(0, int((seconds - SKEW_SECONDS) * 1000))}-0"


async def log_entries(queue: Queue, since: float | None = None) -> AsyncIterator[LogEntry]:
    """The log, oldest first, from about ``since`` on."""
    after = position_before(since)
    while page := await queue.read_log(after, PAGE):
        for entry in page:
            yield entry
        after = page[-1].id


async def dead_letters(queue: Queue, lane: str) -> AsyncIterator[list[DeadLetter]]:
    """The dead letters of a lane in pages, oldest first. What the reader takes away from a page
    or what comes meanwhile does not disturb it."""
    after = position_before(None)
    while page := await queue.dead_letters(lane, after, PAGE):
        after = page[-1].id
        yield list(page)


async def attempt_records(
    queue: Queue, lane: str, since: float | None = None
) -> AsyncIterator[AttemptRecord]:
    """The attempts of a lane, oldest first, from about ``since`` on."""
    after = position_before(since)
    while page := await queue.attempts(lane, after, PAGE):
        for _, body in page:
            if record := decode_record(body):
                yield record
        after = page[-1][0]


def decode_record(record: bytes) -> AttemptRecord | None:
    """The record of an attempt as ``attempt.py`` wrote it, ``None`` for anything else."""
    import msgspec

    from kinto_dispatch.attempt import AttemptRecord

    try:
        return msgspec.json.decode(record, type=AttemptRecord)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        logger.warning("attempts.undecodable %s: %r", error, record[:80])
        return None


def read_event(body: bytes) -> Event | None:
    """The event, also of a digest, ``None`` for what is none, which is logged."""
    from kinto_dispatch import digest

    try:
        return digest.read_event(body)
    except UndecodableEvent as error:
        logger.warning("log.undecodable %s", error)
        return None


def event_row(event: Event) -> dict[str, Any]:
    """An event under stable keys, without what the objects contain."""
    return {
        "event_id": event.id,
        "name": event.name,
        "action": event.action,
        "resource_name": event.resource_name,
        "uri": event.uri,
        "user_id": event.user_id,
        "at": iso(seconds_of(event.timestamp)),
        "changes": [change.uri for change in event.changes],
    }


def is_about(letter: DeadLetter, event_id: str) -> bool:
    """Whether a dead letter is of that event, or of a digest that holds it."""
    if event_id_of(letter.key) == event_id:
        return True
    return event_id.encode() in letter.body and event_in(letter, event_id) is not None


def event_in(letter: DeadLetter, event_id: str) -> Event | None:
    """The event of that id, if the dead letter holds it."""
    from kinto_dispatch.digest import read_events

    try:
        events = read_events(letter.body)
    except UndecodableEvent:
        return None
    return next((event for event in events if event.id == event_id), None)


def event_id_of(key: str) -> str:
    """The id of the event that a delivery is made of, without decoding it: keys begin with it."""
    return key.partition(":")[0]
