"""Brings what the channels want of the log into their lanes, and sets aside what cannot be."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kinto_dispatch.errors import DispatchError, QueueFull, QueueRejected, QueueUnavailable
from kinto_dispatch.patience import Patience
from kinto_dispatch.plugins import Channel
from kinto_dispatch.queue.entries import position
from kinto_dispatch.queue.protocol import Queue
from kinto_dispatch.queue.values import Digesting
from kinto_dispatch.router.judging import are_too_many, describe, judge, too_many
from kinto_dispatch.router.reading import Decoded, decode_some


logger = logging.getLogger(__name__)

BATCH = 500
"""Events of one look at the log."""

SQUEEZED_BYTES = 1_000_000
"""How much enters an idle lane though memory is full, if it is more than one event."""

BLOCK_SECONDS = 1.0
COLD_SECONDS = 1.0
"""How long a router that lost a race keeps out of the winner's way."""

ASIDE_SECONDS = 0.5
LONGEST_ASIDE_SECONDS = 30.0
"""How long a lane that cannot be routed rests: the first time, and at most, doubling between."""


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
            batch = await decode_some(entries)
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
        entries, dead = await judge(channel, batch)
        if are_too_many(entries, dead):
            if len(batch) > 1:
                await self._enter(name, cursor, batch[: len(batch) // 2], this, squeeze)
                return False
            entries, dead = [], [too_many(channel, batch[0], len(entries) + len(dead))]
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
        was_lost = isinstance(error, QueueUnavailable) and not isinstance(error, QueueRejected)
        if times == (2 if was_lost else 1):
            logger.error(
                "router.set_aside channel=%s: %s. The other lanes go on; this one is tried again.",
                name,
                describe(error),
                exc_info=None if isinstance(error, DispatchError) else error,
            )


def _by_place(cursors: Mapping[str, str]) -> Sequence[tuple[str, Sequence[str]]]:
    """The lanes by where they stand, those that are furthest behind first."""
    places: dict[str, list[str]] = {}
    for name, cursor in cursors.items():
        places.setdefault(cursor, []).append(name)
    return sorted(places.items(), key=lambda place: position(place[0]))


def _few(batch: Sequence[Decoded]) -> Sequence[Decoded]:
    """What may be squeezed in: one event, or some small ones."""
    size = 0
    for number, (entry, _) in enumerate(batch):
        size += len(entry.body)
        if size > SQUEEZED_BYTES:
            return batch[: max(1, number)]
    return batch


def _digesting(channel: Channel) -> Digesting | None:
    config = channel.config
    if config.collects_by is None:
        return None
    return Digesting(config.digest_seconds, config.collapse == "latest")
