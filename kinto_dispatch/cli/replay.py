"""``kinto-dispatch replay``: events of the past, once more."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import rich_click as click

from kinto_dispatch.cli.common import confirm, load_configuration, pick_lanes, with_queue
from kinto_dispatch.cli.options import (
    all_option,
    channels_option,
    dry_run_option,
    event_option,
    ini_option,
    json_option,
    require_choice,
    since_option,
    until_option,
    yes_option,
)
from kinto_dispatch.cli.pages import log_entries, read_event
from kinto_dispatch.cli.printing import emit, note, nothing_matched, progress
from kinto_dispatch.errors import RouteError


if TYPE_CHECKING:
    from kinto_dispatch.event import Event
    from kinto_dispatch.plugins import Channel
    from kinto_dispatch.queue.protocol import Queue
    from kinto_dispatch.queue.values import Entry, LogEntry

BATCH = 100


@click.command()
@ini_option
@channels_option
@event_option
@since_option
@until_option
@all_option
@dry_run_option
@yes_option
@json_option
def command(
    channels: tuple[str, ...],
    event_id: str | None,
    since: float | None,
    until: float | None,
    everything: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Deliver events of the log again, to those channels whose route wants them.

    Also to a channel that was added later. The log reaches back log_retention_seconds; times are
    those of the changes. Event id and key stay the same, so that a receiver can recognise a
    repeat. Asks before. Exits 3 if nothing matched.
    """
    require_choice(channels, event_id, everything)
    configuration = load_configuration()
    lanes = pick_lanes(configuration, channels)
    cursors = with_queue(configuration, lambda queue: routed_up_to(queue, lanes))
    past = Past(lanes, cursors, event_id, since, until)
    counts = with_queue(configuration, past.count)
    matched, replayed = sum(counts.values()), 0
    if matched and not dry_run:
        listed = ", ".join(f"{name} ({count})" for name, count in counts.items())
        confirm(f"Deliver {matched} again, to {listed}?", yes)
        replayed = with_queue(configuration, lambda queue: past.send(queue, matched))
    result = {"matched": matched, "replayed": replayed, "dry_run": dry_run}
    emit(result, as_json, lambda: note(f"Matched {matched} deliveries, replayed {replayed}."))
    if not matched:
        nothing_matched("No event in the log matches that these channels want.")


async def routed_up_to(queue: Queue, channels: Sequence[Channel]) -> Mapping[str, str]:
    """How far each lane has been routed. What lies behind that reaches the lane anyway."""
    names = [channel.name for channel in channels]
    await queue.register(names)
    return await queue.cursors(names)


@dataclass(frozen=True, slots=True)
class Past:
    """The events of the log that are meant. ``None`` means any; times are those of the changes,
    in seconds since the epoch."""

    channels: Sequence[Channel]
    cursors: Mapping[str, str]
    event_id: str | None
    since: float | None
    until: float | None

    async def count(self, queue: Queue) -> Mapping[str, int]:
        """How many deliveries there are for each channel that wants any."""
        counts: Counter[str] = Counter()
        async for name, entries in self._deliveries(queue):
            counts[name] += len(entries)
        return counts

    async def send(self, queue: Queue, total: int) -> int:
        """Put the deliveries into their lanes, in the order of the log; how many."""
        sent = 0
        waiting: dict[str, list[Entry]] = {channel.name: [] for channel in self.channels}
        with progress("Replay", total) as advance:

            async def flush(name: str) -> None:
                await queue.enqueue(name, waiting[name])
                advance(len(waiting[name]))
                waiting[name].clear()

            async for name, entries in self._deliveries(queue):
                waiting[name] += entries
                sent += len(entries)
                if len(waiting[name]) >= BATCH:
                    await flush(name)
            for name in [name for name, entries in waiting.items() if entries]:
                await flush(name)
        return sent

    async def _deliveries(self, queue: Queue) -> AsyncIterator[tuple[str, Sequence[Entry]]]:
        async for entry in log_entries(queue, self.since):
            event = read_event(entry.body) if self._may_mean(entry) else None
            if event is None or not self._means(event):
                continue
            for channel in self.channels:
                if self._is_past(channel, entry) and (found := again(channel, event, entry.body)):
                    yield channel.name, found

    def _may_mean(self, entry: LogEntry) -> bool:
        """Looking for an id in the bytes is far quicker than decoding each event."""
        return self.event_id is None or self.event_id.encode() in entry.body

    def _means(self, event: Event) -> bool:
        at = event.timestamp / 1000
        return (
            (self.event_id is None or event.id == self.event_id)
            and (self.since is None or at >= self.since)
            and (self.until is None or at <= self.until)
        )

    def _is_past(self, channel: Channel, entry: LogEntry) -> bool:
        from kinto_dispatch.queue.entries import position

        return position(entry.id) <= position(self.cursors[channel.name])


def again(channel: Channel, event: Event, body: bytes) -> Sequence[Entry]:
    """What the channel's route wants of the event, under its usual keys, marked as a replay."""
    from kinto_dispatch.router import deliveries

    try:
        return [replace(entry, replay=True) for entry in deliveries(channel, event, body)]
    except RouteError as error:
        note(f"Left out event {event.id} for channel {channel.name!r}: {error}")
        return ()
