"""An event as the body of a request. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import quote

from kinto_dispatch import Change, Event, encode_json


Payload = Literal["thin", "full"]
Format = Literal["cloudevents", "plain"]

CONTENT_TYPES: dict[Format, str] = {
    "cloudevents": "application/cloudevents+json",
    "plain": "application/json",
}

NAMESPACE = "org.kinto-storage"
"""Whose types of events these are: Kinto's domain, backwards, as CloudEvents wants it."""

KINTOS = "kinto.core."
"""What the names of Kinto's own events begin with. Others come from plugins of Kinto."""


def body(event: Event, key: str, payload: Payload, format: Format) -> bytes:
    """JSON, the same for every attempt. Raises ``RecursionError`` for data that are nested too
    deeply, which a thin payload has not."""
    data = thin(event) if payload == "thin" else full(event)
    wrap = _cloudevent if format == "cloudevents" else _plain
    message = {name: value for name, value in wrap(event, key).items() if value is not None}
    return encode_json({**message, "data": data})


def _cloudevent(event: Event, key: str) -> dict[str, str | None]:
    return {
        "specversion": "1.0",
        "id": key,
        "source": quote(event.root_url, safe="/:?&=[]@", errors="replace") or "/",
        "type": _type(event, f"{NAMESPACE}."),
        "subject": event.uri or None,
        "time": _time(event.timestamp),
        "datacontenttype": "application/json",
    }


def _plain(event: Event, key: str) -> dict[str, str | None]:
    """What Standard Webhooks suggests."""
    return {"id": key, "type": _type(event), "timestamp": _time(event.timestamp)}


def _type(event: Event, prefix: str = "") -> str:
    """Kinto's own by what changed, others by their names."""
    is_change = event.name.startswith(KINTOS)
    return f"{prefix}{event.resource_name}.{event.action}" if is_change else event.name


def thin(event: Event) -> dict[str, Any]:
    """What happened to which objects. What they hold, the receiver asks Kinto for, which decides
    what it may read."""
    return _data(event, [_ids(change) for change in event.changes])


def full(event: Event) -> dict[str, Any]:
    """Everything, whoever may read it."""
    more: dict[str, Any] = {
        "user_id": event.user_id,
        "request_id": event.request_id,
        "root_url": event.root_url,
    }
    if not event.name.startswith(KINTOS):
        more["payload"] = event.payload
    changes = [
        {**_ids(one), "old": one.old, "new": one.new, "changed": one.changed}
        for one in event.changes
    ]
    return {**_data(event, changes), **more}


def _data(event: Event, changes: list[dict[str, Any]]) -> dict[str, Any]:
    skipped = {"skipped": event.skipped} if event.skipped else {}
    return {
        "event_id": event.id,
        "action": event.action,
        "resource_name": event.resource_name,
        "uri": event.uri,
        "bucket_id": event.bucket_id,
        "collection_id": event.collection_id,
        "group_id": event.group_id,
        "timestamp": event.timestamp,
        **skipped,
        "changes": changes,
    }


def _ids(change: Change) -> dict[str, Any]:
    return {"uri": change.uri, "object_id": change.object_id}


def _time(milliseconds: int) -> str | None:
    """As RFC 3339 wants it; ``None`` for what no calendar has."""
    try:
        moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
