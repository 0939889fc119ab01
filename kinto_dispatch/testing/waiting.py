"""Wait for facts, never for time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar


T = TypeVar("T")

POLL_SECONDS = 0.02


def eventually(predicate: Callable[[], T], what: str, timeout_seconds: float = 10.0) -> T:
    """The first true value of ``predicate``; raises ``AssertionError`` naming ``what`` if none
    comes within ``timeout_seconds``. Blocks the calling thread."""
    deadline = time.monotonic() + timeout_seconds
    while not (value := predicate()):
        if time.monotonic() > deadline:
            raise AssertionError(f"Waited {timeout_seconds:g} s for {what}; last seen: {value!r}")
        time.sleep(POLL_SECONDS)
    return value


async def eventually_async(
    predicate: Callable[[], Awaitable[T]], what: str, timeout_seconds: float = 10.0
) -> T:
    """As ``eventually``, for a coroutine function; other tasks go on meanwhile."""
    deadline = time.monotonic() + timeout_seconds
    while not (value := await predicate()):
        if time.monotonic() > deadline:
            raise AssertionError(f"Waited {timeout_seconds:g} s for {what}; last seen: {value!r}")
        await asyncio.sleep(POLL_SECONDS)
    return value
