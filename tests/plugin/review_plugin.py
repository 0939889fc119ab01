"""A plugin of Kinto that tells of reviews the way the signer of remote-settings does.

A collection that is written with a ``status`` begins a review: its event is put by in
``request.bound_data``, and sent in a hook before the commit, after all of Kinto's own events.
Ours may have run by then: ``review_plugin.when = late`` adds the hook with the first review, where
the signer adds it when the request begins.
"""

from typing import Any

import transaction
from kinto.core.errors import http_error
from kinto.core.events import ACTIONS, AfterResourceChanged, ResourceChanged
from kinto.core.storage.exceptions import BackendError
from pyramid.events import NewRequest
from pyramid.httpexceptions import HTTPConflict


KEY = "review_plugin.events"


class BaseEvent:
    def __init__(self, request, payload, impacted_objects, resource, original_event):
        self.request = request
        self.payload = payload
        self.impacted_objects = impacted_objects
        self.resource = resource
        self.original_event = original_event


class ReviewRequested(BaseEvent):
    def __init__(self, changes_count, changes_size_bytes, comment, **kwargs):
        super().__init__(**kwargs)
        self.payload["comment"] = comment
        self.payload["changes_count"] = changes_count
        self.payload["changes_size_bytes"] = changes_size_bytes


class ReviewRejected(BaseEvent):
    def __init__(self, comment, **kwargs):
        super().__init__(**kwargs)
        self.payload["comment"] = comment


class Broken:
    """Looks like an event until somebody reads it."""

    def __init__(self, request, payload, impacted_objects):
        self.request = request
        self.payload = payload
        self.impacted_objects = impacted_objects


class StorageAway(Broken):
    """The storage fails while somebody reads it."""

    @property
    def payload(self):
        raise BackendError(original=RuntimeError("the storage is away"))

    @payload.setter
    def payload(self, value):
        pass


class Nothing:
    """What an event must have it lacks."""

    def __init__(self, request):
        self.request = request


Requested = ReviewRequested
MAKE: dict[str, Any] = {
    "to-review": lambda **about: ReviewRequested(
        changes_count=3,
        changes_size_bytes=12,
        comment=about["impacted_objects"][0]["new"].get("comment", ""),
        **about,
    ),
    "work-in-progress": lambda **about: ReviewRejected(comment="no", **about),
    "storage-away": lambda original_event, **about: StorageAway(about["request"], None, None),
    "broken": lambda original_event, **about: Broken(about["request"], None, None),
}


def includeme(config):
    config.add_route("conflict", "/conflict")
    config.add_view(_conflict, route_name="conflict")
    when = config.get_settings().get("review_plugin.when", "early")
    if when == "early":
        config.add_subscriber(_begin, NewRequest)
    config.add_subscriber(
        _put_by if when != "after" else _tell_now,
        ResourceChanged if when != "after" else AfterResourceChanged,
        for_actions=(ACTIONS.CREATE, ACTIONS.UPDATE),
        for_resources=("collection",),
    )
    if config.get_settings().get("review_plugin.raises"):
        config.add_subscriber(_raise, ReviewRequested)


def _begin(event):
    if not hasattr(event.request, "parent"):
        transaction.get().addBeforeCommitHook(_send, (event.request,))


def _put_by(event):
    if event.request.registry.settings.get("review_plugin.when") == "late":
        transaction.get().addBeforeCommitHook(_send, (event.request,))
    event.request.bound_data.setdefault(KEY, []).extend(_reviews(event))


def _tell_now(event):
    for review in _reviews(event):
        event.request.registry.notify(review)


def _send(request):
    for review in request.bound_data.pop(KEY, ()):
        request.registry.notify(review)


def _reviews(event):
    for impacted in event.impacted_objects:
        make = MAKE.get(impacted["new"].get("status"))
        if make is not None:
            yield make(
                request=event.request,
                payload=dict(event.payload),
                impacted_objects=[impacted],
                resource={},
                original_event=event,
            )


def _conflict(request):
    raise http_error(HTTPConflict())


def _raise(event):
    raise RuntimeError("this review breaks the request")
