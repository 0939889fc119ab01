"""Refuses a bucket or collection whose hooks could not work, when somebody writes it."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

from kinto.core.errors import raise_invalid
from kinto.core.events import ACTIONS, ResourceChanged

from kinto_dispatch.capture.source import Source
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
    # As they are announced: of a PATCH whose answer is shortened, Kinto's event has a part only.
    for change in Source(event).changes():
        new, old = change.new or {}, change.old or {}
        written = {
            name: new[name] for name in FORMATS if name in new and new[name] != old.get(name)
        }
        bucket_id = change.object_id if is_bucket else event.payload["bucket_id"]
        for where, why in problems_of(written, str(bucket_id), openings):
            raise_invalid(event.request, name=f"data.{where}", description=why)
        # Not refused: what stands in the metadata of a deployment must stay writable there.
        for where, name in unheard(written, openings):
            logger.warning(
                "data.%s of %s: nobody will be told of %r. Listened to are: %s. Add its name to "
                "the setting events of kinto-dispatch, or remove the hook.",
                where,
                change.uri,
                name,
                " ".join(openings.events),
            )
