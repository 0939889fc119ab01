"""Reads one of Kinto's resource events: which objects, where they are, what changed of each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import cached_property, lru_cache
from typing import Any
from urllib.parse import quote

from kinto.core.storage.exceptions import ObjectNotFoundError
from kinto.core.utils import strip_uri_prefix
from pyramid.interfaces import IRoutesMapper

from kinto_dispatch.capture.request import request_id, root_request, void_ids
from kinto_dispatch.event import CHANGED, Change, Event


SECRET_FIELDS = {"account": frozenset({"password"})}
"""Fields that never leave Kinto. Its account events carry the hash of the password."""

ANY_ID = "0kinto-dispatch0any0id0"
PATH_SEGMENT_SAFE = "~!$&'()*+,;=:@"
"""What Pyramid leaves unquoted in a segment of a path."""

PATHS = 1024
"""How many are remembered. Without that, making two of them is a third of what a capture takes."""


class Source:
    """One of Kinto's events, without what of it was rolled back."""

    def __init__(self, kinto_event: Any) -> None:
        self._request = kinto_event.request
        self._payload: dict[str, Any] = kinto_event.payload
        self._action: str = self._payload["action"]
        self._resource: str = self._payload["resource_name"]
        self._own_id = f"{self._resource}_id"
        reads = self._action == "read"
        impacted = kinto_event.read_objects if reads else kinto_event.impacted_objects
        void = void_ids(self._request)
        self._impacted = [item for item in impacted if id(item) not in void]
        self._lost_some = len(self._impacted) < len(impacted)
        self._pattern = self._uri_pattern()

    def event(self, changes: tuple[Change, ...], name: str = CHANGED) -> Event:
        """The whole event of that name around these changes.

        ``uri`` is the object's own, or the plural one above several. The id of the event's own
        kind (``bucket_id`` of a bucket) is given where there is one object only.
        """
        only = changes[0].object_id if len(changes) == 1 else None
        uri = changes[0].uri if only is not None else self._pattern.partition(f"/{ANY_ID}")[0]
        payload = self._payload
        if self._lost_some:
            payload = self._without_lost(uri, only)
        ids = {**payload, self._own_id: only}
        root = root_request(self._request)
        timestamp = payload.get("timestamp")
        return Event(
            id=os.urandom(16).hex(),
            action=self._action,
            resource_name=self._resource,
            uri=uri,
            bucket_id=_text(ids.get("bucket_id")),
            collection_id=_text(ids.get("collection_id")),
            group_id=_text(ids.get("group_id")),
            user_id=_text(payload.get("user_id")),
            timestamp=timestamp if isinstance(timestamp, int) else 0,
            root_url=root.application_url + _path(_route(root, "hello")),
            request_id=request_id(root),
            payload=payload,
            changes=changes,
            name=name,
        )

    def changes(self) -> Iterable[Change]:
        """What happened to each object, in Kinto's order, without what was rolled back."""
        make = {"read": self._read, "create": self._create, "delete": self._delete}
        return map(make.get(self._action, self._update), self._impacted)

    # --- one object ----------------------------------------------------------------------

    def _read(self, found: dict[str, Any]) -> Change:
        return self._change(found.get("id"), found, found, ())

    def _create(self, impacted: dict[str, Any]) -> Change:
        new = impacted["new"]
        return self._change(new.get("id"), None, new, new)

    def _update(self, impacted: dict[str, Any]) -> Change:
        new, old = impacted["new"], impacted.get("old")
        object_id = (old or new).get("id")
        if old is None:
            return self._change(object_id, None, new, new)
        if "id" not in new:
            new = self._next_olds.get(id(impacted)) or self._complete(new, old)
        names = (name for name in old.keys() | new.keys() if name != "last_modified")
        return self._change(object_id, old, new, filter(_differs(old, new), names))

    def _delete(self, impacted: dict[str, Any]) -> Change:
        tombstone = impacted.get("new") or {}
        old = impacted.get("old") or {}
        object_id = tombstone.get("id", old.get("id"))
        if old.get("id") != object_id:
            # Kinto reads and deletes many objects in two statements and pairs the results by
            # position, so another client's write in between shifts them.
            old = self._olds.get(object_id, {"id": object_id})
        return self._change(object_id, old, None, old)

    @cached_property
    def _olds(self) -> dict[Any, dict[str, Any]]:
        olds = (impacted.get("old") or {} for impacted in self._impacted)
        return {old.get("id"): old for old in olds}

    @cached_property
    def _next_olds(self) -> dict[int, dict[str, Any]]:
        """What an object was when it was changed again within the event, by the identity of the
        change before: the storage knows the last state only."""
        found: dict[int, dict[str, Any]] = {}
        later: dict[Any, dict[str, Any]] = {}
        for impacted in reversed(self._impacted):
            old = impacted.get("old")
            if old:
                found[id(impacted)] = later.get(old.get("id"), {})
                later[old.get("id")] = old
        return found

    def _change(
        self,
        object_id: str | None,
        old: dict[str, Any] | None,
        new: dict[str, Any] | None,
        changed: Iterable[str],
    ) -> Change:
        object_id = str(object_id or self._payload.get(self._own_id) or "")
        return Change(
            uri=self._pattern.replace(ANY_ID, _quoted(object_id)),
            object_id=object_id,
            old=self._public(old),
            new=self._public(new),
            changed=tuple(sorted(map(str, changed))),
        )

    def _public(self, value: dict[str, Any] | None) -> dict[str, Any] | None:
        secret = SECRET_FIELDS.get(self._resource)
        if value is None or secret is None:
            return value
        return {name: inner for name, inner in value.items() if name not in secret}

    def _complete(self, new: dict[str, Any], old: dict[str, Any]) -> dict[str, Any]:
        """The new object as it is stored: ``Response-Behavior`` took fields out of Kinto's."""
        storage = self._request.registry.storage
        try:
            stored: dict[str, Any] = storage.get(
                resource_name=self._resource,
                parent_id=self._parent_id(old["id"]),
                object_id=old["id"],
            )
        except ObjectNotFoundError:
            # Deleted later in the same batch.
            return {**old, **new}
        return stored

    def _parent_id(self, object_id: str) -> str:
        if self._resource == "account":
            return object_id
        plural = self._pattern.partition(f"/{ANY_ID}")[0]
        return plural.rpartition("/")[0]

    # --- around the objects --------------------------------------------------------------

    def _uri_pattern(self) -> str:
        """The uri of this kind of object under this parent, with ``ANY_ID`` for the id.

        Not taken from the payload, whose uri is that of the first object, or the plural one.
        """
        # Neither who wrote nor what: there are many more of them than of parents.
        others = ("user_id", self._own_id)
        parents = tuple(
            (name, str(value))
            for name, value in self._payload.items()
            if name.endswith("_id") and name not in others
        )
        try:
            return _uri(_route(self._request, f"{self._resource}-object"), parents)
        except KeyError:
            # A plugin's own kind of object, without an address of its own in the API.
            uri = str(self._payload.get("uri", ""))
            own_id = self._payload.get(self._own_id)
            return f"{uri.removesuffix(f'/{own_id}')}/{ANY_ID}"

    def _without_lost(self, uri: str, only: str | None) -> dict[str, Any]:
        """Kinto's payload, saying nothing of a first object that was rolled back."""
        payload = {name: value for name, value in self._payload.items() if name != self._own_id}
        if only is not None:
            payload[self._own_id] = only
        stamps = ((item.get("new") or {}).get("last_modified") for item in self._impacted)
        written = max((stamp for stamp in stamps if stamp), default=payload["timestamp"])
        return {**payload, "uri": uri, "timestamp": written}


