"""The lanes of ``StreamsQueue``: route into them, claim from them, settle."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from kinto_dispatch.errors import QueueUnavailable
from kinto_dispatch.limit import RateLimit
from kinto_dispatch.queue import commands
from kinto_dispatch.queue.connected import Connected
from kinto_dispatch.queue.entries import to_claim
from kinto_dispatch.queue.portions import Portion
from kinto_dispatch.queue.values import (
    START_OF_LOG,
    Claim,
    DeadEntry,
    Digesting,
    Entry,
    Settlement,
)
from kinto_dispatch.queue.wire import NoGroup


logger = logging.getLogger(__name__)


class LanesPart(Connected):
    """What routers and workers do with lanes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._held_back: set[str] = set()
        self._portions: dict[str, Portion] = defaultdict(lambda: Portion(commands.CLAIM_BYTES))

    # --- in ------------------------------------------------------------------------------

    async def route(
        self,
        lane: str,
        after: str,
        upto: str,
        entries: Sequence[Entry],
        dead: Sequence[DeadEntry],
        *,
        digesting: Digesting | None = None,
        squeeze: bool = False,
    ) -> str:
        """As ``Queue.route``; ``START_OF_LOG`` where the lane has no cursor, since the server has
        lost its memory. One call whatever its size."""
        request = commands.route(self._keys(lane), after, upto, entries, dead, digesting, squeeze)
        cursor = await self._ask(request)
        return cursor.decode() if cursor else START_OF_LOG

    async def enqueue(self, lane: str, entries: Sequence[Entry]) -> None:
        """As ``Queue.enqueue``, a thousand at a time: one that fails may have added some."""
        keys = self._keys(lane)
        for part in commands.parts(entries):
            await self._wire.run(*(commands.enqueue(keys, entry) for entry in part))

    async def promote(
        self, lane: str, count: int, *, upto: int | None = None, at_least: int = 0
    ) -> tuple[int, float | None]:
        """As ``Queue.promote``."""
        request = commands.promote(self._keys(lane), count, upto, at_least)
        moved, next_ms = await self._ask(request)
        return moved, next_ms / 1000 if next_ms >= 0 else None

    # --- claim ---------------------------------------------------------------------------

    async def fetch(
        self,
        lane: str,
        consumer: str,
        count: int,
        block_seconds: float,
        *,
        limit: RateLimit | None = None,
        probe: bool = False,
    ) -> Sequence[Claim]:
        """As ``Queue.fetch``. From a lane that is held back nothing comes after ``block_seconds``;
        what was claimed in the moment it began is given back."""
        if count <= 0:
            return []
        if limit or probe:
            entries = await self._read_allowed(
                lane, consumer, count, block_seconds, limit=limit, probe=probe
            )
        else:
            entries = await self._read_freely(lane, consumer, count, block_seconds)
        claims = [to_claim(lane, raw, consumer, 1) for raw in entries]
        return await self._with_strikes(lane, claims)

    async def _read_allowed(
        self,
        lane: str,
        consumer: str,
        count: int,
        block_seconds: float,
        *,
        limit: RateLimit | None,
        probe: bool,
    ) -> Sequence[Any]:
        """New entries, of which none is claimed that is not allowed: nobody waits with tokens in
        hand, which could then be spent all at once, beside those that came meanwhile."""
        keys = self._keys(lane)
        request = commands.claim(keys, consumer, count, limit, probe)
        deadline = time.monotonic() + block_seconds
        while True:
            entries: Sequence[Any]
            entries, wait_ms, after = await self._ask(request)
            left = deadline - time.monotonic()
            if entries or left <= 0:
                return entries
            if wait_ms:
                await asyncio.sleep(left if wait_ms < 0 else min(left, wait_ms / 1000))
            else:
                added = commands.wait_for_lane(keys, after.decode(), left)
                await self._wire.run(added, wait_seconds=left)

    async def _read_freely(
        self, lane: str, consumer: str, count: int, block_seconds: float
    ) -> Sequence[Any]:
        """New entries, which are claimed by the call that waits for them."""
        if lane in self._held_back and await self._rests(lane, block_seconds):
            return []
        entries, is_held_back = await self._read_portions(lane, consumer, count, block_seconds)
        if is_held_back:
            self._held_back.add(lane)
            await self.release(lane, [to_claim(lane, raw, consumer, 1) for raw in entries])
            return []
        return entries

    async def _read_portions(
        self, lane: str, consumer: str, count: int, block_seconds: float
    ) -> tuple[Sequence[Any], bool]:
        """As ``_read``, in portions that are not too large for an answer; waits for the first."""
        entries: list[Any] = []
        portion, size, is_held_back = self._portions[lane], 0, False
        while (wanted := portion.of(count - len(entries), size)) and not is_held_back:
            try:
                some, is_held_back = await self._read(lane, consumer, wanted, block_seconds)
            except QueueUnavailable:
                portion.failed()
                if not entries:
                    raise
                break  # What was claimed is held, and whoever asks next hears of it.
            sizes = [sum(map(len, fields or ())) for _, fields in some]
            portion.came(sizes)
            entries += some
            size, block_seconds = size + sum(sizes), 0.0
            if len(some) < wanted:
                break
        return entries, is_held_back

    async def _rests(self, lane: str, seconds: float) -> bool:
        """Wait if the lane is still held back."""
        if commands.is_held_back(await self._ask(commands.held_back(self._keys(lane)))):
            await asyncio.sleep(seconds)
            return True
        self._held_back.discard(lane)
        return False

    async def _read(
        self, lane: str, consumer: str, count: int, block_seconds: float
    ) -> tuple[Sequence[Any], bool]:
        """New entries, and whether the lane is held back by the time they came."""
        keys = self._keys(lane)
        read = commands.fetch(keys, consumer, count, block_seconds)
        held = commands.held_back(keys)
        try:
            found, answer = await self._wire.run(read, held, wait_seconds=block_seconds)
        except NoGroup:
            await self._make_group(lane)
            try:
                found, answer = await self._wire.run(read, held, wait_seconds=block_seconds)
            except NoGroup:
                # Deleted again, by somebody who is at it. The next call makes it anew.
                return (), False
        return found[0][1] if found else (), commands.is_held_back(answer)

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
        self,
        lane: str,
        consumer: str,
        lease_seconds: float,
        count: int,
        *,
        limit: RateLimit | None = None,
        probe: bool = False,
    ) -> Sequence[Claim]:
        """As ``Queue.reclaim``, the oldest first."""
        if count <= 0:
            return []
        keys = self._keys(lane)
        request = commands.reclaim(keys, consumer, lease_seconds, count, limit, probe)
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
        strikes: int = await self._ask(commands.strike(self._keys(lane), claim))
        return strikes

    # --- breaker -------------------------------------------------------------------------

    async def breaker(self, lane: str) -> tuple[str, int]:
        """As ``Queue.breaker``."""
        text, (seconds, microseconds) = await self._wire.run(
            ("GET", self._keys(lane).breaker), ("TIME",)
        )
        now_ms = int(seconds) * 1000 + int(microseconds) // 1000
        return (text or b"").decode("utf-8", "replace"), now_ms

    async def move_breaker(self, lane: str, before: str, after: str) -> bool:
        """As ``Queue.move_breaker``."""
        return bool(await self._ask(commands.move_breaker(self._keys(lane), before, after)))

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
