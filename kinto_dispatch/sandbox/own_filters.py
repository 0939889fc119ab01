"""The filters that Jinja does not have: what a message about a change needs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC
from datetime import datetime as DateTime
from typing import Any
from urllib.parse import quote

from kinto_dispatch.difference import MOST_LINES, interesting, lines
from kinto_dispatch.sandbox.values import Run, kind, number


def diff(run: Run, value: Any) -> str:
    """A line for each changed field of a change, as ``Change.diff`` has them."""
    if not isinstance(value, Mapping) or not {"old", "new", "changed"} <= value.keys():
        raise TypeError(f"takes a change, found {kind(value)}")
    sides, names = (value["old"] or {}, value["new"] or {}), value["changed"]
    for name in interesting(names)[:MOST_LINES]:
        run.budget.weigh([side[name] for side in sides if name in side])
    return lines(*sides, names)


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
