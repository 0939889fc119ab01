"""``kinto-dispatch status``: lanes, outbox and workers, in numbers."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import rich_click as click

from kinto_dispatch.cli.common import left_behind, load_configuration, with_queue
from kinto_dispatch.cli.options import ini_option, json_option
from kinto_dispatch.cli.printing import note, print_json, print_table, printable
from kinto_dispatch.cli.times import duration, iso
from kinto_dispatch.errors import DispatchError, OutboxUnavailable, QueueUnavailable


if TYPE_CHECKING:
    from kinto_dispatch.plugins import Configuration
    from kinto_dispatch.queue.protocol import Queue
    from kinto_dispatch.queue.values import LaneStatus

WATCH_SECONDS = 2.0


@click.command()
@ini_option
@json_option
@click.option("--watch", is_flag=True, help=f"Again every {WATCH_SECONDS:g} s, until Ctrl-C.")
def command(as_json: bool, watch: bool) -> None:
    """Show how long the oldest delivery of each lane has been waiting, and how many there are.

    With --watch and --json: one line of JSON each time.
    """
    configuration = load_configuration()
    while watch:
        try:
            show(look(configuration), as_json, watch)
        except (QueueUnavailable, OutboxUnavailable) as error:
            note(str(error))
        time.sleep(WATCH_SECONDS)
    show(look(configuration), as_json, watch)


def look(configuration: Configuration) -> dict[str, Any]:
    """The status under the stable keys; ``outbox`` is ``null`` where none is used."""

    async def work(queue: Queue) -> dict[str, Any]:
        names = [channel.name for channel in configuration.async_channels]
        lanes = [lane_row(lane) for lane in await queue.status(names)]
        lanes += [lane_row(lane, configured=False) for lane in await left_behind(queue, names)]
        return {
            "lanes": lanes,
            "outbox": outbox_row(configuration),
            "workers": [worker_row(worker) for worker in await queue.workers()],
            "queue": await queue_row(queue),
        }

    return with_queue(configuration, work)


async def queue_row(queue: Queue) -> dict[str, Any] | None:
    """The server's memory, and what it lacks, under the stable keys; ``None`` where it may not be
    asked. ``max_memory_bytes`` is ``None`` where it has no bound of its own."""
    try:
        health = await queue.health()
    except DispatchError:
        return None
    return {
        "server": health.server,
        "version": health.version,
        "used_memory_bytes": health.used_memory_bytes,
        "max_memory_bytes": health.max_memory_bytes or None,
        "may_evict": health.may_evict,
        "warnings": list(health.warnings),
    }


def lane_row(lane: LaneStatus, *, configured: bool = True) -> dict[str, Any]:
    """A lane under the stable keys."""
    return {
        "channel": lane.channel,
        "oldest_waiting_seconds": lane.oldest_waiting_seconds,
        "waiting": lane.waiting,
        "in_flight": lane.in_flight,
        "retry": lane.retry,
        "collecting": lane.collecting,
        "dead": lane.dead,
        "paused": lane.paused,
        "breaker": lane.breaker,
        "configured": configured,
    }


def outbox_row(configuration: Configuration) -> dict[str, Any] | None:
    """The outbox under the stable keys. Raises ``OutboxUnavailable``."""
    settings = configuration.settings
    if not settings.has_transactional_outbox or settings.storage_url is None:
        return None
    from kinto_dispatch.outbox.reader import PostgresOutboxReader

    reader = PostgresOutboxReader(settings.storage_url.get_secret_value())
    try:
        status = reader.status()
    finally:
        reader.close()
    return {
        "waiting": status.waiting,
        "oldest_waiting_seconds": status.oldest_waiting_seconds,
    }


def worker_row(worker: Mapping[str, Any]) -> dict[str, Any]:
    """A worker under the stable keys; what an older release does not say of itself is null."""
    started_at = worker.get("started_at")
    return {
        "name": worker.get("name"),
        "host": worker.get("host"),
        "pid": worker.get("pid"),
        "version": worker.get("version"),
        "started_at": None if started_at is None else iso(started_at),
        "channels": list(worker.get("channels", ())),
        "in_flight": worker.get("in_flight"),
        "stuck": list(worker.get("stuck", ())),
    }


def show(status: dict[str, Any], as_json: bool, watch: bool) -> None:
    """JSON, or tables for people; on a terminal the next look replaces the last."""
    if as_json:
        print_json(status, indent=None if watch else 2)
        return
    if watch and sys.stdout.isatty():
        click.clear()
    if status["lanes"]:
        show_lanes(status["lanes"])
    else:
        click.echo("No channel is async: all are called in the request, so there are no lanes.")
    click.echo(f"outbox: {outbox_text(status['outbox'])}")
    click.echo(f"queue:  {queue_text(status['queue'])}")
    for warning in status["queue"]["warnings"] if status["queue"] else ():
        click.secho(f"        {printable(warning)}", fg="yellow")
    for worker in status["workers"]:
        names = ", ".join(worker["channels"])
        click.echo(f"worker: {worker['name']} since {worker['started_at']}, channels: {names}")
        if worker["stuck"]:
            click.echo(f"        threads hang in their hooks: {', '.join(worker['stuck'])}")
    if not status["workers"]:
        start = "running; start one: kinto-dispatch worker"
        click.echo(f"worker: none is {start if status['lanes'] else 'needed'}")


def show_lanes(lanes: Sequence[Mapping[str, Any]]) -> None:
    """A line for each."""
    print_table(
        ("channel", "oldest", "waiting", "in flight", "retry", "collecting", "dead", "state"),
        [
            (
                lane["channel"],
                duration(lane["oldest_waiting_seconds"]),
                lane["waiting"],
                lane["in_flight"],
                lane["retry"],
                lane["collecting"],
                lane["dead"],
                state(lane),
            )
            for lane in lanes
        ],
    )


def state(lane: Mapping[str, Any]) -> str:
    """What keeps a lane from delivering, for people."""
    if not lane["configured"]:
        return "no channel of this name in the ini"
    if lane["paused"]:
        return "paused"
    if lane["oldest_waiting_seconds"] is not None and not lane["waiting"]:
        return "waits in the log for a worker to route it"
    return "" if lane["breaker"] == "closed" else f"breaker {lane['breaker']}"


def outbox_text(outbox: Mapping[str, Any] | None) -> str:
    """The outbox in a few words."""
    if outbox is None:
        return "not used (Kinto's storage has no transaction to join)"
    if not outbox["waiting"]:
        return "empty"
    return f"{outbox['waiting']} waiting, the oldest {duration(outbox['oldest_waiting_seconds'])}"


def queue_text(queue: Mapping[str, Any] | None) -> str:
    """The queue's server in a few words."""
    if queue is None:
        return "its server does not say how it is (it forbids INFO)"
    limit = queue["max_memory_bytes"]
    bound = "no maxmemory" if limit is None else f"of {megabytes(limit)} maxmemory"
    used = megabytes(queue["used_memory_bytes"])
    return f"{queue['server']} {queue['version']}, {used} used, {bound}"


def megabytes(size: int) -> str:
    """Bytes for people."""
    return f"{size / 1_000_000:,.1f} MB"
