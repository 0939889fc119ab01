"""The lanes of ``StreamsQueue``: route into them, claim from them, settle."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from kinto_dispatch.queue import commands
from kinto_dispatch.queue.connected import Connected
from kinto_dispatch.queue.entries import to_claim
from kinto_dispatch.queue.protocol import START_OF_LOG, Claim, DeadEntry, Entry, Settlement
from kinto_dispatch.queue.wire import NoGroup


logger = logging.getLogger(__name__)


class LanesPart(Connected):
    """What routers and workers do with lanes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._paused: set[str] = set()

    # --- in ------------------------------------------------------------------------------

    async def route(
        self, lane: str, after: str, upto: str, entries: Sequence[Entry], dead: Sequence[DeadEntry]
    ) -> str:
        """As ``Queue.route``; ``START_OF_LOG`` where the lane has no cursor, since the server has
        lost its memory. One call whatever its size."""
        cursor = await self._ask(commands.route(self._keys(lane), after, upto, entries, dead))
        return cursor.decode() if cursor else START_OF_LOG

    async def enqueue(self, lane: str, entries: Sequence[Entry]) -> None:
        """As ``Queue.enqueue``, a thousand at a time: one that fails may have added some."""
        keys = self._keys(lane)
        for part in commands.parts(entries):
            await self._wire.run(*(commands.enqueue(keys, entry) for entry in part))

    async def promote(self, lane: str, count: int) -> tuple[int, float | None]:
        """As ``Queue.promote``."""
        moved, next_ms = await self._ask(commands.promote(self._keys(lane), count))
        return moved, next_ms / 1000 if next_ms >= 0 else None

    # --- claim ---------------------------------------------------------------------------

    async def fetch(
        self, lane: str, consumer: str, count: int, block_seconds: float
    ) -> Sequence[Claim]:
        """As ``Queue.fetch``. From a paused lane nothing comes after ``block_seconds``; what was
        claimed in the moment it was paused is given back."""
        if count <= 0:
            return []
        if lane in self._paused and await self._rests(lane, block_seconds):
            return []
        entries, is_paused = await self._read(lane, consumer, count, block_seconds)
        claims = [to_claim(lane, raw, consumer, 1) for raw in entries]
        if is_paused:
            self._paused.add(lane)
            await self.release(lane, claims)
            return []
        return await self._with_strikes(lane, claims)

    async def _rests(self, lane: str, seconds: float) -> bool:
        """Wait if the lane is still paused."""
        if await self._ask(("EXISTS", self._keys(lane).paused)):
            await asyncio.sleep(seconds)
            return True
        self._paused.discard(lane)
        return False

    async def _read(
        self, lane: str, consumer: str, count: int, block_seconds: float
    ) -> tuple[Sequence[Any], bool]:
        """New entries, and whether the lane is paused by the time they came."""
        keys = self._keys(lane)
        read = commands.fetch(keys, consumer, count, block_seconds)
        paused = ("EXISTS", keys.paused)
        try:
            found, is_paused = await self._wire.run(read, paused, wait_seconds=block_seconds)
        except NoGroup:
            await self._make_group(lane)
            try:
                found, is_paused = await self._wire.run(read, paused, wait_seconds=block_seconds)
            except NoGroup:
                # Deleted again, by somebody who is at it. The next call makes it anew.
                return (), False
        return found[0][1] if found else (), bool(is_paused)

    async def _make_group(self, lane: str) -> None:
        """Another worker may have been quicker, which is refused and as good."""
        reply = await self._wire.run(commands.make_group(self._keys(lane)), checked=False)
        if not str(reply[0]).startswith("BUSYGROUP"):
            self._wire.check(reply)

    async def _with_strikes(self, lane: str, claims: Sequence[Claim]) -> Sequence[Claim]:
        """A suspect that was released before it ran comes back with its strikes."""
        suspects = [claim.id for claim in claims if claim.suspect]
        if not suspects:
            return claims
        found = await self._ask(("HMGET", self._keys(lane).strikes, *suspects))
        strikes = dict(zip(suspects, found, strict=True))
        return [replace(claim, strikes=int(strikes.get(claim.id) or 0)) for claim in claims]

    async def reclaim(
        self, lane: str, consumer: str, lease_seconds: float, count: int
    ) -> Sequence[Claim]:
        """As ``Queue.reclaim``, the oldest first. Nothing of a paused lane."""
        if count <= 0:
            return []
        request = commands.reclaim(self._keys(lane), consumer, lease_seconds, count)
        taken, gone = await self._ask(request)
        for entry_id in gone:
            logger.error("lane.entry_gone lane=%s id=%s: deleted by hand", lane, entry_id.decode())
        return [
            to_claim(lane, (entry_id, fields), consumer, token, int(strikes))
            for entry_id, token, strikes, fields in taken
        ]

    async def renew(self, lane: str, claims: Sequence[Claim]) -> Sequence[Claim]:
        """As ``Queue.renew``."""
        lost: list[Claim] = []
        for part in commands.parts(claims):
            positions = await self._ask(commands.renew(self._keys(lane), part))
            lost += [part[position] for position in positions]
        return lost

    async def strike(self, lane: str, claim: Claim) -> int:
        """As ``Queue.strike``."""
        strikes: int = await self._ask(("HINCRBY", self._keys(lane).strikes, claim.id, 1))
        return strikes - 1

    # --- out -----------------------------------------------------------------------------

    async def settle(self, lane: str, settlements: Sequence[Settlement]) -> Sequence[bool]:
        """As ``Queue.settle``; atomically a thousand at a time."""
        counted: list[bool] = []
        for part in commands.parts(settlements):
            answer = await self._ask(commands.settle(self._keys(lane), part))
            counted += [digit == 49 for digit in answer]  # 49 is the byte of "1"
        return counted

    async def release(self, lane: str, claims: Sequence[Claim]) -> None:
        """As ``Queue.release``: to the end of the lane. What is no longer held stays as it is."""
        for part in commands.parts(claims):
            await self._ask(commands.release(self._keys(lane), part))
