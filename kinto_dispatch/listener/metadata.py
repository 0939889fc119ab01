"""Refuses a bucket or collection whose hooks could not work, when somebody writes it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

from kinto.core.errors import raise_invalid
from kinto.core.events import ACTIONS, ResourceChanged
from kinto.core.storage.exceptions import ObjectNotFoundError

from kinto_dispatch.subscriptions import FORMATS, Openings, problems_of, unheard


logger = logging.getLogger(__name__)


def check_hooks(config: Any, openings: Openings) -> None:
    """Answer 400 to hooks that are wrong, with where and why. Those that were there before and
    did not change are let be: whoever writes something else is not to blame for them."""
    config.add_subscriber(
        partial(_check, openings),
        ResourceChanged,
        for_resources=("bucket", "collection"),
        for_actions=(ACTIONS.CREATE, ACTIONS.UPDATE),
    )


def _check(openings: Openings, event: Any) -> None:
    is_bucket = event.payload["resource_name"] == "bucket"
    for impacted in event.impacted_objects:
        new, old = _whole(event, impacted), impacted.get("old") or {}
        written = {
            name: new[name] for name in FORMATS if name in new and new[name] != old.get(name)
        }
        bucket_id = (
            str(new.get("id") or old.get("id")) if is_bucket else event.payload["bucket_id"]
        )
        for where, why in problems_of(written, str(bucket_id), openings):
            raise_invalid(event.request, name=f"data.{where}", description=why)
        # Not refused: what stands in the metadata of a deployment must stay writable there.
        for where, name in unheard(written, openings):
            logger.warning(
                "data.%s of %s: nobody will be told of %r. Listened to are: %s. Add its name to "
                "the setting events of kinto-dispatch, or remove the hook.",
                where,
                event.payload["uri"],
                name,
                " ".join(openings.events),
            )


def _whole(event: Any, impacted: Mapping[str, Any]) -> Mapping[str, Any]:
    """The new object; as it is stored, where ``Response-Behavior`` took fields out of Kinto's."""
    new: Mapping[str, Any] = impacted["new"]
    old = impacted.get("old") or {}
    if "id" in new or not old:
        return new
    bucket_id = event.payload.get("bucket_id")
    is_bucket = event.payload["resource_name"] == "bucket"
    try:
        stored: Mapping[str, Any] = event.request.registry.storage.get(
            resource_name=event.payload["resource_name"],
            parent_id="" if is_bucket else f"/buckets/{bucket_id}",
            object_id=old["id"],
        )
    except ObjectNotFoundError:  # deleted later in the same batch, and its hooks with it
        return new
    return stored
