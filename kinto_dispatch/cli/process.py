"""One worker process: its event loop, its signals, its end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import NoReturn

from kinto_dispatch.cli.health import HealthServer
from kinto_dispatch.plugins import Configuration
from kinto_dispatch.vitals import Pulse, Vitals
from kinto_dispatch.watchdog import Watchdog
from kinto_dispatch.worker import Worker, WorkerOptions


PULSE_SECONDS = 1.0

Hear = Callable[[Vitals], None]
"""Who listens to what a worker says of itself. Must not block."""


def run_and_exit(
    configuration: Configuration,
    options: WorkerOptions,
    supervised: bool,
    standstill_seconds: float,
    hear: Hear | None = None,
    at_once: int | None = None,
) -> NoReturn:
    """As ``run``, and end the process with 0."""
    # What is loaded by now stays. To look through all of it for garbage would hold up deliveries
    # for tens of milliseconds, again and again where hooks fail: exceptions are such garbage.
    gc.collect()
    gc.freeze()
    # Not asyncio.run, which waits for hooks that were left behind.
    loop = asyncio.new_event_loop()
    loop.run_until_complete(
        run(configuration, options, supervised, standstill_seconds, hear, at_once)
    )
    # Nor must their threads hold up the exit.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


async def run(
    configuration: Configuration,
    options: WorkerOptions,
    supervised: bool,
    standstill_seconds: float,
    hear: Hear | None = None,
    at_once: int | None = None,
) -> None:
    """Run one worker process until a signal comes, or until its supervisor is gone. ``hear`` is
    told every second how it is. What runs is given back at a second signal, or where there is a
    signal ``at_once`` at that alone."""
    Watchdog(standstill_seconds).start()
    worker = Worker(configuration, options)
    task = asyncio.ensure_future(worker.run())
    pulse = asyncio.ensure_future(_tell(worker, hear)) if hear is not None else None
    loop = asyncio.get_running_loop()
    asked_to_stop = False

    def on_signal(number: int) -> None:
        nonlocal asked_to_stop
        if number == at_once or (asked_to_stop and at_once is None):
            task.cancel()
        asked_to_stop = True
        worker.stop()

    for number in (signal.SIGTERM, signal.SIGINT, at_once):
        if number is not None:
            loop.add_signal_handler(number, on_signal, number)
    if supervised:
        loop.add_reader(sys.stdin.fileno(), _on_supervisor_gone, loop, worker.stop)
    try:
        await task
    except asyncio.CancelledError:
        if not asked_to_stop:
            raise
    finally:
        if pulse is not None:
            pulse.cancel()


async def _tell(worker: Worker, hear: Hear) -> None:
    while True:
        hear(worker.vitals())
        await asyncio.sleep(PULSE_SECONDS)


def answering(server: HealthServer) -> Hear:
    """Lets a server answer for this one process, also while its event loop stands still."""
    pulse = Pulse(time.monotonic())
    server.start(lambda: [pulse.look(time.monotonic())])
    return lambda vitals: pulse.hear(vitals, time.monotonic())


def through(descriptor: int) -> Hear:
    """Tells it through a pipe that was inherited; what does not fit in is told the next time."""
    os.set_inheritable(descriptor, False)
    os.set_blocking(descriptor, False)

    def hear(vitals: Vitals) -> None:
        # It is full while its reader stands still, and broken when that is gone.
        with contextlib.suppress(OSError):
            os.write(descriptor, vitals.encode())

    return hear


def _on_supervisor_gone(loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> None:
    loop.remove_reader(sys.stdin.fileno())
    stop()
