"""What kinto-emailer and kinto-slack compare and print: the words that their hooks know."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kinto_dispatch.budget import Budget
from kinto_dispatch.event import CHANGED, Change, Event, Subscription
from kinto_dispatch.subscriptions import patterns


AFTER_CHANGED = "kinto.core.events.AfterResourceChanged"
"""What the documentation of kinto-emailer shows. What is told here has happened, so it fits where
``CHANGED`` does."""

RESOURCES = ("record", "collection")

CONTEXT = ("event", "action", "resource_name", "id", "record_id", "collection_id")
"""What a hook may compare."""

OF_REQUEST = ("client_address", "user_agent", "settings")
"""What only the request knows: kept with the event for the hooks that print it."""

KNOWN = frozenset(
    {
        *CONTEXT,
        *OF_REQUEST,
        "bucket_id",
        "user_id",
        "uri",
        "timestamp",
        "root_url",
        "impacted_objects",
        # Of the events of a review.
        "comment",
        "changes_count",
        "changes_size_bytes",
    }
)
"""What a template may print."""

SETTINGS = ("project_name", "project_version")
"""Of Kinto's settings, and no others: they hold secrets."""


@dataclass(frozen=True, slots=True)
class LegacyFilter:
    """All conditions must hold; a condition on what an object does not have never does."""

    conditions: Mapping[str, str]

    def select(self, event: Event, account: Budget) -> tuple[Change, ...]:
        """The changes of records and collections that fit. Raises ``BadPattern``, and
        ``OutOfBudget`` when that costs more than there is in the ``account``."""
        if event.resource_name not in RESOURCES:
            return ()
        return tuple(change for change in event.changes if self._fits(event, change, account))

    def _fits(self, event: Event, change: Change, account: Budget) -> bool:
        return all(
            any(
                patterns.matches(pattern, value, account) for value in _values(name, event, change)
            )
            for name, pattern in self.conditions.items()
        )


def _values(name: str, event: Event, change: Change) -> tuple[str, ...]:
    if name == "event":
        return names_for(event.name)
    value = _compared(event, change).get(name)
    return () if value is None else (value,)


def names_for(name: str) -> tuple[str, ...]:
    """What hooks may call an event of that name."""
    return (name, AFTER_CHANGED) if name == CHANGED else (name,)


def is_heard(condition: str, names: Iterable[str]) -> bool:
    """Whether one of these events can meet the condition, as far as that can be decided."""
    try:
        return any(patterns.matches(condition, one) for name in names for one in names_for(name))
    except patterns.BadPattern:
        return True


def _compared(event: Event, change: Change) -> dict[str, str | None]:
    is_record = event.resource_name == "record"
    return {
        "action": event.action,
        "resource_name": event.resource_name,
        "id": change.object_id,
        "record_id": change.object_id if is_record else None,
        "collection_id": event.collection_id if is_record else change.object_id,
    }


def context_of(event: Event, change: Change, subscription: Subscription) -> dict[str, Any]:
    """What templates are filled with, for one object."""
    return {
        **event.payload,
        **_compared(event, change),
        "event": event.name,
        "bucket_id": change.uri.split("/")[2] if change.uri.count("/") > 1 else event.bucket_id,
        "user_id": event.user_id,
        "uri": change.uri,
        "timestamp": event.timestamp,
        "root_url": event.root_url,
        "impacted_objects": [{"old": change.old, "new": change.new}],
        **subscription.context,
    }
