"""Times as people type them, and as we print them."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import Any

import rich_click as click


UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}

LATEST_SECONDS = 253_402_300_799.0
"""The end of the year 9999, as far as dates go; clients of Kinto may write later ones."""

_PART = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")
_AGE = re.compile(rf"(?:{_PART.pattern})+")


class Time(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    """A point in time: ISO 8601, or how long ago (``90s``, ``2h``, ``1d12h``). Converts to
    seconds since the epoch. A time without an offset is in UTC, as all that we print."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, float):
            return value
        try:
            return parse_time(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


TIME = Time()


def parse_time(text: str) -> float:
    """Seconds since the epoch. Raises ``ValueError``, which says what can be written."""
    if _AGE.fullmatch(text):
        return time.time() - age_seconds(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(
            f"{text!r} is no time; write how long ago (30s, 15m, 2h, 3d, 1w) or "
            "ISO 8601 (2026-11-22T14:00, in UTC unless it has an offset)."
        ) from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def age_seconds(text: str) -> float:
    """The length of ``1d12h`` in seconds."""
    return sum(float(number) * UNIT_SECONDS[unit] for number, unit in _PART.findall(text))


def iso(seconds: float) -> str:
    """Seconds since the epoch as ISO 8601 in UTC; what is before or after all dates as the first
    or the last."""
    known = max(0.0, min(seconds, LATEST_SECONDS))
    return datetime.fromtimestamp(known, UTC).isoformat(timespec="milliseconds")


def seconds_of(milliseconds: int) -> float:
    """Kinto's timestamps as seconds; however large they are."""
    return max(0, min(milliseconds, int(LATEST_SECONDS) * 1000)) / 1000


def duration(seconds: float | None) -> str:
    """A length of time for people: the two greatest units, ``-`` for ``None``."""
    if seconds is None:
        return "-"
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    parts: list[str] = []
    rest = round(seconds)
    for unit in "dhms":
        count, rest = divmod(rest, UNIT_SECONDS[unit])
        if count or parts:
            parts.append(f"{count}{unit}" if count else "")
    return "".join(parts[:2])
