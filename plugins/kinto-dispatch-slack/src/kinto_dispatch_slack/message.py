"""An event becomes a message in Slack. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from kinto_dispatch import Event, Message


LONGEST_TEXT = 40_000
"""Characters; Slack cuts what is longer."""

_CUT_ENTITY = re.compile(r"&[a-z]{0,3}\Z")


def payload(
    message: Message, blocks: Sequence[dict[str, Any]] = (), conversation: str | None = None
) -> dict[str, Any]:
    """Subject and text as plain text: nothing in them can ping anybody, forge a link, be shown
    in bold or make Slack load a page. ``blocks`` are shown in their place, which then is what
    notifications say. A webhook knows its ``conversation``; a bot does not."""
    return {
        **({"channel": conversation} if conversation else {}),
        "text": escape("\n".join(filter(None, (message.subject, message.text))), LONGEST_TEXT),
        **({"blocks": list(blocks)} if blocks else {}),
        "mrkdwn": False,
        "parse": "none",
        "link_names": False,
        "unfurl_links": False,
        "unfurl_media": False,
    }


def object_of(event: Event) -> str | None:
    """The uri of the one object that all changes are of; ``None`` where they are of several."""
    uris = {change.uri for change in event.changes}
    return uris.pop() if len(uris) == 1 else None


def escape(text: str, longest: int) -> str:
    """Slack's three control characters as entities; at most ``longest`` characters with these."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    if len(escaped) <= longest:
        return escaped
    return _CUT_ENTITY.sub("", escaped[: longest - 1]) + "…"
