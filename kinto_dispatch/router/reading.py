"""What stands in the log, decoded: as much as is routed in one go."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from kinto_dispatch.errors import UndecodableEvent
from kinto_dispatch.event import Event
from kinto_dispatch.queue.values import LogEntry


logger = logging.getLogger(__name__)

BATCH_CHANGES = 5_000
BATCH_BYTES = 4_000_000
"""What is routed in one go ends with the event that reaches one of these: it takes a lane's call
some ten milliseconds, and its memory is free again before the next."""

QUICK_BYTES = 500_000
"""What is decoded on the event loop: some 5 ms. More is for a thread."""

Decoded = tuple[LogEntry, Event | UndecodableEvent]


async def decode_some(entries: Sequence[LogEntry]) -> Sequence[Decoded]:
    """The first of these, as many as are routed in one go."""
    size = 0
    for entry in entries:
        size += len(entry.body)
        if size > QUICK_BYTES:
            return await asyncio.to_thread(_decode_batch, entries)
    return _decode_batch(entries)


def _decode_batch(entries: Sequence[LogEntry]) -> Sequence[Decoded]:
    batch: list[Decoded] = []
    changes = size = 0
    for entry in entries:
        event = _decode(entry)
        batch.append((entry, event))
        changes += count_changes(event)
        size += len(entry.body)
        if changes >= BATCH_CHANGES or size >= BATCH_BYTES:
            break
    return batch


def count_changes(event: Event | UndecodableEvent) -> int:
    return len(event.changes) if isinstance(event, Event) else 1


def _decode(entry: LogEntry) -> Event | UndecodableEvent:
    try:
        event = Event.decode(entry.body)
        # Lone surrogates are legal in JSON, and keys are made of the id.
        event.id.encode()
        return event
    except (UndecodableEvent, UnicodeEncodeError) as error:
        logger.error("log.undecodable id=%s %s", entry.id, error)
        if isinstance(error, UndecodableEvent):
            return error
        return UndecodableEvent("its id is no text", entry.body)
