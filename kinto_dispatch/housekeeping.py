"""What was delivered long ago is forgotten, and memory is never full of what nobody waits for."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

from kinto_dispatch.patience import Patience
from kinto_dispatch.queue.entries import position
from kinto_dispatch.queue.protocol import Queue
from kinto_dispatch.queue.values import QueueHealth
from kinto_dispatch.settings import DispatchSettings


logger = logging.getLogger(__name__)

HOUSEKEEPING_SECONDS = 60.0

LOOK_SECONDS = 5.0
"""How often a worker asks how much memory is left: it may go within seconds."""

SHORT_SECONDS = 2.0
"""How often it makes room while memory is short."""

LOG_SHARE = 4
ATTEMPTS_SHARE = 8
"""The log may take a fourth of the server's memory, all attempt records an eighth, so that most of
it is there for what waits. Both stay below their own bounds in any case."""

ATTEMPTS_MAX_BYTES = 100_000_000
"""What the attempt records of one channel may take where the server has no bound: some 300,000."""


class Housekeeper:
    """Forgets what is older than its retention or beyond its size, but nothing that a lane still
    has to read: of this worker's lanes, or of those that another living worker routes.

    At once where memory is short. Where it is full, all that has been routed leaves the log, and
    most of the attempt records go: they only tell of the past.
    """

    def __init__(
        self, queue: Queue, lanes: Sequence[str], settings: DispatchSettings, patience: Patience
    ) -> None:
        self._queue = queue
        self._lanes = tuple(lanes)
        self._settings = settings
        self._patience = patience
        self._warned: dict[str, str] = {}

    async def run(self, stopping: asyncio.Event) -> None:
        """Keep house until ``stopping`` is set; survives the queue's absence."""
        while not stopping.is_set():
            await self._patience.attempt(self.tidy, "housekeeping")
            await self._patience.pause(SHORT_SECONDS)
            await self._rest(stopping)

    async def look(self) -> QueueHealth:
        """How the server is. What an operator should know of it is logged when it begins."""
        health = await self._queue.health()
        # Without the numbers in it, which are others each time.
        warnings = {re.sub(r"\d", "", warning): warning for warning in health.warnings}
        for sign in warnings.keys() - self._warned.keys():
            logger.warning("queue.unfit %s", warnings[sign])
        for sign in self._warned.keys() - warnings.keys():
            logger.warning("queue.fit_again It was: %s", self._warned[sign])
        self._warned = warnings
        return health

    async def tidy(self) -> None:
        """Make room, the log first, since that takes no memory and frees the most."""
        was_refused = self._queue.full.is_set()
        self._queue.full.clear()
        health = await self.look()
        await self._forget(health)
        if was_refused or health.is_full:
            await self._make_room()

    async def _make_room(self) -> None:
        health = await self._queue.health()
        if not health.is_short_of_memory:
            return
        forgotten = await self._forget(health, is_last_resort=True)
        if forgotten:
            logger.warning(
                "housekeeping.made_room entries=%d: memory is full, so events that all lanes have "
                "were forgotten before log_retention_seconds, and attempt records before theirs",
                forgotten,
            )

    async def _forget(self, health: QueueHealth, is_last_resort: bool = False) -> int:
        forgotten = await self._trim(0 if is_last_resort else self._log_bytes(health))
        for lane in self._lanes:
            forgotten += await self._queue.prune(
                lane,
                _milliseconds_ago(self._settings.attempts_retention_seconds),
                _milliseconds_ago(self._settings.dead_retention_seconds),
                self._attempts_bytes(health) // (4 if is_last_resort else 1),
            )
        return forgotten

    async def _trim(self, most_bytes: int) -> int:
        keep_from = await self._first_needed()
        if keep_from is None:
            return 0
        before = _milliseconds_ago(self._settings.log_retention_seconds)
        return await self._queue.trim_log(before, keep_from, most_bytes)

    async def _first_needed(self) -> str | None:
        """Up to where every lane has been routed; ``None`` where that is not known."""
        if not self._lanes:
            return None
        cursors = [*(await self._queue.cursors(self._lanes)).values()]
        # While the ini changes, workers of both run. Lanes that nobody routes any more would keep
        # the log for ever.
        routed = {lane for worker in await self._queue.workers() for lane in routed_by(worker)}
        for lane in await self._queue.status(sorted(routed.difference(self._lanes))):
            if lane.cursor is None:
                # Its worker is about to set it.
                return None
            cursors.append(lane.cursor)
        return min([*cursors, *await self._announced(routed.union(self._lanes))], key=position)

    async def _announced(self, routed: Set[str]) -> Sequence[str]:
        """Where lanes begin that Kinto has announced and that no worker has routed yet: theirs is
        about to start with the new ini, and is waited for as long as the log reaches back."""
        oldest = _milliseconds_ago(self._settings.log_retention_seconds)
        starts = {
            lane: start
            for lane, start in (await self._queue.registered()).items()
            if lane not in routed and position(start)[0] >= oldest
        }
        lanes = await self._queue.status(sorted(starts))
        return [starts[lane.channel] for lane in lanes if lane.cursor is None]

    def _log_bytes(self, health: QueueHealth) -> int:
        return _at_most(self._settings.log_max_bytes, health.max_memory_bytes // LOG_SHARE)

    def _attempts_bytes(self, health: QueueHealth) -> int:
        """For each channel."""
        share = health.max_memory_bytes // ATTEMPTS_SHARE // max(1, len(self._lanes))
        return _at_most(ATTEMPTS_MAX_BYTES, share)

    async def _rest(self, stopping: asyncio.Event) -> None:
        """Until it is time again, or memory is short."""
        until = time.monotonic() + HOUSEKEEPING_SECONDS - SHORT_SECONDS
        while time.monotonic() < until and not stopping.is_set():
            await _first_of(LOOK_SECONDS, stopping, self._queue.full)
            health = await self._patience.attempt(self.look, "housekeeping")
            if health is None or health.is_short_of_memory or self._queue.full.is_set():
                return


def routed_by(worker: Mapping[str, Any]) -> Iterator[str]:
    """The lanes that a worker says it routes; an older release says only which ones it runs."""
    for lane in worker.get("routes", worker.get("channels", ())):
        if isinstance(lane, str):
            yield lane


def _at_most(bound: int, share: int) -> int:
    """A share of a memory without bound is 0, and none."""
    return min(bound, share) if share else bound


def _milliseconds_ago(seconds: float) -> int:
    return int((time.time() - seconds) * 1000)


async def _first_of(seconds: float, *events: asyncio.Event) -> None:
    """Wait until one of them is set, but not for longer."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
