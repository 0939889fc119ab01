"""An event becomes an item of the list. Pure."""

from __future__ import annotations

import json

from kinto_dispatch import Event


def item(event: Event) -> str:
    """Kinto's payload as one JSON object in ASCII: what the consumers of kinto-redis read."""
    return json.dumps(event.payload)
