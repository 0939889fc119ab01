"""What the parts of ``StreamsQueue`` stand on: a wire, and the names of keys."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from kinto_dispatch.queue.keys import LaneKeys, LogKeys, WorkerKeys
from kinto_dispatch.queue.wire import AsyncWire, Request


class Connected:
    """For one event loop. Looks for its server, and connects, when first used.

    ``find_url`` is called in a thread, and again whenever the server was lost. ``lanes`` are those
    that must be known to the log before anything is appended; ``register`` adds to them.
    ``timeout_seconds`` is what a call may take on top of what it was told to wait.
    """

    def __init__(
        self,
        find_url: Callable[[], str],
        prefix: str,
        lanes: Sequence[str] = (),
        timeout_seconds: float = 5.0,
    ) -> None:
        self.full = asyncio.Event()
        """As ``Queue.full``."""
        self._wire = AsyncWire(find_url, timeout_seconds, self.full.set)
        self._log = LogKeys(prefix)
        self._workers = WorkerKeys(prefix)
        self._prefix = prefix
        self._registered = tuple(dict.fromkeys(lanes))
        self._lane_keys: dict[str, LaneKeys] = {}

    async def close(self) -> None:
        """As ``Queue.close``. May be used again afterwards."""
        await self._wire.close()

    def _keys(self, lane: str) -> LaneKeys:
        keys = self._lane_keys.get(lane)
        if keys is None:
            keys = self._lane_keys[lane] = LaneKeys(self._prefix, lane)
        return keys

    async def _ask(self, request: Request) -> Any:
        """The one reply to one request."""
        (reply,) = await self._wire.run(request)
        return reply
