"""Suspicion falls on what a dead worker held, and stays until an attempt has ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kinto_dispatch.queue.streams import StreamsQueue
from kinto_dispatch.queue.values import Claim, Entry, Later, Settlement


async def test_suspicion_ends_with_the_attempt_and_a_replay_stays_one(
    queue: StreamsQueue, idle: Callable[[Claim, float], Any]
) -> None:
    """What was given back unrun is still suspect; after its attempt it is like any other."""
    await queue.enqueue("ops", [Entry("k", b"body", replay=True)])
    (claim,) = await queue.fetch("ops", "dead", 1, 0)
    await idle(claim, 0.05)
    await queue.release("ops", await queue.reclaim("ops", "a", 0.05, 1))
    (suspect,) = await queue.fetch("ops", "b", 1, 0)
    assert (suspect.suspect, suspect.replay, suspect.attempt) == (True, True, 1)
    await queue.settle("ops", [Settlement(suspect, Later(0, 2), b"")])
    await queue.promote("ops", 1)
    (again,) = await queue.fetch("ops", "b", 1, 0)
    assert (again.suspect, again.replay, again.attempt) == (False, True, 2)
