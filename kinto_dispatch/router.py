"""From the log to the lanes: every captured event enters each lane whose route wants it, once."""

from __future__ import annotations

import asyncio
import logging
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from kinto_dispatch.delivery import delivery_key
from kinto_dispatch.entries import entries_of
from kinto_dispatch.errors import (
    DispatchError,
    QueueFull,
    QueueUnavailable,
    RouteError,
    UndecodableEvent,
)
from kinto_dispatch.event import Event
from kinto_dispatch.patience import Patience
from kinto_dispatch.plugins import Channel
from kinto_dispatch.queue.protocol import Queue
from kinto_dispatch.queue.values import DeadEntry, Digesting, Entry, LogEntry
from kinto_dispatch.subscribers import subscribed


logger = logging.getLogger(__name__)

BATCH = 500
BATCH_CHANGES = 5_000
BATCH_BYTES = 4_000_000
"""What is routed in one go ends with the event that reaches one of these: it takes a lane's call
some ten milliseconds, and its memory is free again before the next."""

QUICK_CHANGES = 2_000
QUICK_BYTES = 500_000
"""What is judged, and decoded, on the event loop: some 40 and 5 ms. More is for a thread."""

SQUEEZED_BYTES = 1_000_000
"""How much enters an idle lane though memory is full, if it is more than one event."""

MOST_DELIVERIES = 200_000
MOST_BYTES = 500_000_000
"""What one call may bring into a lane: a server refuses one of more than a million arguments, four
for each delivery, and hangs up at a gigabyte. Within that a batch enters whole or not at all."""

BLOCK_SECONDS = 1.0
COLD_SECONDS = 1.0
"""How long a router that lost a race keeps out of the winner's way."""

ASIDE_SECONDS = 0.5
LONGEST_ASIDE_SECONDS = 30.0
"""How long a lane that cannot be routed rests: the first time, and at most, doubling between."""

