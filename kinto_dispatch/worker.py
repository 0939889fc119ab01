"""The worker process: relay, router, one lane per channel; started and drained politely."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
import uuid
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from itertools import islice
from typing import Any

from kinto_dispatch.errors import QueueRejected
from kinto_dispatch.housekeeping import Housekeeper
from kinto_dispatch.lane import Lane
from kinto_dispatch.memory import Memory
from kinto_dispatch.patience import Patience
from kinto_dispatch.plugins import Channel, Configuration
from kinto_dispatch.quarantine import Quarantine
from kinto_dispatch.queue import open_queue
from kinto_dispatch.queue.entries import position
from kinto_dispatch.queue.protocol import Queue
from kinto_dispatch.relay import Relay, open_relay
from kinto_dispatch.router import Router
from kinto_dispatch.vitals import Standstill, Vitals


logger = logging.getLogger(__name__)

BEAT_SECONDS = 2.0
BEAT_TTL_SECONDS = 10.0
IDLE_CHECK_SECONDS = 0.1

SAID = 5
"""Reasons of a kind in ``Worker.vitals``, so that they fit through a pipe at once."""

LEAVE_SECONDS = 2.0
"""What is kept of ``shutdown_seconds``, at most half of it, to settle, give back, and close."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """What the command line says. ``channels`` empty means all of them."""

    concurrency: int | None = None
    channels: tuple[str, ...] = ()
    burst: bool = False


class Worker:
    """Everything that one worker process runs, on one event loop."""

    def __init__(self, configuration: Configuration, options: WorkerOptions) -> None:
        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._configuration = configuration
        self._settings = configuration.settings
        self._options = options
        self._stopping = asyncio.Event()
        self._patience = Patience(self._stopping)
        self._started_at = time.time()
        self._quarantine = Quarantine(configuration.source)
        self._lanes: list[Lane] = []
        self._beaten_at = float("-inf")
        self._standstill = Standstill()

    def stop(self) -> None:
        """Claim nothing more, finish what is in flight, end. May be called from a signal."""
        if not self._stopping.is_set():
            logger.info("worker.stopping in_flight=%d", self._in_flight())
        self._stopping.set()

    def vitals(self) -> Vitals:
        """Whether it fetches, and whether it is set up for that. To be asked every second or so,
        on its loop: what stands still is known by two looks."""
        if self._stopping.is_set():
            return Vitals(unready=("stops",))
        rounds = {lane.name: lane.rounds for lane in self._lanes if lane.has_room}
        unfetched = self._standstill.look(rounds, time.monotonic())
        stuck = [f"channel {name!r}: has room and fetches nothing" for name in unfetched]
        return Vitals(tuple(stuck[:SAID]), tuple(islice(self._unready(), SAID)))

    def _unready(self) -> Iterator[str]:
        if time.monotonic() - self._beaten_at > BEAT_TTL_SECONDS:
            yield "the queue does not answer; the log says why"
        for what, error in self._rejected().items():
            yield f"{what}: {error}"
        for channel in self._configuration.async_channels:
            if channel.status == "failed":
                yield f"channel {channel.name!r} has failed; kinto-dispatch check says why"

    async def run(self) -> None:
        """Work until ``stop`` is called, or with ``burst`` until everything due is settled."""
        queue = open_queue(self._settings)
        relay = open_relay(self._settings, queue)
        names = [channel.name for channel in self._configuration.async_channels]
        housekeeper = Housekeeper(queue, names, self._settings, self._patience)
        try:
            await self._reach(queue, housekeeper)
            await self._work(queue, relay, housekeeper)
        finally:
            await self._leave(queue)

    # --- start ---------------------------------------------------------------------------

    async def _reach(self, queue: Queue, housekeeper: Housekeeper) -> None:
        """Wait until the queue is there; it may come up after the worker. Somebody waits for the
        end of a burst, though, and is told."""
        if self._options.burst:
            await self._register(queue, housekeeper)
            return
        while not self._stopping.is_set():
            step = partial(self._register, queue, housekeeper)
            if await self._patience.attempt(step, "the worker"):
                return

    async def _register(self, queue: Queue, housekeeper: Housekeeper) -> bool:
        await queue.register([channel.name for channel in self._configuration.async_channels])
        await housekeeper.look()
        return True

    def _wanted(self) -> Sequence[Channel]:
        """The channels whose deliveries this process runs: those loaded, and asked for."""
        names = self._options.channels
        return [
            channel
            for channel in self._configuration.async_channels
            if channel.status == "loaded" and (not names or channel.name in names)
        ]

    # --- work ----------------------------------------------------------------------------

    async def _work(self, queue: Queue, relay: Relay | None, housekeeper: Housekeeper) -> None:
        channels = self._configuration.async_channels
        router = Router(queue, channels, self._patience)
        self._lanes = [self._lane(channel, queue) for channel in self._wanted()]
        logger.info("worker.started name=%s channels=%s", self.name, self._lane_names())
        background: list[Coroutine[Any, Any, None]]
        background = [self._heart(queue), housekeeper.run(self._stopping)]
        if channels:
            background.append(router.run(self._stopping))
        if relay is not None:
            background.append(relay.run(self._stopping))
        if self._options.burst:
            background.append(self._stop_when_idle(queue, relay, router))
        await self._run_lanes([asyncio.ensure_future(work) for work in background])
        if self._options.burst and router.troubles:
            raise next(iter(router.troubles.values()))

    def _lane(self, channel: Channel, queue: Queue) -> Lane:
        channel.memory = Memory(channel.name, queue, asyncio.get_running_loop())
        return Lane(
            channel,
            queue,
            self.name,
            self._quarantine,
            self._settings.lease_seconds,
            self._stopping,
            concurrency=self._options.concurrency,
        )

    async def _run_lanes(self, background: Sequence[asyncio.Future[Any]]) -> None:
        """Run until the lanes have drained; one that ends by a bug of ours stops the worker."""
        lanes = [asyncio.ensure_future(lane.run()) for lane in self._lanes]
        stopped: asyncio.Future[Any] = asyncio.ensure_future(self._stopping.wait())
        everything = [*lanes, *background, stopped]
        try:
            await asyncio.wait(everything, return_when=asyncio.FIRST_COMPLETED)
            self.stop()
            if lanes:
                leave = self._leave_seconds()
                await asyncio.wait(lanes, timeout=self._settings.shutdown_seconds - leave)
        finally:
            await _end(everything)
        for task in [*lanes, *background]:
            if not task.cancelled() and (error := task.exception()):
                raise error

    # --- the background ------------------------------------------------------------------

    async def _heart(self, queue: Queue) -> None:
        """Until the lanes have drained: a worker that finishes what it holds still lives."""
        patience = Patience(asyncio.Event())
        while True:
            await patience.attempt(partial(self._beat, queue), "the heartbeat")
            await patience.pause(BEAT_SECONDS)

    async def _beat(self, queue: Queue) -> None:
        workers = await queue.beat(self.name, self._describe(), BEAT_TTL_SECONDS)
        self._beaten_at = time.monotonic()
        told = [worker.get("lease_seconds") for worker in workers]
        leases = [one for one in told if isinstance(one, int | float)]
        for lane in self._lanes:
            lane.takeover_seconds = max([self._settings.lease_seconds, *leases])

    def _describe(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "version": version("kinto-dispatch"),
            "started_at": self._started_at,
            "channels": self._lane_names(),
            "routes": [channel.name for channel in self._configuration.async_channels],
            "lease_seconds": self._settings.lease_seconds,
            "in_flight": self._in_flight(),
            "stuck": [lane.name for lane in self._lanes if lane.is_stuck],
        }

    async def _stop_when_idle(self, queue: Queue, relay: Relay | None, router: Router) -> None:
        """Two idle looks in a row, since a delivery can be between two places during one."""
        quiet = 0
        while quiet < 2 and not self._stopping.is_set():
            idle = await self._patience.attempt(
                lambda: self._is_idle(queue, relay, router), "looking for work"
            )
            for error in self._rejected().values():
                raise error
            quiet = quiet + 1 if idle else 0
            await self._patience.pause(IDLE_CHECK_SECONDS)
        self.stop()

    async def _is_idle(self, queue: Queue, relay: Relay | None, router: Router) -> bool:
        """Nothing waits in the outbox, in the log, or in a lane that this worker runs; but for
        what cannot be routed, which is told at the end."""
        if relay is not None and await relay.waiting():
            return False
        names = [
            channel.name
            for channel in self._configuration.async_channels
            if channel.name not in router.troubles
        ]
        if names:
            first = min((await queue.cursors(names)).values(), key=position)
            if await queue.read_log(first, 1):
                return False
        if self._in_flight():
            return False
        # What is paused, or whose destination wants nothing now, is for another time.
        lanes = await queue.status(self._lane_names())
        going = [lane for lane in lanes if not lane.paused and lane.breaker == "closed"]
        due = [(await queue.promote(lane.channel, 0))[1] == 0 for lane in going if lane.retry]
        return not any(due) and not any(lane.waiting or lane.in_flight for lane in going)

    def _rejected(self) -> Mapping[str, QueueRejected]:
        """What the queue rejects, by what it is for."""
        rejected = dict(self._patience.rejected)
        for lane in self._lanes:
            rejected |= lane.rejected
        return rejected

    # --- stop ----------------------------------------------------------------------------

    async def _leave(self, queue: Queue) -> None:
        """Settle and give back what is held, say good-bye, close; the leases do it if the queue
        cannot. Takes at most ``LEAVE_SECONDS``, whatever plugins and servers do."""
        seconds = self._leave_seconds() / 2
        await _within(seconds, self._say_goodbye(queue))
        self._quarantine.close()
        channels = [channel.close() for channel in self._configuration.channels]
        await _within(seconds, *channels, queue.close())
        logger.info("worker.stopped name=%s", self.name)

    async def _say_goodbye(self, queue: Queue) -> None:
        await asyncio.gather(*(lane.release() for lane in self._lanes), return_exceptions=True)
        await queue.retire(self.name, self._lane_names(), [self.name])

    def _leave_seconds(self) -> float:
        return min(LEAVE_SECONDS, self._settings.shutdown_seconds / 2)

    def _lane_names(self) -> list[str]:
        return [lane.name for lane in self._lanes]

    def _in_flight(self) -> int:
        return sum(lane.in_flight for lane in self._lanes)


async def _end(tasks: Sequence[asyncio.Future[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _within(seconds: float, *steps: Coroutine[Any, Any, None]) -> None:
    """Run these at the same time, and leave behind what is not done in time. Never raises."""
    tasks = [asyncio.ensure_future(step) for step in steps]
    done, late = await asyncio.wait(tasks, timeout=seconds)
    for task in late:
        task.cancel()
    for task in done:
        if not task.cancelled() and (error := task.exception()):
            logger.info("worker.leaving %s", error)
