"""Values for tests, sensible where the test does not care."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any

from kinto_dispatch.delivery import Delivery, delivery_key
from kinto_dispatch.event import Change, Event
from kinto_dispatch.memory import Memory
from kinto_dispatch.testing.notes import LocalNotes


if TYPE_CHECKING:
    from kinto_dispatch.plugins import Channel

USER = "basicauth:fea1e21d339299506d89e60f048cefd5b424ea641ba48267c35a4ce921439fa4"
COLLECTION = "/buckets/blog/collections/articles"
CREATED = 1453459942672

Options = Mapping[str, str]
NO_OPTIONS: Options = MappingProxyType({})


def make_change(**over: Any) -> Change:
    """A record that was created; every field can be given."""
    object_id = over.get("object_id", "first")
    new = over.get("new", {"id": object_id, "last_modified": CREATED, "title": "Hello"})
    fields: dict[str, Any] = {
        "uri": f"{COLLECTION}/records/{object_id}",
        "object_id": object_id,
        "old": None,
        "new": new,
        "changed": tuple(sorted(new or over.get("old") or {})),
    }
    return Change(**{**fields, **over})


def make_event(**over: Any) -> Event:
    """One record was created; every field can be given. The payload follows the other fields."""
    fields: dict[str, Any] = {
        "id": str(uuid.uuid4()),
        "action": "create",
        "resource_name": "record",
        "uri": f"{COLLECTION}/records/first",
        "bucket_id": "blog",
        "collection_id": "articles",
        "group_id": None,
        "user_id": USER,
        "timestamp": CREATED,
        "root_url": "http://localhost:8888/v1/",
        "request_id": None,
        "changes": (make_change(),),
    }
    fields |= over
    fields.setdefault("payload", _payload(fields))
    return Event(**fields)


def make_delivery(**over: Any) -> Delivery:
    """The first attempt of a delivery of its own; every field can be given."""
    fields: dict[str, Any] = {
        "key": delivery_key(str(uuid.uuid4()), "test"),
        "attempt": 1,
        "replay": False,
        "timeout_seconds": 5.0,
    }
    return Delivery(**{**fields, **over})


def make_channel(
    plugin: type | ModuleType | str, options: Options = NO_OPTIONS, **channel_settings: Any
) -> Channel:
    """A channel of this plugin, read from text as an operator types it.

    ``plugin`` is a channel class, a module with hooks, or what stands in the ini. ``options`` are
    the plugin's own settings; ``channel_settings`` those that every channel has, and ``name``.
    What it remembers it recalls in this process; another channel knows nothing of it.
    Raises ``BadSettings`` as Kinto's start does.
    """
    from kinto_dispatch.plugins import configure

    name = channel_settings.pop("name", "test")
    dispatch = "kinto.event_listeners.dispatch."
    channel = f"{dispatch}channels.{name}."
    settings = {
        "kinto.event_listeners": "dispatch",
        f"{dispatch}use": "kinto_dispatch",
        f"{dispatch}channels": name,
        f"{channel}plugin": _spelling(plugin),
        **{f"{channel}{key}": str(value) for key, value in channel_settings.items()},
        **{f"{channel}{key}": value for key, value in options.items()},
    }
    made = configure(settings, {}).channels[0]
    made.memory = Memory(name, LocalNotes())
    return made


def _spelling(plugin: type | ModuleType | str) -> str:
    match plugin:
        case str():
            return plugin
        case ModuleType():
            return plugin.__name__
        case _:
            return f"{plugin.__module__}:{plugin.__qualname__}"


def _payload(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What Kinto says about the same thing: the ids that the object has, and nothing empty."""
    payload = {
        "timestamp": fields["timestamp"],
        "action": fields["action"],
        "uri": fields["uri"],
        "user_id": fields["user_id"],
        "resource_name": fields["resource_name"],
    }
    for key in ("bucket_id", "collection_id", "group_id"):
        if fields[key] is not None:
            payload[key] = fields[key]
    if fields["changes"]:
        payload[f"{fields['resource_name']}_id"] = fields["changes"][0].object_id
    return payload
