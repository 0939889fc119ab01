"""What happened, as the blocks of a message: shown where a channel has no template. Pure.

Everything that a record or a user chose stands in ``plain_text``, where Slack knows no markup.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from slack_sdk.models.blocks import (
    Block,
    ContextBlock,
    HeaderBlock,
    MarkdownTextObject,
    PlainTextObject,
    SectionBlock,
)

from kinto_dispatch import Event
from kinto_dispatch_slack.message import escape


MOST_CHANGES = 10
"""Slack takes 50 blocks; a change has two."""

LONGEST_HEADER: int = HeaderBlock.text_max_length
LONGEST_SECTION: int = SectionBlock.text_max_length
LONGEST_SECTIONS = 6000
"""Characters of all sections: Slack refuses some 12,000 for a message, its JSON included."""

LONGEST_LINK = 300
LONGEST_VALUE = 200

_URL = re.compile(r"https?://[\w.:\[\]-]+(?:/[\w.~%:@+/-]*)?", re.ASCII)
_ILLEGIBLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What ends a line, turns the direction of writing, or is no character at all."""


def blocks(subject: str, event: Event) -> list[dict[str, Any]]:
    """The ``subject`` as header, each change with its fields and a link, then by whom and when."""
    shown = event.changes[:MOST_CHANGES]
    longest = min(LONGEST_SECTION, LONGEST_SECTIONS // max(1, len(shown)))
    found: list[Block] = [HeaderBlock(text=_plain(subject, LONGEST_HEADER))] if subject else []
    for change in shown:
        text = f"{_brief(change.uri, longest)}\n{change.diff()}".rstrip()
        found.append(SectionBlock(text=_plain(text, longest)))
        if change.new is not None and (url := link(event.root_url, change.uri)):
            shown_url = MarkdownTextObject(text=f"<{url}>", verbatim=True)
            found.append(ContextBlock(elements=[shown_url]))
    found.append(ContextBlock(elements=[_plain(_foot(event), LONGEST_SECTION)]))
    return [block.to_dict() for block in found]


def link(root_url: str, uri: str) -> str | None:
    """The URL of an object; ``None`` if it is long, or nothing that a browser should open. It is
    shown as it is, without a name that could tell something else."""
    url = root_url.rstrip("/") + quote(uri, safe="/", errors="replace")
    return url if len(url) <= LONGEST_LINK and _URL.fullmatch(url) else None


def _foot(event: Event) -> str:
    rest = len(event.changes) - MOST_CHANGES
    more = f"and {rest} more changes · " if rest > 0 else ""
    if event.skipped:
        more += f"older versions that are not shown: {event.skipped} · "
    return f"{more}by {_brief(event.user_id or 'anonymous')} · {_time(event.timestamp)}"


def _time(timestamp: int) -> str:
    try:
        return datetime.fromtimestamp(timestamp / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return str(timestamp)[:LONGEST_VALUE]


def _plain(text: str, longest: int) -> PlainTextObject:
    return PlainTextObject(text=escape(text, longest) or "–", emoji=False)


def _brief(text: str, longest: int = LONGEST_VALUE) -> str:
    """One line without tricks."""
    text = _ILLEGIBLE.sub("\ufffd", text)
    return text if len(text) <= longest else text[: longest - 1] + "…"
