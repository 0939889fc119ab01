"""The filters that Jinja does not have: what a message about a change needs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC
from datetime import datetime as DateTime
from typing import Any
from urllib.parse import quote

from kinto_dispatch.sandbox.values import Run, kind, number


UNINTERESTING = frozenset({"id", "last_modified", "deleted"})
LONGEST_DIFF_LINES = 50
LONGEST_DIFF_VALUE = 100


def diff(run: Run, value: Any) -> str:
    """A line for each changed field of a change: ``+`` added, ``-`` removed, ``~`` changed.

    Without ``id``, ``last_modified`` and ``deleted``, which change by themselves. At most 50
    lines, and 100 characters of each value.
    """
    if not isinstance(value, Mapping) or not {"old", "new", "changed"} <= value.keys():
        raise TypeError(f"takes a change, found {kind(value)}")
    names = [name for name in value["changed"] if name not in UNINTERESTING]
    old, new = value["old"] or {}, value["new"] or {}
    lines = [_diff_line(run, name, old, new) for name in names[:LONGEST_DIFF_LINES]]
    if len(names) > LONGEST_DIFF_LINES:
        lines.append(f"... and {len(names) - LONGEST_DIFF_LINES} more fields")
    return "\n".join(lines)


def _diff_line(run: Run, name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    before, after = (_brief(run, side[name]) if name in side else None for side in (old, new))
    shown = _clip(name if name.isprintable() else json.dumps(name))
    if before is None or after is None:
        return f"- {shown}: {before}" if after is None else f"+ {shown}: {after}"
    return f"~ {shown}: {before} → {after}"


def _brief(run: Run, value: Any) -> str:
    run.budget.weigh(value)
    return _clip(json.dumps(value, ensure_ascii=False))


def _clip(text: str) -> str:
    return text if len(text) <= LONGEST_DIFF_VALUE else text[: LONGEST_DIFF_VALUE - 1] + "…"


def link(run: Run, value: Any) -> str:
    """The full URL of a change, or of a uri."""
    uri = value.get("uri") if isinstance(value, Mapping) else value
    if not isinstance(uri, str) or not uri.startswith("/"):
        raise TypeError(f"takes a change or a uri, found {kind(value)}")
    return run.root_url.rstrip("/") + quote(uri, safe="/:@!$&'()*+,;=~%", errors="replace")


_DIRECTIVES = re.compile(r"(?:[^%\0]|%[aAbBdHIjmMpSUwWyYZcxXzf%])*")
"""Without widths like %9999d, which some C libraries obey."""


def date_and_time(run: Run, value: Any, format: str | None = None) -> str:
    """A timestamp in milliseconds as ISO 8601 in UTC, or by a ``strftime`` format."""
    moment = DateTime.fromtimestamp(number(value) / 1000, UTC)
    if format is None:
        return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
    if not isinstance(format, str) or len(format) > 200 or not _DIRECTIVES.fullmatch(format):
        raise ValueError("takes a strftime format of at most 200 characters")
    return moment.strftime(format)


def past(run: Run, value: Any) -> str:
    """``created`` for ``create``, ``updated``, ``deleted``; ``read`` stays."""
    action = run.text(value)
    return f"{action}d" if action.endswith("e") else action
