"""``kinto-dispatch worker``: deliver what the async channels want."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

import rich_click as click

from kinto_dispatch.cli.address import Address, AddressType
from kinto_dispatch.cli.common import load_configuration, pick_lanes
from kinto_dispatch.cli.options import ini_option, ini_path
from kinto_dispatch.cli.printing import note


if TYPE_CHECKING:
    from kinto_dispatch.plugins import Configuration

LEAST_STANDSTILL_SECONDS = 30.0
STANDSTILL_SECONDS = 10.0
PARENTS_OPTIONS = ("--processes", "--health-port")


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
@click.option(
    "--health-port",
    type=AddressType(),
    help="Answer /livez and /readyz here; on the loopback address, unless a host is given.",
)
@click.option("--vitals-to", type=int, hidden=True, help="Say there how it is.")
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
    health_port: Address | None,
    vitals_to: int | None,
    supervised: bool,
    standstill_seconds: float | None,
) -> None:
    """Deliver what the async channels want, until SIGTERM or SIGINT.

    With --health-port two paths are answered, with 200 or 503 and JSON {ok, workers: {expected,
    live, ready}, reasons}. /livez: some worker process fetches, or would if the queue were there.
    /readyz: all have reached the queue and run all of their channels.

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
    health = None
    if health_port is not None:
        from kinto_dispatch.cli.health import open_port

        health = open_port(health_port)
    limit = standstill_seconds or longest_standstill(configuration)
    from kinto_dispatch.cli.processes import AT_ONCE, supervise

    if processes == 1:
        from kinto_dispatch.cli.process import answering, run_and_exit, through

        if vitals_to is not None:
            run_and_exit(configuration, options, supervised, limit, through(vitals_to), AT_ONCE)
        hear = answering(health) if health is not None else None
        run_and_exit(configuration, options, supervised, limit, hear)
    # Its own watchdog goes first; then it has the time that a stop may take.
    kill = configuration.settings.shutdown_seconds
    arguments = _child_arguments(ini_path())
    sys.exit(supervise(arguments, processes, burst, supervised, health, limit, kill))


def longest_standstill(configuration: Configuration) -> float:
    """How long the event loop may stand still before the process is ended: longer than any
    attempt may take."""
    timeouts = [channel.config.timeout_seconds for channel in configuration.async_channels]
    return max(LEAST_STANDSTILL_SECONDS, STANDSTILL_SECONDS + max(timeouts, default=0.0))


def _child_arguments(path: str) -> list[str]:
    """This command line again, for one process."""
    return [*_for_a_child(sys.argv[1:]), "--processes", "1", "--supervised", "--ini", path]


def _for_a_child(arguments: list[str]) -> list[str]:
    """Without what is the business of the one above."""
    kept: list[str] = []
    skip = False
    for argument in arguments:
        if skip:
            skip = False
        elif argument in PARENTS_OPTIONS:
            skip = True
        elif argument.partition("=")[0] not in PARENTS_OPTIONS:
            kept.append(argument)
    return kept
