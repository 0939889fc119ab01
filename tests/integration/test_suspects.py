"""What dead workers held: taken over by lanes that are busy, and let go of when it is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest

from kinto_dispatch.lane import Lane
from kinto_dispatch.plugins import Configuration, configure
from kinto_dispatch.quarantine import Quarantine
from kinto_dispatch.queue.streams import StreamsQueue
from kinto_dispatch.queue.values import Entry
from kinto_dispatch.testing.builders import make_event
from kinto_dispatch.testing.waiting import eventually


LANE = "ops"
LEASE_SECONDS = 1.0
BUSY = """
import asyncio
from pathlib import Path
from kinto_dispatch import hookimpl

@hookimpl
async def on_event_async(event, channel, delivery):
    if delivery.key == "held":
        Path(__file__).with_name("delivered").touch()
    await asyncio.sleep(0.5)
"""
SLOW = """
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
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Configuration]:
    """Makes a configuration with one channel, whose plugin is this text."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(module: str, text: str, **channel: str) -> Configuration:
        tmp_path.joinpath(f"{module}.py").write_text(text)
        dispatch = "kinto.event_listeners.dispatch"
        settings = {
            "kinto.event_listeners": "dispatch",
            f"{dispatch}.use": "kinto_dispatch",
            f"{dispatch}.channels": LANE,
        }
        for name, value in {"plugin": module, **channel}.items():
            settings[f"{dispatch}.channels.{LANE}.{name}"] = value
        return configure(settings, {})

    return make


async def test_a_busy_lane_takes_over_what_a_dead_worker_held(
    queue: StreamsQueue, configured: Callable[..., Configuration], tmp_path: Path
) -> None:
    """However much waits, what was held by a worker that died is run soon after its lease."""
    configuration = configured("busy_destination", BUSY, concurrency="2")
    body = make_event().encode()
    await queue.enqueue(LANE, [Entry("held", body)])
    await queue.fetch(LANE, "dead", 1, 0.0)
    await queue.enqueue(LANE, [Entry(str(number), body) for number in range(200)])
    quarantine, stopping = Quarantine(configuration.source), asyncio.Event()
    (channel,) = configuration.channels
    lane = Lane(channel, queue, "busy", quarantine, LEASE_SECONDS, stopping)
    running = asyncio.ensure_future(lane.run())
    try:
        delivered = tmp_path / "delivered"
        await asyncio.to_thread(eventually, delivered.exists, "what the dead worker held", 15.0)
        (status,) = await queue.status([LANE])
        assert status.waiting > 0
        stopping.set()
        await running
    finally:
        running.cancel()
        quarantine.close()


async def test_an_attempt_alone_is_ended_when_it_is_lost(
    queue: StreamsQueue, configured: Callable[..., Configuration], tmp_path: Path
) -> None:
    """The process of a suspect that another worker has taken over is killed: nobody would settle
    what it does."""
    configuration = configured("slow_destination", SLOW)
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
