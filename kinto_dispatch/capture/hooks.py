"""Which hooks in metadata are about the objects of an event. Reads Kinto's storage."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kinto.core.storage.exceptions import ObjectNotFoundError

from kinto_dispatch.capture.request import root_request
from kinto_dispatch.errors import BadHook
from kinto_dispatch.event import Change, Subscription
from kinto_dispatch.subscriptions import MOST_HOOKS, OURS, Openings, compile_hook, hooks_of
from kinto_dispatch.subscriptions.legacy import OF_REQUEST, SETTINGS


logger = logging.getLogger(__name__)

METADATA = "kinto_dispatch.metadata"

MOST_WARNINGS = 1_000

Found = tuple[str, str, str, dict[str, Any]]
"""Format, owner, channel and text of a hook."""

Key = tuple[str | int, ...]


class Hooks:
    """Finds the hooks of what was written: those of its collection, and of its bucket for the
    formats that the collection has none of."""

    def __init__(self, openings: Openings) -> None:
        self._openings = openings
        self._warned: set[tuple[str, str]] = set()

    def about(self, request: Any, changes: Sequence[Change]) -> tuple[Subscription, ...]:
        """The hooks that may want some of these changes. Reads a bucket or collection once for a
        request, inside its transaction; Kinto itself has most collections at hand."""
        found: dict[Key, tuple[Found, list[int]]] = {}
        known: dict[str, Sequence[Found]] = {}
        for number, change in enumerate(changes):
            positions: Counter[tuple[str, str]] = Counter()
            for one in self._above(request, change, known):
                place = one[:2]
                key: Key = (*place, positions[place])
                positions[place] += 1
                if found.get(key, (one,))[0] != one:
                    # Written anew within the event: for this change another hook stands there.
                    key = (*key, number)
                found.setdefault(key, (one, []))[1].append(number)
        return tuple(
            self._subscription(request, one, numbers, len(changes))
            for one, numbers in found.values()
        )

    def _subscription(
        self, request: Any, found: Found, numbers: Sequence[int], count: int
    ) -> Subscription:
        format, owner, channel, hook = found
        return Subscription(
            format=format,
            owner=owner,
            channel=channel,
            hook=hook,
            changes=None if len(numbers) == count else tuple(numbers),
            context=_context(request, format, hook),
        )

    def _above(
        self, request: Any, change: Change, known: dict[str, Sequence[Found]]
    ) -> Sequence[Found]:
        """The hooks above an object. What stands in the object itself is told by the change."""
        owners = _owners(change.uri)
        if not owners:
            return ()
        if change.uri in owners:
            return list(self._of(request, owners, change))
        if owners[-1] not in known:
            known[owners[-1]] = list(self._of(request, owners, None))
        return known[owners[-1]]

    def _of(self, request: Any, owners: Sequence[str], change: Change | None) -> Iterable[Found]:
        seen: set[str] = set()
        # The collection's come first: they replace those of the bucket, format by format.
        for owner in reversed(owners):
            metadata = _told(change, owner) or _stored(request, owner)
            rest = {name: value for name, value in metadata.items() if name not in seen}
            for format, channel, hook in hooks_of(rest, self._openings):
                if channel is None:
                    self._warn(format, owner)
                else:
                    yield format, owner, channel, hook
            seen |= metadata.keys()

    def _warn(self, format: str, owner: str) -> None:
        """Once in each process. What is written is refused, so these stood there before."""
        if (format, owner) not in self._warned and len(self._warned) < MOST_WARNINGS:
            self._warned.add((format, owner))
            logger.warning(
                "hooks.untold owner=%s format=%s: some hooks are told to nobody, since they name "
                "no channel that is open, or stand behind %d others; write them anew",
                *(owner, format, MOST_HOOKS),
            )


def _told(change: Change | None, owner: str) -> Mapping[str, Any] | None:
    """The metadata that was written or deleted, where the change is about the owner itself."""
    if change is None or change.uri != owner:
        return None
    return change.new or change.old


def _owners(uri: str) -> Sequence[str]:
    """The uris of the bucket and of the collection that an object is or lies in."""
    parts = uri.split("/")
    if len(parts) < 3 or parts[1] != "buckets":
        return ()
    bucket = "/".join(parts[:3])
    is_collection = len(parts) > 4 and parts[3] == "collections"
    return (bucket, "/".join(parts[:5])) if is_collection else (bucket,)


def _stored(request: Any, uri: str) -> Mapping[str, Any]:
    """The bucket or collection as it stands in the transaction; nothing if it is gone."""
    bound = request.bound_data
    parts = uri.split("/")
    kind = parts[-2]
    at_hand: Mapping[str, Any] | None = bound.get(kind, {}).get(uri)
    if at_hand:  # the default bucket puts an empty one there, for a collection that exists
        return at_hand
    read: dict[str, Mapping[str, Any]] = bound.setdefault(METADATA, {})
    if uri not in read:
        parent = "/".join(parts[:-2])
        try:
            read[uri] = request.registry.storage.get(
                resource_name=kind.removesuffix("s"), parent_id=parent, object_id=parts[-1]
            )
        except ObjectNotFoundError:
            read[uri] = {}
    return read[uri]


def _context(request: Any, format: str, hook: Mapping[str, Any]) -> dict[str, Any]:
    """What only the request knows, as far as the hook asks for it, which ours cannot."""
    if format == OURS:
        return {}
    try:
        asked: Iterable[str] = getattr(compile_hook(format, hook), "asks_for", ())
    except BadHook:
        # Judged by the router, where it becomes a dead letter.
        return {}
    if not set(asked) & set(OF_REQUEST):
        return {}
    root = root_request(request)
    settings = {name: str(request.registry.settings.get(name, "")) for name in SETTINGS}
    whole = {
        "client_address": str(root.client_addr or ""),
        "user_agent": str(root.user_agent or ""),
        "settings": {**settings, "url": root.route_url("hello")},
    }
    return {name: value for name, value in whole.items() if name in asked}
