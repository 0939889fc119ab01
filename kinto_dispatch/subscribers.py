"""What a channel gets because of hooks in metadata."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from kinto_dispatch.delivery import delivery_key
from kinto_dispatch.digest import name_of
from kinto_dispatch.entries import entries_of
from kinto_dispatch.errors import BadHook, RouteError
from kinto_dispatch.event import Change, Event, Subscription
from kinto_dispatch.plugins import Channel
from kinto_dispatch.queue.values import DeadEntry, Entry
from kinto_dispatch.settings import DigestBy
from kinto_dispatch.subscriptions import Compiled, compile_hook


@dataclass(frozen=True, slots=True)
class Wish:
    """What one hook asks of a channel: ``changes``, or an ``error`` if it could not be judged.
    ``number`` is its position in the event. ``splits`` and ``by`` say how they are delivered."""

    number: int
    subscription: Subscription
    changes: Sequence[Change] = ()
    splits: bool = False
    by: DigestBy | None = None
    error: str | None = None


def wishes(channel: Channel, event: Event) -> Iterator[Wish]:
    """What each hook that names this channel asks for, of what the channel's route lets it have.
    Never raises."""
    for number, subscription in enumerate(event.subscriptions):
        if subscription.channel != channel.name:
            continue
        try:
            hook = compile_hook(subscription.format, subscription.hook)
            changes = _wanted(channel, event, subscription, hook)
            splits = hook.splits or channel.config.split_changes
            yield Wish(number, subscription, changes, splits, _collects_by(channel, hook))
        except (BadHook, RouteError) as error:
            reason = f"a hook of {subscription.owner}: {error}"
            yield Wish(number, subscription, error=reason)


def subscribed(channel: Channel, event: Event) -> tuple[Sequence[Entry], Sequence[DeadEntry]]:
    """The deliveries that hooks ask for, and those hooks that could not be judged: one that is
    broken holds up no other."""
    entries: list[Entry] = []
    dead: list[DeadEntry] = []
    for wish in wishes(channel, event):
        key = f"{delivery_key(event.id, channel.name)}:hook-{wish.number}"
        alone = replace(event, subscriptions=(replace(wish.subscription, changes=None),))
        if wish.error is not None:
            dead.append(DeadEntry(key, alone.encode(), "failed", wish.error))
        else:
            hook = f"{name_of(wish.subscription)} " if wish.by else ""
            entries += entries_of(
                alone, wish.changes, key, by=wish.by, splits=wish.splits, hook=hook
            )
    return entries, dead


def _collects_by(channel: Channel, hook: Compiled) -> DigestBy | None:
    """Where a hook says each object by itself, only the versions of one can be collected."""
    has_one_change = channel.config.collapse == "latest"
    return channel.config.collects_by if has_one_change or not hook.splits else None


def _wanted(
    channel: Channel, event: Event, subscription: Subscription, hook: Compiled
) -> Sequence[Change]:
    if subscription.changes is not None:
        event = event.only(event.changes[number] for number in subscription.changes)
    allowed = event.only(channel.route.select(event))
    return hook.select(allowed) if allowed.changes else ()
