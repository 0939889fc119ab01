"""What channels keep in ``StreamsQueue`` between deliveries."""

from __future__ import annotations

import math

from kinto_dispatch.queue.connected import Connected


class NotesPart(Connected):
    """Notes of a lane: a key for each, which the server lets expire."""

    async def recall(self, lane: str, name: str) -> bytes | None:
        """As ``Queue.recall``."""
        found: bytes | None = await self._ask(("GET", self._keys(lane).note(name)))
        return found

    async def remember(self, lane: str, name: str, value: bytes, seconds: float) -> None:
        """As ``Queue.remember``, in whole seconds."""
        key = self._keys(lane).note(name)
        await self._ask(("SET", key, value, "EX", max(1, math.ceil(seconds))))
