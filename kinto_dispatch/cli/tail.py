"""``kinto-dispatch tail``: what happens, as it happens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import rich_click as click

from kinto_dispatch.cli.attempts import as_row
from kinto_dispatch.cli.common import load_configuration, pick_lanes, with_queue
from kinto_dispatch.cli.options import channels_option, ini_option, json_option
from kinto_dispatch.cli.pages import PAGE, decode_record, event_row, position_before, read_event
from kinto_dispatch.cli.printing import print_json, printable
from kinto_dispatch.cli.times import TIME, duration


if TYPE_CHECKING:
    from kinto_dispatch.queue.protocol import Queue

POLL_SECONDS = 0.3

Read = Callable[[str], Awaitable[Sequence[tuple[str, bytes]]]]
"""The next page after a position: positions with what is there."""


@dataclass(frozen=True, slots=True)
class Item:
    """Something that happened ``at`` seconds since the epoch, for programs and for people."""

    at: float
    row: dict[str, Any]
    line: str


@click.command()
@ini_option
@channels_option
@click.option("--events", is_flag=True, help="The captured events instead of the attempts.")
@click.option("--since", type=TIME, help="First what happened since then. [default: now]")
@json_option
def command(channels: tuple[str, ...], events: bool, since: float | None, as_json: bool) -> None:
    """Follow the attempts of all channels, or the captured events, one a line, until Ctrl-C.

    With --json each line is an object: an attempt as in `attempts`; an event as
    {event_id, name, action, resource_name, uri, user_id, at, changes}, changes being uris.
    """
    if events and channels:
        raise click.UsageError("--channel is about attempts; events come before the channels.")
    configuration = load_configuration()
    lanes = [channel.name for channel in pick_lanes(configuration, channels)]

    async def work(queue: Queue) -> None:
        reads = (
            [partial(read_log, queue)]
            if events
            else [partial(read_lane, queue, lane) for lane in lanes]
        )
        async for body in follow(reads, since):
            item = event_item(body) if events else attempt_item(body)
            if item is None or (since is not None and item.at < since):
                continue
            if as_json:
                print_json(item.row, indent=None)
            else:
                click.echo(item.line)

    with_queue(configuration, work)


async def follow(reads: Sequence[Read], since: float | None) -> AsyncIterator[bytes]:
    """What is there from about ``since`` on, then what comes; never ends.

    Without ``since`` only what comes. Goes on when the queue was away meanwhile.
    """
    from kinto_dispatch.patience import Patience

    patience = Patience(asyncio.Event())
    start = position_before(time.time() if since is None else since)
    positions = [await _end(read, start) if since is None else start for read in reads]
    while True:
        idle = True
        for number, read in enumerate(reads):
            page = await patience.attempt(partial(read, positions[number]), "tail") or ()
            for positions[number], body in page:
                idle = False
                yield body
        if idle:
            await asyncio.sleep(POLL_SECONDS)


async def _end(read: Read, after: str) -> str:
    """The position of what is last now."""
    while page := await read(after):
        after = page[-1][0]
    return after


async def read_lane(queue: Queue, lane: str, after: str) -> Sequence[tuple[str, bytes]]:
    """A page of attempt records."""
    return await queue.attempts(lane, after, PAGE)


async def read_log(queue: Queue, after: str) -> Sequence[tuple[str, bytes]]:
    """A page of events."""
    return [(entry.id, entry.body) for entry in await queue.read_log(after, PAGE)]


def attempt_item(body: bytes) -> Item | None:
    """An attempt; ``None`` for what cannot be read."""
    record = decode_record(body)
    if record is None:
        return None
    row = as_row(record)
    replay = " replay" if record.replay else ""
    reason = f" {record.reason}" if record.reason else ""
    took = duration(record.duration_seconds)
    line = f"{row['at']} {record.channel} {record.outcome} attempt={record.attempt}{replay} {took}"
    return Item(record.at, row, printable(f"{line} {record.key}{reason}"))


def event_item(body: bytes) -> Item | None:
    """A captured event; ``None`` for what cannot be read."""
    from kinto_dispatch.event import CHANGED

    event = read_event(body)
    if event is None:
        return None
    row = event_row(event)
    said = "" if event.name == CHANGED else f" ({event.name})"
    more = f" +{len(event.changes) - 1}" if len(event.changes) > 1 else ""
    line = f"{row['at']} {event.action} {event.resource_name} {event.uri}{more}{said}"
    line = f"{line} {event.user_id or 'anonymous'} {event.id}"
    return Item(event.timestamp / 1000, row, printable(line))
