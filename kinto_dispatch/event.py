"""What happened in one Kinto request to one kind of object under one parent: frozen values."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import msgspec

from kinto_dispatch.difference import lines
from kinto_dispatch.encoding import encode_json
from kinto_dispatch.errors import UndecodableEvent


LONGEST_REASON = 300

CHANGED = "kinto.core.events.ResourceChanged"
"""The name of what Kinto itself tells: that objects changed."""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One object's part of an event.

    ``old`` is ``None`` for a create, ``new`` is ``None`` for a delete. ``changed`` holds the
    top-level field names in alphabetical order: all of them on create and delete; on update those
    whose value differs, without ``last_modified``, so that a permission-only update has none.
    """

    uri: str
    object_id: str
    old: dict[str, Any] | None
    new: dict[str, Any] | None
    changed: tuple[str, ...]

    def diff(self) -> str:
        """A line for each changed field, as in ``~ title: "Hello" → "Bye"``: ``+`` added, ``-``
        removed, ``~`` changed. At most 50, each value cut to 100 characters; whatever the data,
        none looks like another line. Without ``id``, ``last_modified`` and ``deleted``."""
        return lines(self.old or {}, self.new or {}, self.changed)


class Subscription(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A hook that somebody wrote into the metadata of a bucket or collection, as it stood when the
    event was captured. See ``kinto_dispatch.subscriptions``.

    ``format`` is the key in the metadata, ``owner`` the uri of the bucket or collection, ``hook``
    what stands there. ``changes`` are the positions of the changes it is about, ``None`` for all;
    ``context`` is what only the request knows and the hook asks for.
    """

    format: str
    owner: str
    channel: str
    hook: dict[str, Any]
    changes: tuple[int, ...] | None = None
    context: dict[str, Any] = {}


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="v", tag=1, omit_defaults=True):
    """A frozen value, complete in itself: it can be read anywhere, long after the request.

    ``id`` is stable over every copy and attempt. ``action`` is ``create``, ``update`` or
    ``delete`` (``read`` where an alias asks for it). ``timestamp`` is Kinto's, in milliseconds.
    ``user_id`` is prefixed as Kinto does (``basicauth:...``), ``None`` for anonymous.
    ``payload`` is Kinto's own; its ``uri`` and ids are the first object's only (Kinto #945), so
    read them from ``changes``. Never change the dictionaries: all channels share them.
    ``subscriptions`` are for the core: of what a channel gets, the one that asked for it.
    ``name`` is the dotted name of a class where another plugin of Kinto told it, as in
    ``kinto_remote_settings.signer.events.ReviewRequested``; what that says more is in ``payload``.
    ``skipped`` counts older versions of the object that this one stands for, where a channel
    collapses them; they are not among the changes.
    """

    id: str
    action: str
    resource_name: str
    uri: str
    bucket_id: str | None
    collection_id: str | None
    group_id: str | None
    user_id: str | None
    timestamp: int
    root_url: str
    request_id: str | None
    payload: dict[str, Any]
    changes: tuple[Change, ...]
    subscriptions: tuple[Subscription, ...] = ()
    skipped: int = 0
    name: str = CHANGED

    def only(self, changes: Iterable[Change]) -> Event:
        """The same event with only these changes; itself if nothing is left out."""
        kept = tuple(changes)
        return self if kept == self.changes else msgspec.structs.replace(self, changes=kept)

    def encode(self) -> bytes:
        """The event on the wire: one JSON object, its version under ``v``."""
        return encode_json(self)

    @classmethod
    def decode(cls, body: bytes) -> Event:
        """The event in ``body``. Raises ``UndecodableEvent`` on anything else."""
        try:
            return _decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return _decode_with_stdlib(body, error)


def _decode_with_stdlib(body: bytes, error: Exception) -> Event:
    """The slow way in, for what ``encode_json`` wrote the slow way."""
    try:
        return msgspec.convert(json.loads(body), type=Event)
    except (ValueError, RecursionError, msgspec.ValidationError):
        # It names the place, which may be a thousand levels deep.
        raise UndecodableEvent(str(error)[:LONGEST_REASON], body) from error


_decoder = msgspec.json.Decoder(Event)
