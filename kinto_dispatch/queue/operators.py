"""What operators see and do in ``StreamsQueue``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from kinto_dispatch.queue import commands
from kinto_dispatch.queue.connected import Connected
from kinto_dispatch.queue.entries import first_entry_of, records_after, to_letter
from kinto_dispatch.queue.health import judge, read_info
from kinto_dispatch.queue.values import START_OF_LOG, DeadLetter, LaneStatus, QueueHealth


IDLE_CONSUMER_SECONDS = 3600.0
"""A consumer of which nothing was heard for that long was of a worker that died."""

SAMPLES = 100
"""How many nodes of a stream the server looks at to tell its size."""

SHRINKS = 10

RECORD_PAGE = 20
"""Entries of attempt records read at once; each may hold a thousand of them."""


class OperatorsPart(Connected):
    """Workers, numbers, dead letters, attempt records."""

    # --- workers -------------------------------------------------------------------------

    async def beat(
        self, worker: str, info: Mapping[str, Any], ttl_seconds: float
    ) -> Sequence[Mapping[str, Any]]:
        """As ``Queue.beat``, by the server's clock. ``info`` is kept as JSON."""
        beat = commands.beat(self._workers, worker, info, ttl_seconds)
        _, found = await self._wire.run(beat, commands.list_workers(self._workers))
        return [msgspec.json.decode(info) for info in found]

    async def workers(self) -> Sequence[Mapping[str, Any]]:
        """As ``Queue.workers``, those first that will be forgotten first."""
        found = await self._ask(commands.list_workers(self._workers))
        return [msgspec.json.decode(info) for info in found]

    async def retire(self, worker: str, lanes: Sequence[str], consumers: Sequence[str]) -> None:
        """As ``Queue.retire``."""
        keys = self._workers
        await self._wire.run(("ZREM", keys.until, worker), ("HDEL", keys.info, worker))
        if consumers:
            await self._wire.run(*(commands.retire(self._keys(lane), consumers) for lane in lanes))

    # --- numbers -------------------------------------------------------------------------

    async def status(self, lanes: Sequence[str]) -> Sequence[LaneStatus]:
        """As ``Queue.status``.

        ``waiting`` counts what stands in the lane and was given to nobody. The age of the oldest
        also covers events in the log that were not yet considered for the lane, wanted or not.
        """
        if not lanes:
            return []
        looks = await self._wire.run(*(commands.look(self._keys(lane)) for lane in lanes))
        behind = await self._ask(commands.look_behind(self._log, lanes, looks))
        return list(map(commands.to_status, lanes, looks, behind))

    async def health(self) -> QueueHealth:
        """As ``Queue.health``."""
        info, config = await self._wire.run(
            ("INFO",), ("CONFIG", "GET", "appendfsync"), checked=False
        )
        self._wire.check([info])
        # CONFIG is often forbidden, and where it is, this is not known.
        appendfsync = config[1].decode() if isinstance(config, list) and config else None
        return judge(read_info(info), appendfsync)

    async def pause(self, lane: str, paused: bool) -> None:
        """As ``Queue.pause``."""
        key = self._keys(lane).paused
        await self._ask(("SET", key, "1") if paused else ("DEL", key))

    # --- dead letters --------------------------------------------------------------------

    async def dead_letters(
        self, lane: str, after: str = START_OF_LOG, count: int = 1000
    ) -> Sequence[DeadLetter]:
        """As ``Queue.dead_letters``."""
        request = commands.read_stream(self._keys(lane).dead, after, count)
        found = await self._ask(request)
        return [to_letter(lane, raw) for raw in found]

    async def replay_dead(self, lane: str, letters: Sequence[DeadLetter]) -> int:
        """As ``Queue.replay_dead``; those that are gone already are not counted."""
        replayed = 0
        for part in commands.parts([letter.id for letter in letters]):
            replayed += await self._ask(commands.replay_dead(self._keys(lane), part))
        return replayed

    async def purge_dead(self, lane: str, letters: Sequence[DeadLetter]) -> int:
        """As ``Queue.purge_dead``."""
        purged = 0
        for part in commands.parts([letter.id for letter in letters]):
            purged += await self._ask(("XDEL", self._keys(lane).dead, *part))
        return purged

    # --- attempt records -----------------------------------------------------------------

    async def attempts(
        self, lane: str, after: str = START_OF_LOG, count: int = 1000
    ) -> Sequence[tuple[str, bytes]]:
        """As ``Queue.attempts``. A position is ``<id>:<number>``."""
        key, start = self._keys(lane).attempts, first_entry_of(after)
        records: list[tuple[str, bytes]] = []
        while len(records) < count:
            page = await self._ask(("XRANGE", key, start, "+", "COUNT", RECORD_PAGE))
            found, last = records_after(page, after)
            records += found
            if last is None:
                break
            start = f"({last}"
        return records[:count]

    async def prune(
        self,
        lane: str,
        attempts_before_ms: int,
        dead_before_ms: int,
        attempts_max_bytes: int | None = None,
    ) -> int:
        """As ``Queue.prune``. Also forgets the consumers of workers that died."""
        request = commands.prune(
            self._keys(lane), attempts_before_ms, dead_before_ms, IDLE_CONSUMER_SECONDS
        )
        pruned: int = await self._ask(request)
        if attempts_max_bytes is not None:
            pruned += await self._shrink(self._keys(lane).attempts, attempts_max_bytes)
        return pruned

    async def _shrink(self, key: str, max_bytes: int) -> int:
        """Trim a stream until it fits, in some steps: its entries differ in what they weigh."""
        trimmed = 0
        for _ in range(SHRINKS):
            used, length = await self._wire.run(
                ("MEMORY", "USAGE", key, "SAMPLES", SAMPLES), ("XLEN", key)
            )
            if not length or used <= max_bytes:
                break
            kept = min(length - 1, length * max_bytes // used)
            trimmed += await self._ask(("XTRIM", key, "MAXLEN", "=", kept))
        return trimmed