def _text(value: Any) -> str | None:
    """Plugins of Kinto put what they like into a payload."""
    return None if value is None else str(value)


def _route(request: Any, name: str) -> Any:
    """The route of that name. Raises ``KeyError`` where there is none."""
    route = request.registry.getUtility(IRoutesMapper).get_route(name)
    if route is None:
        raise KeyError(name)
    return route


@lru_cache(PATHS)
def _path(route: Any) -> str:
    path: str = route.generate({})
    return path


@lru_cache(PATHS)
def _uri(route: Any, parents: tuple[tuple[str, str], ...]) -> str:
    """The uri of an object with ``ANY_ID``. Raises ``KeyError`` where its route wants more."""
    return str(strip_uri_prefix(route.generate({**dict(parents), "id": ANY_ID})))


def _quoted(object_id: str) -> str:
    return quote(object_id, safe=PATH_SEGMENT_SAFE, errors="replace")


def _differs(old: dict[str, Any], new: dict[str, Any]) -> Callable[[str], bool]:
    missing = object()

    def differs(name: str) -> bool:
        try:
            return not _same(old.get(name, missing), new.get(name, missing))
        except RecursionError:
            return True

    return differs


def _same(one: Any, other: Any) -> bool:
    """Whether two values are the same JSON. Python alone takes ``True`` for ``1``."""
    if one != other:
        return False
    if isinstance(one, dict):
        return all(_same(one[name], other[name]) for name in one)
    if isinstance(one, list):
        return all(map(_same, one, other))
    return isinstance(one, bool) is isinstance(other, bool)
