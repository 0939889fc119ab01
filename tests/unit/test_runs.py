"""Many attempts share one timer."""

from __future__ import annotations

import asyncio
from typing import Any

from kinto_dispatch.attempt.run import Run, UnderWay


class Counting(UnderWay):
    """Counts how often its timer fires."""

    sweeps = 0

    def _sweep(self) -> None:
        self.sweeps += 1
        super()._sweep()


async def test_what_begins_where_another_one_expires_adds_no_timer() -> None:
    """A lane fills the place of each attempt that is given up at once, for as long as its
    destination does not answer."""
    runs, places, expired, over = Counting(), 4, 0, asyncio.Event()

    def begin() -> None:
        runs.add(Run(0.01, again))

    def again(result: Any, took_seconds: float) -> None:
        nonlocal expired
        expired += 1
        if expired < 200:
            begin()
        else:
            over.set()

    for _ in range(places):
        begin()
    await asyncio.wait_for(over.wait(), 60)
    assert runs.sweeps <= 2 * expired
