"""Kinto's events become frozen events. The only place that knows ``kinto.core.events``.

Kinto hands the same dictionaries to every subscriber, so an event is serialised at once: what
others do to them later reaches nobody.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from msgspec.structs import replace

from kinto_dispatch.capture.hooks import Hooks
from kinto_dispatch.capture.named import find_classes
from kinto_dispatch.capture.request import note_request, root_request, void_collected
from kinto_dispatch.capture.source import Source
from kinto_dispatch.event import CHANGED, Change, Event


__all__ = [
    "Captured",
    "Hooks",
    "capture",
    "find_classes",
    "note_request",
    "root_request",
    "void_collected",
]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Captured:
    """An event on the wire, frozen when it was captured."""

    id: str
    body: bytes

    @cached_property
    def event(self) -> Event:
        """The event, decoded when first asked for. Shares nothing with Kinto's dictionaries."""
        return Event.decode(self.body)


def capture(kinto_event: Any, hooks: Hooks | None = None, name: str = CHANGED) -> Captured | None:
    """The event that stands for a ``ResourceChanged`` or ``ResourceRead``, or under its ``name``
    for one of another plugin that has the same attributes, with an id of its own.

    ``None`` if nothing is left of it: no object, or only rolled back ones. Never fails because of
    what a client wrote: where an object cannot be encoded, its change has neither ``old`` nor
    ``new``, and an error is logged. Reads the storage only where Kinto left a part of the new
    object out, and for ``hooks`` in metadata, then inside the running transaction.
    """
    source = Source(kinto_event)
    changes = tuple(source.changes())
    if not changes:
        return None
    event = source.event(changes, name)
    if hooks is not None and event.action != "read":
        event = replace(event, subscriptions=hooks.about(kinto_event.request, changes))
    return Captured(event.id, _encode(event))


def _encode(event: Event) -> bytes:
    """The event on the wire; without what JSON, or the stack, cannot hold."""
    try:
        return event.encode()
    except Exception as error:  # whatever a client can write must not refuse the write
        reason = f"{type(error).__name__}: {error}"
    bare = replace(event, payload={}, changes=())
    changes = tuple(
        change
        if _is_encodable(replace(bare, changes=(change,)))
        else replace(change, old=None, new=None)
        for change in event.changes
    )
    payload = event.payload if _is_encodable(replace(event, changes=())) else {}
    _log_incomplete(event, changes, reason)
    return replace(event, payload=payload, changes=changes).encode()


def _is_encodable(event: Event) -> bool:
    try:
        event.encode()
    except Exception:  # as in _encode
        return False
    return True


def _log_incomplete(event: Event, changes: Sequence[Change], reason: str) -> None:
    pairs = zip(event.changes, changes, strict=True)
    uris = [after.uri for before, after in pairs if after is not before]
    logger.error(
        "Event %s goes on without the contents of %s, which cannot be encoded: %s",
        event.id,
        ", ".join(uris) or "its payload",
        reason,
        extra={"event_id": event.id},
    )
