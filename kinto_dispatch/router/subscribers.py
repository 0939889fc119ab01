"""What a channel gets because of hooks in metadata."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from kinto_dispatch.budget import TEXT_PER_STEP, Budget
from kinto_dispatch.delivery import delivery_key
from kinto_dispatch.digest import name_of
from kinto_dispatch.errors import BadHook, OutOfBudget, RouteError
from kinto_dispatch.event import Change, Event, Subscription
from kinto_dispatch.plugins import Channel
from kinto_dispatch.queue.values import DeadEntry, Entry
from kinto_dispatch.router.entries import entries_of
from kinto_dispatch.settings import DigestBy
from kinto_dispatch.subscriptions import Compiled, compile_hook


STEPS = 300_000
STEPS_OF_CHANGE = 10_000
MOST_STEPS = 50_000_000
"""What all hooks of one bucket or collection may cost for an event, for each of its changes on
top, and at most. Twenty hooks with a condition of a line each take some 5,000 for a change, half
of it for what they make of it. At worst it is 15 s and 800 MB."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What one hook asks of a channel: ``changes``, or an ``error`` if it could not be judged.
    ``number`` is its position in the event. ``splits`` and ``by`` say how they are delivered, and
    ``account`` has what all hooks of its owner may still cost."""

    number: int
    subscription: Subscription
    account: Budget
    changes: Sequence[Change] = ()
    splits: bool = False
    by: DigestBy | None = None
    error: str | None = None


def wishes(channel: Channel, event: Event) -> Iterator[Wish]:
    """What each hook that names this channel asks for, of what the channel's route lets it have.
    Never raises."""
    accounts: dict[str, Budget] = {}
    for number, subscription in enumerate(event.subscriptions):
        if subscription.channel != channel.name:
            continue
        steps = min(STEPS + STEPS_OF_CHANGE * len(event.changes), MOST_STEPS)
        account = accounts.setdefault(subscription.owner, Budget(steps))
        try:
            hook = compile_hook(subscription.format, subscription.hook)
            changes = _wanted(channel, event, subscription, hook, account)
            splits, by = hook.splits or channel.config.split_changes, _collects_by(channel, hook)
            yield Wish(number, subscription, account, changes, splits, by)
        except OutOfBudget:
            yield Wish(
                number, subscription, account, error=_too_costly(event, subscription, account)
            )
        except (BadHook, RouteError) as error:
            reason = f"a hook of {subscription.owner}: {error}"
            yield Wish(number, subscription, account, error=reason)


def subscribed(channel: Channel, event: Event) -> tuple[Sequence[Entry], Sequence[DeadEntry]]:
    """The deliveries that hooks ask for, and those hooks that could not be judged: one that is
    broken holds up no other."""
    entries: list[Entry] = []
    dead: list[DeadEntry] = []
    for wish in wishes(channel, event):
        key = f"{delivery_key(event.id, channel.name)}:hook-{wish.number}"
        alone = replace(event, subscriptions=(replace(wish.subscription, changes=None),))
        error = wish.error
        if error is None:
            try:
                entries += _paid(wish, alone, key)
            except OutOfBudget:
                error = _too_costly(event, wish.subscription, wish.account)
        if error is not None:
            dead.append(DeadEntry(key, alone.encode(), "failed", error))
    return entries, dead


def _paid(wish: Wish, event: Event, key: str) -> Sequence[Entry]:
    """The deliveries, which cost what they weigh. Raises ``OutOfBudget``."""
    hook = f"{name_of(wish.subscription)} " if wish.by else ""
    entries = []
    for entry in entries_of(event, wish.changes, key, by=wish.by, splits=wish.splits, hook=hook):
        wish.account.spend(len(entry.body) // TEXT_PER_STEP)
        entries.append(entry)
    return entries


def _too_costly(event: Event, subscription: Subscription, account: Budget) -> str:
    return (
        f"the hooks of {subscription.owner} cost more than {account.steps:,} steps for the "
        f"{len(event.changes):,} changes of this event, and this one was still to come. Make "
        "their when, uris and patterns simpler and their templates shorter, or write fewer "
        "objects in one request"
    )


def _collects_by(channel: Channel, hook: Compiled) -> DigestBy | None:
    """Where a hook says each object by itself, only the versions of one can be collected."""
    has_one_change = channel.config.collapse == "latest"
    return channel.config.collects_by if has_one_change or not hook.splits else None


def _wanted(
    channel: Channel, event: Event, subscription: Subscription, hook: Compiled, account: Budget
) -> Sequence[Change]:
    if subscription.changes is not None:
        event = event.only(event.changes[number] for number in subscription.changes)
    allowed = event.only(channel.route.select(event))
    return hook.select(allowed, account) if allowed.changes else ()
