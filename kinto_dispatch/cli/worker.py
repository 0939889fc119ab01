"""``kinto-dispatch worker``: deliver what the async channels want."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

import rich_click as click

from kinto_dispatch.cli.common import load_configuration, pick_lanes
from kinto_dispatch.cli.options import ini_option, ini_path
from kinto_dispatch.cli.printing import note


if TYPE_CHECKING:
    from kinto_dispatch.plugins import Configuration

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
        from kinto_dispatch.cli.process import run_and_exit

        limit = standstill_seconds or longest_standstill(configuration)
        run_and_exit(configuration, options, supervised, limit)
    from kinto_dispatch.cli.processes import supervise

    sys.exit(supervise(_child_arguments(ini_path()), processes, burst, supervised))


def longest_standstill(configuration: Configuration) -> float:
    """How long the event loop may stand still before the process is ended: longer than any
    attempt may take."""
    timeouts = [channel.config.timeout_seconds for channel in configuration.async_channels]
    return max(LEAST_STANDSTILL_SECONDS, STANDSTILL_SECONDS + max(timeouts, default=0.0))


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
