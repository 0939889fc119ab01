"""An event becomes a message in Slack. Pure."""

from __future__ import annotations

import re
from typing import Any

from kinto_dispatch import Message


LONGEST_TEXT = 40_000
"""Characters; Slack cuts what is longer."""

_CUT_ENTITY = re.compile(r"&[a-z]{0,3}\Z")


def payload(message: Message, conversation: str | None = None) -> dict[str, Any]:
    """Subject and text as plain text: nothing in them can ping anybody, forge a link, be shown
    in bold or make Slack load a page. A webhook knows its ``conversation``; a bot does not."""
    return {
        **({"channel": conversation} if conversation else {}),
        "text": escape(f"{message.subject}\n{message.text}"),
        "mrkdwn": False,
        "parse": "none",
        "link_names": False,
        "unfurl_links": False,
        "unfurl_media": False,
    }


def escape(text: str) -> str:
    """Slack's three control characters as entities, at most as long as Slack takes it."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    if len(escaped) <= LONGEST_TEXT:
        return escaped
    return _CUT_ENTITY.sub("", escaped[: LONGEST_TEXT - 1]) + "…"
