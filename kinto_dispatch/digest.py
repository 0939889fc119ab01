"""Several events in one delivery: which are collected, and what a channel gets of them. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import TypeVar

from msgspec.structs import replace

from kinto_dispatch.event import Event, Subscription


RECORD_SEPARATOR = b"\x1e"
"""What stands before each text of a JSON text sequence (RFC 7464), and in no JSON at all."""

MIXED_ACTION = "change"
MIXED_RESOURCE = "object"
MIXED_USER = "several"

T = TypeVar("T")


def read_events(body: bytes) -> Sequence[Event]:
    """The events in the body of a delivery, the oldest first: one, or those of a digest. Raises
    ``UndecodableEvent``."""
    if not body.startswith(RECORD_SEPARATOR):
        return [Event.decode(body)]
    return [Event.decode(text) for text in body.split(RECORD_SEPARATOR)[1:]]


def read_event(body: bytes, skipped: int = 0) -> Event:
    """The event that a channel gets for the body of a delivery. Raises ``UndecodableEvent``."""
    events = read_events(body)
    event = events[0] if len(events) == 1 else join(events)
    return replace(event, skipped=skipped) if skipped else event


def join(events: Sequence[Event]) -> Event:
    """One event with all changes of these, in order.

    What they have in common stays. Where they differ, ``action`` is ``change``,
    ``resource_name`` ``object``, ``user_id`` ``several``, ``uri`` what the uris have in common,
    ``payload`` empty, and everything else ``None``; the rest is the last event's.
    """
    last = events[-1]
    return replace(
        last,
        action=_common((one.action for one in events), MIXED_ACTION),
        resource_name=_common((one.resource_name for one in events), MIXED_RESOURCE),
        uri=_common_uri([one.uri for one in events]),
        bucket_id=_common((one.bucket_id for one in events), None),
        collection_id=_common((one.collection_id for one in events), None),
        group_id=_common((one.group_id for one in events), None),
        user_id=_common((one.user_id for one in events), MIXED_USER),
        request_id=_common((one.request_id for one in events), None),
        payload=_common((one.payload for one in events), {}),
        changes=tuple(change for one in events for change in one.changes),
    )


def _common(values: Iterable[T], otherwise: T) -> T:
    first, *others = values
    return first if all(one == first for one in others) else otherwise


def _common_uri(uris: Sequence[str]) -> str:
    """The segments that all begin with; empty where there are none."""
    parts = [uri.split("/") for uri in uris]
    common = []
    for segments in zip(*parts, strict=False):
        if len(set(segments)) > 1:
            break
        common.append(segments[0])
    return "/".join(common)


def place_of(uri: str, by: str) -> str:
    """Where a change is collected: ``channel`` (all in one place), ``collection`` (those in one
    collection, or else in one bucket, in one place) or ``record`` (each object in its own)."""
    if by == "channel":
        return "channel"
    if by == "record":
        return uri
    parts = uri.split("/")
    is_collection = len(parts) > 4 and parts[3] == "collections"
    return "/".join(parts[: 5 if is_collection else 3])


def name_of(subscription: Subscription) -> str:
    """A short name for a hook in metadata, the same as long as the hook stays as it is: what
    several hooks ask for is never collected together."""
    bare = Event(
        id="",
        action="",
        resource_name="",
        uri="",
        bucket_id=None,
        collection_id=None,
        group_id=None,
        user_id=None,
        timestamp=0,
        root_url="",
        request_id=None,
        payload={},
        changes=(),
        subscriptions=(replace(subscription, changes=None, context={}),),
    )
    return hashlib.sha256(bare.encode()).hexdigest()[:16]
