"""Reads a message as Slack does, by its documentation: what is shown, who is pinged, what is a
link. Raises ``Unreadable`` for what Slack refuses or would have to guess.

https://docs.slack.dev/messaging/formatting-message-text: ``<`` begins a control sequence that
ends at the next ``>``: ``@U``, ``#C`` and ``!`` name people, conversations and special mentions,
all else is a URL, with a label after ``|``. Outside there are three entities and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any


LIMITS = {"header": 150, "section": 3000, "context": 3000}
MOST_BLOCKS = 50
LONGEST_BLOCKS = 12_000
"""Characters of the texts of all blocks."""

_TOKEN = re.compile(r"<(?P<control>[^>]*)>|(?P<entity>&(?:lt|gt|amp);)|(?P<text>[^<>&]+)")
_ENTITIES = {"&lt;": "<", "&gt;": ">", "&amp;": "&"}


class Unreadable(Exception):
    """Raised for a message that Slack refuses, or reads in a way that is not documented."""


@dataclass
class Shown:
    """What people see of a message, and what it does besides."""

    texts: list[str] = field(default_factory=list)
    links: list[tuple[str, str]] = field(default_factory=list)
    pings: list[str] = field(default_factory=list)

    @property
    def is_inert(self) -> bool:
        """Whether it only shows text."""
        return not self.links and not self.pings


def read_text(text: str) -> Shown:
    """What Slack makes of one text with its control sequences."""
    shown, at, plain = Shown(), 0, []
    while at < len(text):
        token = _TOKEN.match(text, at)
        if token is None:
            raise Unreadable(f"a bare {text[at]!r} at {at}: {text[at : at + 20]!r}")
        at = token.end()
        if token["control"] is not None:
            plain.append(_control(token["control"], shown))
        else:
            plain.append(_ENTITIES.get(token[0], token[0]))
    shown.texts.append("".join(plain))
    return shown


def _control(control: str, shown: Shown) -> str:
    target, _, label = control.partition("|")
    if target[:1] in ("@", "#", "!"):
        shown.pings.append(control)
    else:
        shown.links.append((target, label or target))
    return label or target


def read_blocks(blocks: list[Mapping[str, Any]]) -> Shown:
    """What is shown of a message with blocks. ``plain_text`` is read with control sequences, too:
    more than Slack does."""
    shown, total = Shown(), 0
    if not 1 <= len(blocks) <= MOST_BLOCKS:
        raise Unreadable(f"{len(blocks)} blocks")
    for kind, text in _texts(blocks):
        if not 1 <= len(text["text"]) <= LIMITS[kind]:
            raise Unreadable(f"a {kind} of {len(text['text'])} characters")
        total += len(text["text"])
        part = read_text(text["text"])
        if text["type"] == "mrkdwn" and text.get("verbatim") is not True:
            raise Unreadable("Slack looks for links and names in it by itself")
        if text["type"] == "plain_text" and not part.is_inert:
            raise Unreadable("a control sequence in plain text")
        shown.texts += part.texts
        shown.links += part.links
        shown.pings += part.pings
    if total > LONGEST_BLOCKS:
        raise Unreadable(f"blocks of {total} characters")
    return shown


def _texts(blocks: list[Mapping[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for block in blocks:
        if block["type"] not in LIMITS:
            raise Unreadable(f"a block of type {block['type']}")
        if block["type"] == "header" and block["text"]["type"] != "plain_text":
            raise Unreadable("a header takes plain text only")
        elements = block["elements"] if block["type"] == "context" else [block["text"]]
        if not 1 <= len(elements) <= 10:
            raise Unreadable(f"a context of {len(elements)} elements")
        yield from ((block["type"], element) for element in elements)
