"""``kinto-dispatch worker``: deliver what the async channels want."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import rich_click as click

from kinto_dispatch.cli.common import load_configuration, pick_lanes
from kinto_dispatch.cli.options import ini_option, ini_path
from kinto_dispatch.cli.printing import note


if TYPE_CHECKING:
    from kinto_dispatch.plugins import Configuration
    from kinto_dispatch.worker import WorkerOptions

LEAST_STANDSTILL_SECONDS = 30.0
STANDSTILL_SECONDS = 10.0


@click.command()
@ini_option
@click.option(
    "--processes",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    help="How many; one that dies is started again.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, 10_000),
    help="Deliveries at a time per channel and process. [default: each channel's setting]",
)
@click.option("--channels", metavar="NAMES", help="Only these channels, separated by commas.")
@click.option("--burst", is_flag=True, help="Stop when everything due has been settled.")
@click.option("--supervised", is_flag=True, hidden=True, help="Stop when standard input closes.")
@click.option(
    "--standstill-seconds",
    type=click.FloatRange(1.0),
    hidden=True,
    help="How long the event loop may stand still.",
)
def command(
    processes: int,
    concurrency: int | None,
    channels: str | None,
    burst: bool,
    supervised: bool,
    standstill_seconds: float | None,
) -> None:
    """Deliver what the async channels want, until SIGTERM or SIGINT.

    A first signal lets what is in flight finish, at most ``shutdown_seconds``; a second one gives
    it back at once. Exits 0 either way: nothing is lost.
    """
    from kinto_dispatch.worker import WorkerOptions

    configuration = load_configuration(logging.INFO)
    names = tuple((channels or "").replace(",", " ").split())
    pick_lanes(configuration, names)
    if not configuration.async_channels and not supervised:
        note("No channel is async, so there is nothing to deliver: mode = sync needs no worker.")
    options = WorkerOptions(concurrency=concurrency, channels=names, burst=burst)
    if processes == 1:
        limit = standstill_seconds or longest_standstill(configuration)
        # Not asyncio.run, which waits for hooks that were left behind.
        loop = asyncio.new_event_loop()
        loop.run_until_complete(run(configuration, options, supervised, limit))
        # Nor must their threads hold up the exit.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    from kinto_dispatch.cli.processes import supervise

    sys.exit(supervise(_child_arguments(ini_path()), processes, burst, supervised))


def longest_standstill(configuration: Configuration) -> float:
    """How long the event loop may stand still before the process is ended: longer than any
    attempt may take."""
    timeouts = [channel.config.timeout_seconds for channel in configuration.async_channels]
    return max(LEAST_STANDSTILL_SECONDS, STANDSTILL_SECONDS + max(timeouts, default=0.0))


async def run(
    configuration: Configuration,
    options: WorkerOptions,
    supervised: bool,
    standstill_seconds: float,
) -> None:
    """Run one worker process until a signal comes, or until its supervisor is gone."""
    from kinto_dispatch.watchdog import Watchdog
    from kinto_dispatch.worker import Worker

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


def _child_arguments(path: str) -> list[str]:
    """This command line again, for one process."""
    return [*_without_processes(sys.argv[1:]), "--processes", "1", "--supervised", "--ini", path]


def _without_processes(arguments: list[str]) -> list[str]:
    kept: list[str] = []
    skip = False
    for argument in arguments:
        if skip:
            skip = False
        elif argument == "--processes":
            skip = True
        elif not argument.startswith("--processes="):
            kept.append(argument)
    return kept
