"""A plugin of Kinto with an address that always answers 409, for batches that abort midway."""

from __future__ import annotations

from typing import Any


PATH = "/conflict"


def includeme(config: Any) -> None:
    """Called by Kinto for ``kinto.includes``."""
    config.add_route("chaos_conflict", PATH)
    config.add_view(_conflict, route_name="chaos_conflict")


def _conflict(request: Any) -> Any:
    from kinto.core.errors import http_error
    from pyramid.httpexceptions import HTTPConflict

    raise http_error(HTTPConflict())
