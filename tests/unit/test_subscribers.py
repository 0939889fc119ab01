"""What hooks in metadata may cost, all those of one owner together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from kinto_dispatch import hookimpl
from kinto_dispatch.event import Event, Subscription
from kinto_dispatch.plugins import Channel
from kinto_dispatch.router.subscribers import STEPS, STEPS_OF_CHANGE, subscribed
from kinto_dispatch.testing import make_change, make_channel, make_event


OWNER, NEIGHBOUR = "/buckets/b/collections/c", "/buckets/b/collections/other"
ORDINARY = {"channel": "test", "when": "old.status != 'done' && new.status == 'done'"}
COSTLY = {"channel": "test", "when": "length(new.list[?to_string(@) == 'x']) == `0`"}
"""Some 25,000 steps for each change, a quarter of what one evaluation may cost."""

PATTERN = {"template": "{record_id}", "channel": "test", "record_id": "^(?:a|aa)+(?:b|bb)+c$"}
LARGE = {"template": "x" * 9_000, "channel": "test"}

Bounded = Callable[..., Any]


class Noop:
    """A channel that does nothing."""

    @hookimpl
    async def on_event_async(self, event: Event) -> None:
        """Do nothing."""


@pytest.fixture
def channel() -> Channel:
    """One that is open for hooks."""
    return make_channel(Noop, subscribable="true")


def event_of(count: int, hooks: Sequence[tuple[str, str, dict[str, Any]]]) -> Event:
    """So many changes, and hooks: format, owner, hook."""
    changes = tuple(
        make_change(
            object_id=f"{'a' * 30}{number}",
            old={"status": "draft"},
            new={"status": "done", "list": list(range(400))},
        )
        for number in range(count)
    )
    subscriptions = tuple(
        Subscription(format=format, owner=owner, channel="test", hook=hook)
        for format, owner, hook in hooks
    )
    return make_event(changes=changes, subscriptions=subscriptions)


def ours(hook: dict[str, Any], count: int, owner: str = OWNER) -> list[tuple[str, str, Any]]:
    return [("kinto-dispatch", owner, hook)] * count


def test_twenty_ordinary_hooks_fit_whatever_the_size(channel: Channel) -> None:
    """Also on an import of thousands."""
    entries, dead = subscribed(channel, event_of(2_000, ours(ORDINARY, 20)))
    assert (len(entries), dead) == (20, [])


def test_costly_hooks_of_one_owner_cost_nobody_else(channel: Channel, bounded: Bounded) -> None:
    """They end when their budget does, and each that was not judged is a dead letter that says
    why; those of others are judged."""
    hooks = [*ours(COSTLY, 20), *ours(ORDINARY, 1, NEIGHBOUR)]
    event = event_of(200, hooks)
    entries, dead = bounded(lambda: subscribed(channel, event), seconds=30, megabytes=100)
    assert len(entries) + len(dead) == 21
    assert len(entries) <= 3
    assert entries[-1].key.endswith("hook-20")
    assert {letter.kind for letter in dead} == {"failed"}
    allowed = STEPS + 200 * STEPS_OF_CHANGE
    expected = f"the hooks of {OWNER} cost more than {allowed:,} steps for the 200 changes"
    assert all(expected in letter.reason for letter in dead)
    assert all("simpler" in letter.reason for letter in dead)


def test_slow_patterns_are_paid_in_time(channel: Channel, bounded: Bounded) -> None:
    """What each of them takes is below its own bound, and all of them together are not."""
    event = event_of(500, [("kinto-slack", OWNER, PATTERN)] * 20)
    _, dead = bounded(lambda: subscribed(channel, event), seconds=30, megabytes=100)
    assert dead


def test_what_hooks_make_is_paid_by_its_size(channel: Channel, bounded: Bounded) -> None:
    """A message for each object, with a long template in each, twenty times over."""
    event = event_of(1_000, [("kinto-slack", OWNER, LARGE)] * 20)
    entries, dead = bounded(lambda: subscribed(channel, event), seconds=60, megabytes=400)
    assert len(entries) % 1_000 == 0
    assert dead
    size = sum(len(entry.body) for entry in entries)
    assert size <= 16 * (STEPS + 1_000 * STEPS_OF_CHANGE)


def test_the_same_event_is_judged_the_same_way(channel: Channel) -> None:
    """Counted are steps, so a second router comes to the same entries."""
    event = event_of(100, ours(COSTLY, 20))
    first, second = (subscribed(channel, event) for _ in range(2))
    assert first == second
