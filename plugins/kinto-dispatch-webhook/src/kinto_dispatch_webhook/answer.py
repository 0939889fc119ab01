"""What the answer of a receiver means. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from kinto_dispatch import Delivered, Outcome, Rejected, Retry


LONGEST_TEXT = 200
"""Characters of an answer that go into an outcome."""

LONGEST_WAIT_SECONDS = 86_400.0
"""How long a receiver may put us off."""

PASSING = frozenset({408, 425, 429})
GONE = 410

_ILLEGIBLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufffd]+|\s+")
"""What ends a line, turns the direction of writing, or is no text at all."""


def judge(
    status: int,
    headers: Mapping[str, str],
    text: str,
    redact: Callable[[str], str],
    now: datetime,
) -> Outcome:
    """The outcome, as Standard Webhooks has it: nothing but 2xx is success."""
    # A secret that is cut in half would not be recognised any more; hence the order.
    told = " ".join(_ILLEGIBLE.sub(" ", redact(text)).split())[:LONGEST_TEXT]
    told = f"{status} {told}".strip()
    if 200 <= status < 300:
        return Delivered(told)
    if status in PASSING or status >= 500:
        return Retry(told, retry_after(headers, now))
    if status == GONE:
        return Rejected(f"{told}; the receiver wants no more: pause the channel or take it away")
    return Rejected(told)


def retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """The seconds that the receiver asks for, at most a day; ``None`` if it does not, or nothing
    that can be understood. A date is compared with its own clock, where it tells the time."""
    asked = headers.get("Retry-After", "").strip()
    if asked.isascii() and asked.isdecimal():
        return min(float(asked), LONGEST_WAIT_SECONDS)
    until = _date(asked)
    if until is None:
        return None
    seconds = (until - (_date(headers.get("Date", "")) or now)).total_seconds()
    return min(max(seconds, 0.0), LONGEST_WAIT_SECONDS)


def _date(text: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(text)
        return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
