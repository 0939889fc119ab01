"""One worker process: its event loop, its signals, its end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from kinto_dispatch.plugins import Configuration
from kinto_dispatch.watchdog import Watchdog
from kinto_dispatch.worker import Worker, WorkerOptions


def run_and_exit(
    configuration: Configuration,
    options: WorkerOptions,
    supervised: bool,
    standstill_seconds: float,
) -> NoReturn:
    """As ``run``, and end the process with 0."""
    # Not asyncio.run, which waits for hooks that were left behind.
    loop = asyncio.new_event_loop()
    loop.run_until_complete(run(configuration, options, supervised, standstill_seconds))
    # Nor must their threads hold up the exit.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


async def run(
    configuration: Configuration,
    options: WorkerOptions,
    supervised: bool,
    standstill_seconds: float,
) -> None:
    """Run one worker process until a signal comes, or until its supervisor is gone."""
    Watchdog(standstill_seconds).start()
    worker = Worker(configuration, options)
    task = asyncio.ensure_future(worker.run())
    loop = asyncio.get_running_loop()
    asked_to_stop = False

    def on_signal() -> None:
        nonlocal asked_to_stop
        if asked_to_stop:
            task.cancel()
        asked_to_stop = True
        worker.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    if supervised:
        loop.add_reader(sys.stdin.fileno(), _on_supervisor_gone, loop, worker.stop)
    try:
        await task
    except asyncio.CancelledError:
        if not asked_to_stop:
            raise


def _on_supervisor_gone(loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> None:
    loop.remove_reader(sys.stdin.fileno())
    stop()
