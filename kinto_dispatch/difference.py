"""What changed of an object, in lines that people read. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any


MOST_LINES = 50
LONGEST_VALUE = 100

_UNINTERESTING = frozenset({"id", "last_modified", "deleted"})
_NAME = re.compile(r"[\w.-]+")
_ILLEGIBLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What ends a line, turns the direction of writing, or is no character at all."""


def interesting(changed: Iterable[str]) -> list[str]:
    """The changed fields without ``id``, ``last_modified`` and ``deleted``, which change by
    themselves."""
    return [name for name in changed if name not in _UNINTERESTING]


def lines(old: Mapping[str, Any], new: Mapping[str, Any], changed: Iterable[str]) -> str:
    """A line for each interesting field: ``+`` added, ``-`` removed, ``~`` changed.

    Values are JSON of at most 100 characters; at most 50 lines. Data cannot make a line look like
    another: in values and odd names, what would end it or turn it round is spelt out.
    """
    names = interesting(changed)
    found = [_line(name, old, new) for name in names[:MOST_LINES]]
    if len(names) > MOST_LINES:
        found.append(f"... and {len(names) - MOST_LINES} more fields")
    return "\n".join(found)


def _line(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    shown = name if _NAME.fullmatch(name) else _json(name)
    if name in old and name in new:
        return f"~ {_clip(shown)}: {_clip(_json(old[name]))} → {_clip(_json(new[name]))}"
    sign, side = ("+", new) if name in new else ("-", old)
    return f"{sign} {_clip(shown)}: {_clip(_json(side.get(name)))}"


def _json(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except RecursionError:
        return "(nested too deeply)"
    return _ILLEGIBLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _clip(text: str) -> str:
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"
