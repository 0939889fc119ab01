"""What an HTML message says, as plain text: for receivers that show no HTML."""

from __future__ import annotations

import re
from html import unescape


# The standard library's parser takes minutes for 60,000 characters of unclosed tags; this takes
# each character once or twice, since no alternative reads past the next "<" and none goes back.
_TAG = re.compile(
    r"""<!--.*?(?:-->|\Z)
      | <(?P<slash>/?)(?P<name>[a-zA-Z][a-zA-Z0-9]*+)
         (?P<attributes>(?:[^<>"']++|"[^"<]*+"|'[^'<]*+')*+)>
      | <[a-zA-Z/!?][^<>]*+>""",
    re.VERBOSE | re.DOTALL,
)

_HREF = re.compile(
    r"""(?<![\w-])href\s*+=\s*+(?:"([^"]*+)"|'([^']*+)'|([^\s"'>]++))""", re.IGNORECASE
)

_UNSEEN = frozenset({"head", "script", "style", "template"})
_BLOCKS = re.compile(
    r"address|article|blockquote|dd|div|dl|dt|footer|form|h[1-6]|header|hr|li|main|ol|p|pre"
    r"|section|table|tr|ul"
)


def plain_text(html: str) -> str:
    """The text of ``html``: a line for each block, ``- `` before list items, links in brackets.

    Never raises; what is no HTML is text. Takes time in proportion to the length.
    """
    reader = _Reader()
    end = 0
    for tag in _TAG.finditer(html):
        reader.text(html[end : tag.start()])
        end = tag.end()
        if tag["name"]:
            reader.tag(tag["name"].lower(), bool(tag["slash"]), tag["attributes"])
    reader.text(html[end:])
    lines = (" ".join(line.split()) for line in "".join(reader.parts).split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


class _Reader:
    def __init__(self) -> None:
        self.parts: list[str] = []
        self._unseen = 0
        self._links: list[str] = []

    def text(self, text: str) -> None:
        if not self._unseen:
            self.parts.append(re.sub(r"\s+", " ", unescape(text)))

    def tag(self, name: str, closes: bool, attributes: str) -> None:
        if name == "body":
            self._unseen = 0  # </head> may be left out
        elif name in _UNSEEN:
            self._unseen = max(0, self._unseen + (-1 if closes else 1))
        elif name == "a":
            self._close_link() if closes else self._open_link(attributes)
        elif name in ("td", "th"):
            self.parts.append(" ")
        elif name == "br" or _BLOCKS.fullmatch(name):
            self.parts.append("\n- " if name == "li" and not closes else "\n")

    def _open_link(self, attributes: str) -> None:
        found = _HREF.search(attributes)
        self._links.append(unescape(found[found.lastindex or 0]) if found else "")

    def _close_link(self) -> None:
        url = self._links.pop() if self._links else ""
        if url and not (self.parts and self.parts[-1].strip() == url):
            self.parts.append(f" ({url})")