Decoded = tuple[LogEntry, Event | UndecodableEvent]


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a lane could not be routed, how often in a row, and until when it rests."""

    error: Exception
    times: int
    until: float


@dataclass(slots=True)
class Round:
    """What came of one look at the log: whether anything got further, whether another router was
    quicker, and that there was no memory for a lane."""

    moved: bool = False
    lost_race: bool = False
    full: QueueFull | None = None


class Router:
    """Routes the log for these channels. Any number of routers may run: a lane's cursor moves
    only from where the router saw it, so the one that comes late changes nothing.

    Lanes are routed one after the other, those that stand at the same place from the same look at
    the log. A lane that cannot be routed rests, and holds up none of the others.
    """

    def __init__(self, queue: Queue, channels: Sequence[Channel], patience: Patience) -> None:
        self._queue = queue
        self._channels = {channel.name: channel for channel in channels}
        self._patience = patience
        self._troubles: dict[str, Trouble] = {}

    @property
    def troubles(self) -> Mapping[str, Exception]:
        """The lanes that cannot be routed for now, and why: not for want of the queue."""
        return {name: trouble.error for name, trouble in self._troubles.items()}

    async def run(self, stopping: asyncio.Event) -> None:
        """Route until ``stopping`` is set; survives the queue's absence."""
        while not stopping.is_set():
            lost_race = await self._patience.attempt(self.route_once, "routing the log")
            if lost_race:
                await self._patience.pause(COLD_SECONDS)

    async def route_once(self, block_seconds: float = BLOCK_SECONDS) -> bool:
        """Route once what a look at the log shows, to all lanes. True if another router got there
        first. Raises ``QueueFull`` where there was memory for nothing at all."""
        now = time.monotonic()
        resting = {name for name, trouble in self._troubles.items() if trouble.until > now}
        names = [name for name in self._channels if name not in resting]
        if not names:
            await self._patience.pause(min(block_seconds, ASIDE_SECONDS))
            return False
        *behind, front = _by_place(await self._queue.cursors(names))
        this = Round()
        for cursor, lanes in behind:
            await self._route_from(cursor, lanes, 0.0, this)
        cursor, lanes = front
        await self._route_from(cursor, lanes, 0.0 if this.moved else block_seconds, this)
        if this.full is not None and not this.moved:
            raise this.full
        return this.lost_race

    async def _route_from(
        self, cursor: str, lanes: Sequence[str], block_seconds: float, this: Round
    ) -> None:
        """Route what lies behind a place in the log to the lanes that stand there."""
        entries = await self._queue.read_log(cursor, BATCH, block_seconds)
        while entries and lanes:
            batch = await _decode_some(entries)
            # One after the other: what judging takes for the next ones must not count against the
            # time-out of a call that is under way.
            lanes = [one for one in lanes if await self._route_lane(one, cursor, batch, this)]
            entries = entries[len(batch) :]
            cursor = batch[-1][0].id

    async def _route_lane(
        self, name: str, cursor: str, batch: Sequence[Decoded], this: Round
    ) -> bool:
        """Route a batch to one lane. False if it does not stand at the end of the batch now."""
        try:
            arrived = await self._move(name, cursor, batch, this)
        except QueueFull as error:
            this.full = error
            return False
        except Exception as error:
            if isinstance(error, QueueUnavailable):
                # Raises where it is the queue that is away, and not this call that it fails on.
                await self._queue.mark()
            self._set_aside(name, error)
            return False
        if name in self._troubles:
            del self._troubles[name]
            logger.warning("router.goes_on channel=%s", name)
        return arrived

    async def _move(self, name: str, cursor: str, batch: Sequence[Decoded], this: Round) -> bool:
        try:
            return await self._enter(name, cursor, batch, this)
        except QueueFull:
            # Else what is in the log could never leave it, and it is the log that is in the way.
            await self._enter(name, cursor, _few(batch), this, squeeze=True)
            return False

    async def _enter(
        self,
        name: str,
        cursor: str,
        batch: Sequence[Decoded],
        this: Round,
        squeeze: bool = False,
    ) -> bool:
        upto = batch[-1][0].id
        channel = self._channels[name]
        entries, dead = await _judge(channel, batch)
        if len(entries) + len(dead) > MOST_DELIVERIES or _size(entries, dead) > MOST_BYTES:
            if len(batch) > 1:
                await self._enter(name, cursor, batch[: len(batch) // 2], this, squeeze)
                return False
            entries, dead = [], [_too_many(channel, batch[0], len(entries) + len(dead))]
        stands = await self._queue.route(
            *(name, cursor, upto, entries, dead), digesting=_digesting(channel), squeeze=squeeze
        )
        this.moved = this.moved or stands == upto
        this.lost_race = this.lost_race or stands != upto
        return stands == upto

    def _set_aside(self, name: str, error: Exception) -> None:
        """Let the lane rest. A connection that was lost is said only if it happens again."""
        before = self._troubles.get(name)
        times = before.times + 1 if before else 1
        seconds = min(LONGEST_ASIDE_SECONDS, ASIDE_SECONDS * 2 ** min(times - 1, 10))
        self._troubles[name] = Trouble(error, times, time.monotonic() + seconds)
        if times == (2 if isinstance(error, QueueUnavailable) else 1):
            logger.error(
                "router.set_aside channel=%s: %s. The other lanes go on; this one is tried again.",
                name,
                _describe(error),
                exc_info=None if isinstance(error, DispatchError) else error,
            )


def _by_place(cursors: Mapping[str, str]) -> Sequence[tuple[str, Sequence[str]]]:
    """The lanes by where they stand, those that are furthest behind first."""
    places: dict[str, list[str]] = {}
    for name, cursor in cursors.items():
        places.setdefault(cursor, []).append(name)
    return sorted(places.items(), key=lambda place: position(place[0]))


async def _decode_some(entries: Sequence[LogEntry]) -> Sequence[Decoded]:
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
        changes += _count_changes(event)
        size += len(entry.body)
        if changes >= BATCH_CHANGES or size >= BATCH_BYTES:
            break
    return batch


def _count_changes(event: Event | UndecodableEvent) -> int:
    return len(event.changes) if isinstance(event, Event) else 1


def _has_hooks(decoded: Decoded) -> bool:
    return isinstance(decoded[1], Event) and bool(decoded[1].subscriptions)


def _few(batch: Sequence[Decoded]) -> Sequence[Decoded]:
    """What may be squeezed in: one event, or some small ones."""
    size = 0
    for number, (entry, _) in enumerate(batch):
        size += len(entry.body)
        if size > SQUEEZED_BYTES:
            return batch[: max(1, number)]
    return batch


async def _judge(
    channel: Channel, batch: Sequence[Decoded]
) -> tuple[Sequence[Entry], Sequence[DeadEntry]]:
    """As ``select``; in a thread where it would hold up the leases of everything else, as hooks
    may, whose authors are not trusted."""
    quick = sum(_count_changes(event) for _, event in batch) <= QUICK_CHANGES
    if quick and not (channel.config.subscribable and any(map(_has_hooks, batch))):
        return select(channel, batch)
    return await asyncio.to_thread(select, channel, batch)


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
            if channel.config.subscribable:
                asked_for, broken = subscribed(channel, event)
                entries += asked_for
                dead += broken
            else:
                entries += deliveries(channel, event, log_entry.body)
        except Exception as error:  # of our own, too: one event must not stop all others
            if not isinstance(error, RouteError):
                logger.exception("log.unroutable id=%s channel=%s", log_entry.id, channel.name)
            key = delivery_key(event.id, channel.name)
            dead.append(DeadEntry(key, log_entry.body, "failed", _describe(error)))
    return entries, dead


def deliveries(channel: Channel, event: Event, body: bytes) -> Sequence[Entry]:
    """What the channel gets of an event: nothing, one delivery, or one for each change."""
    if channel.config.subscribable:
        return subscribed(channel, event)[0]
    if event.subscriptions:
        event = replace(event, subscriptions=())
        body = event.encode()
    config, key = channel.config, delivery_key(event.id, channel.name)
    wanted = channel.route.select(event)
    by, splits = config.collects_by, config.split_changes
    return list(entries_of(event, wanted, key, by=by, splits=splits, body=body))


def _size(entries: Sequence[Entry], dead: Sequence[DeadEntry]) -> int:
    return sum(len(entry.body) for entry in entries) + sum(len(letter.body) for letter in dead)


def _too_many(channel: Channel, decoded: Decoded, count: int) -> DeadEntry:
    """What stands in for the deliveries of one event that no call can carry."""
    log_entry, event = decoded
    assert isinstance(event, Event)  # what cannot be read is one dead letter
    reason = (
        f"the event is {count:,} deliveries for this channel; at most {MOST_DELIVERIES:,} with "
        f"{MOST_BYTES:,} bytes are routed at once. For all of them, a thousand at a time: "
        f"kinto-dispatch replay --channel {channel.name} --event {shlex.quote(event.id)}. "
        "Then purge this one; replaying it makes one delivery with all changes of the event"
    )
    logger.error(
        "log.too_many_deliveries id=%s channel=%s: %s", log_entry.id, channel.name, reason
    )
    return DeadEntry(delivery_key(event.id, channel.name), log_entry.body, "failed", reason)


def _digesting(channel: Channel) -> Digesting | None:
    config = channel.config
    if config.collects_by is None:
        return None
    return Digesting(config.digest_seconds, config.collapse == "latest")


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
