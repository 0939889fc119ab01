"""From the log to the lanes: every captured event enters each lane whose route wants it, once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from kinto_dispatch.delivery import delivery_key
from kinto_dispatch.errors import DispatchError, RouteError, UndecodableEvent
from kinto_dispatch.event import Event
from kinto_dispatch.patience import Patience
from kinto_dispatch.plugins import Channel
from kinto_dispatch.queue.protocol import DeadEntry, Entry, LogEntry, Queue


logger = logging.getLogger(__name__)

BATCH = 500
BLOCK_SECONDS = 1.0
COLD_SECONDS = 1.0
"""How long a router that lost a race keeps out of the winner's way."""

Decoded = tuple[LogEntry, Event | UndecodableEvent]


class Router:
    """Routes the log for these channels. Any number of routers may run: a lane's cursor moves
    only from where the router saw it, so the one that comes late changes nothing."""

    def __init__(self, queue: Queue, channels: Sequence[Channel], patience: Patience) -> None:
        self._queue = queue
        self._channels = {channel.name: channel for channel in channels}
        self._patience = patience

    async def run(self, stopping: asyncio.Event) -> None:
        """Route until ``stopping`` is set; survives the queue's absence."""
        while not stopping.is_set():
            lost_race = await self._patience.attempt(self.route_once, "routing the log")
            if lost_race:
                await self._patience.pause(COLD_SECONDS)

    async def route_once(self, block_seconds: float = BLOCK_SECONDS) -> bool:
        """Route one batch to all lanes. True if another router got there first."""
        cursors = await self._queue.cursors(list(self._channels))
        first = min(cursors.values(), key=position)
        entries = await self._queue.read_log(first, BATCH, block_seconds)
        if not entries:
            return False
        decoded = [(entry, _decode(entry)) for entry in entries]
        arrived = await asyncio.gather(
            *(self._route_lane(name, cursors[name], decoded) for name in self._channels)
        )
        return not all(arrived)

    async def _route_lane(self, name: str, cursor: str, decoded: Sequence[Decoded]) -> bool:
        """Route to one lane what lies behind its cursor. False if the cursor had moved."""
        upto = decoded[-1][0].id
        if position(cursor) >= position(upto):
            return True
        behind = [item for item in decoded if position(item[0].id) > position(cursor)]
        entries, dead = select(self._channels[name], behind)
        return await self._queue.route(name, cursor, upto, entries, dead) == upto


def select(
    channel: Channel, decoded: Sequence[Decoded]
) -> tuple[Sequence[Entry], Sequence[DeadEntry]]:
    """The deliveries that this channel's route wants, and those that could not be judged."""
    entries: list[Entry] = []
    dead: list[DeadEntry] = []
    for log_entry, event in decoded:
        if isinstance(event, UndecodableEvent):
            key = delivery_key(f"log-{log_entry.id}", channel.name)
            dead.append(DeadEntry(key, log_entry.body, "failed", str(event)))
            continue
        try:
            entries += deliveries(channel, event, log_entry.body)
        except Exception as error:  # of our own, too: one event must not stop all others
            if not isinstance(error, RouteError):
                logger.exception("log.unroutable id=%s channel=%s", log_entry.id, channel.name)
            key = delivery_key(event.id, channel.name)
            dead.append(DeadEntry(key, log_entry.body, "failed", _describe(error)))
    return entries, dead


def deliveries(channel: Channel, event: Event, body: bytes) -> Sequence[Entry]:
    """What the channel gets of an event: nothing, one delivery, or one for each change."""
    wanted = channel.route.select(event)
    if not wanted:
        return []
    if not channel.config.split_changes:
        kept = event.only(wanted)
        body = body if kept is event else kept.encode()
        return [Entry(delivery_key(event.id, channel.name), body)]
    is_wanted = {id(change) for change in wanted}
    return [
        Entry(delivery_key(event.id, channel.name, index), event.only([change]).encode())
        for index, change in enumerate(event.changes)
        if id(change) in is_wanted
    ]


def position(entry_id: str) -> tuple[int, int]:
    """A log id as numbers, since ``10-0`` comes after ``9-0``."""
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds), int(sequence or 0)


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


def _describe(error: Exception) -> str:
    return str(error) if isinstance(error, DispatchError) else f"{type(error).__name__}: {error}"
