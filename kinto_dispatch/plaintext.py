"""What an HTML message says, as plain text: for receivers that show no HTML."""

from __future__ import annotations

import re
from html.parser import HTMLParser


_UNSEEN = frozenset({"head", "script", "style", "template"})
_BLOCKS = re.compile(
    r"address|article|blockquote|dd|div|dl|dt|footer|form|h[1-6]|header|hr|li|main|ol|p|pre"
    r"|section|table|tr|ul"
)


def plain_text(html: str) -> str:
    """The text of ``html``: a line for each block, ``- `` before list items, links in brackets."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    lines = (" ".join(line.split()) for line in "".join(reader.parts).split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._unseen = 0
        self._links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "body":
            self._unseen = 0  # </head> may be left out
        elif tag in _UNSEEN:
            self._unseen += 1
        elif tag == "a":
            self._links.append(dict(attrs).get("href") or "")
        elif tag in ("td", "th"):
            self.parts.append(" ")
        elif tag == "br" or _BLOCKS.fullmatch(tag):
            self.parts.append("\n- " if tag == "li" else "\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in _UNSEEN:
            self._unseen = max(0, self._unseen - 1)
        elif tag == "a" and self._links:
            self._close_link(self._links.pop())
        elif _BLOCKS.fullmatch(tag):
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._unseen:
            self.parts.append(re.sub(r"\s+", " ", data))

    def _close_link(self, url: str) -> None:
        if url and not (self.parts and self.parts[-1].strip() == url):
            self.parts.append(f" ({url})")
