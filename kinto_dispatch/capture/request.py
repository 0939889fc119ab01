"""What a request knows beyond one event: its id, and what of it was rolled back on the way.

Kept in ``request.bound_data``, which a batch shares with its sub-requests.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from dockerflow.logging import request_id_context  # type: ignore[import-untyped]  # Kinto uses it


REQUEST_ID = "kinto_dispatch.request_id"
VOID = "kinto_dispatch.void"


def root_request(request: Any) -> Any:
    """The request that came in over HTTP, above those of a batch or of the default bucket."""
    while (parent := getattr(request, "parent", None)) is not None:
        request = parent
    return request


def note_request(request: Any) -> None:
    """Remember the id of a request that just began; sub-requests of a batch get others."""
    request.bound_data.setdefault(REQUEST_ID, request_id_context.get(None))


def void_collected(request: Any) -> None:
    """Leave out of ``capture`` what Kinto has collected in this request until now.

    Kinto aborts the transaction in the middle of a batch when a sub-request answers 409, and goes
    on; the events of what it has just rolled back still come, merged with those of what follows.
    """
    collector = request.bound_data.get("resource_events")
    if collector is None:
        return
    void = request.bound_data.setdefault(VOID, {})
    for _, impacted, _ in collector.event_dict.values():
        # By identity, and kept alive so that no other object gets the same one.
        void.update((id(item), item) for item in impacted)


def request_id(request: Any) -> str | None:
    """The id noted when the request began."""
    noted: str | None = request.bound_data.get(REQUEST_ID)
    return noted


def void_ids(request: Any) -> Container[int]:
    """The identities (``id()``) of the impacted objects that were rolled back."""
    void: dict[int, Any] = request.bound_data.get(VOID, {})
    return void
