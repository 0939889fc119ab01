"""What a channel gets of what stands in the log: deliveries, and what could not be judged."""

from __future__ import annotations

import asyncio
import logging
import shlex
from collections.abc import Sequence

from msgspec.structs import replace

from kinto_dispatch.delivery import delivery_key
from kinto_dispatch.errors import DispatchError, RouteError, UndecodableEvent
from kinto_dispatch.event import Event
from kinto_dispatch.plugins import Channel
from kinto_dispatch.queue.values import DeadEntry, Entry
from kinto_dispatch.router.entries import entries_of
from kinto_dispatch.router.reading import Decoded, count_changes
from kinto_dispatch.router.subscribers import subscribed


logger = logging.getLogger(__name__)

QUICK_CHANGES = 2_000
"""What is judged on the event loop: some 40 ms. More is for a thread."""

MOST_DELIVERIES = 200_000
MOST_BYTES = 500_000_000
"""What one call may bring into a lane: a server refuses one of more than a million arguments, four
for each delivery, and hangs up at a gigabyte. Within that a batch enters whole or not at all."""


async def judge(
    channel: Channel, batch: Sequence[Decoded]
) -> tuple[Sequence[Entry], Sequence[DeadEntry]]:
    """As ``select``; in a thread where it would hold up the leases of everything else, as hooks
    may, whose authors are not trusted."""
    quick = sum(count_changes(event) for _, event in batch) <= QUICK_CHANGES
    if quick and not (channel.config.subscribable and any(map(_has_hooks, batch))):
        return select(channel, batch)
    return await asyncio.to_thread(select, channel, batch)


def select(
    channel: Channel, decoded: Sequence[Decoded]
) -> tuple[Sequence[Entry], Sequence[DeadEntry]]:
    """The deliveries that this channel's route wants, and those that could not be judged."""
    entries: list[Entry] = []
    dead: list[DeadEntry] = []
    for log_entry, event in decoded:
        if isinstance(event, UndecodableEvent):
            key = delivery_key(f"log-{log_entry.id}", channel.name)
            dead.append(DeadEntry(key, log_entry.body, "failed", str(event)))
            continue
        try:
            if channel.config.subscribable:
                asked_for, broken = subscribed(channel, event)
                entries += asked_for
                dead += broken
            else:
                entries += deliveries(channel, event, log_entry.body)
        except Exception as error:  # of our own, too: one event must not stop all others
            if not isinstance(error, RouteError):
                logger.exception("log.unroutable id=%s channel=%s", log_entry.id, channel.name)
            key = delivery_key(event.id, channel.name)
            dead.append(DeadEntry(key, log_entry.body, "failed", describe(error)))
    return entries, dead


def deliveries(channel: Channel, event: Event, body: bytes) -> Sequence[Entry]:
    """What the channel gets of an event: nothing, one delivery, or one for each change."""
    if channel.config.subscribable:
        return subscribed(channel, event)[0]
    if event.subscriptions:
        event = replace(event, subscriptions=())
        body = event.encode()
    config, key = channel.config, delivery_key(event.id, channel.name)
    wanted = channel.route.select(event)
    by, splits = config.collects_by, config.split_changes
    return list(entries_of(event, wanted, key, by=by, splits=splits, body=body))


def are_too_many(entries: Sequence[Entry], dead: Sequence[DeadEntry]) -> bool:
    """Whether no call can carry them."""
    size = sum(len(entry.body) for entry in entries) + sum(len(letter.body) for letter in dead)
    return len(entries) + len(dead) > MOST_DELIVERIES or size > MOST_BYTES


def too_many(channel: Channel, decoded: Decoded, count: int) -> DeadEntry:
    """What stands in for the deliveries of one event that no call can carry."""
    log_entry, event = decoded
    assert isinstance(event, Event)  # what cannot be read is one dead letter
    reason = (
        f"the event is {count:,} deliveries for this channel; at most {MOST_DELIVERIES:,} with "
        f"{MOST_BYTES:,} bytes are routed at once. For all of them, a thousand at a time: "
        f"kinto-dispatch replay --channel {channel.name} --event {shlex.quote(event.id)}. "
        "Then purge this one; replaying it makes one delivery with all changes of the event"
    )
    logger.error(
        "log.too_many_deliveries id=%s channel=%s: %s", log_entry.id, channel.name, reason
    )
    return DeadEntry(delivery_key(event.id, channel.name), log_entry.body, "failed", reason)


def _has_hooks(decoded: Decoded) -> bool:
    return isinstance(decoded[1], Event) and bool(decoded[1].subscriptions)


def describe(error: Exception) -> str:
    return str(error) if isinstance(error, DispatchError) else f"{type(error).__name__}: {error}"
