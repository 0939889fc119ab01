"""What a destination answered over HTTP, and what that usually means. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from kinto_dispatch.lines import legible
from kinto_dispatch.outcome import Delivered, Outcome, Rejected, Retry


LONGEST_TEXT = 200
"""Characters of an answer that go into an outcome."""

LONGEST_WAIT_SECONDS = 86_400.0
"""How long a destination may put us off."""

PASSING = frozenset({408, 425, 429})
OF_ALL = frozenset({429, 503})
"""What is said of the destination rather than of one request (RFC 6585, RFC 9110)."""


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """A status, and what came with it. ``headers`` are found in any spelling of their names.

    ``text`` is at most the first 64 kB; ``None`` where it did not come in time, or is compressed.
    """

    status: int
    headers: Mapping[str, str]
    text: str | None

    @property
    def retry_after(self) -> float | None:
        """The seconds that the destination asks for, at most a day, if it does."""
        return retry_after(self.headers)

    def told(self, redact: Callable[[str], str]) -> str:
        """The status and the beginning of the text, on one line, as ``redact`` leaves it."""
        # A secret that is cut in half would not be recognised any more; hence the order.
        text = legible(redact(self.text or ""))
        return f"{self.status} {text[:LONGEST_TEXT]}".strip()

    def outcome(self, redact: Callable[[str], str]) -> Outcome:
        """2xx is ``Delivered``; 408, 425, 429 and 5xx pass, after ``retry_after``, which 429 and
        503 ask of the whole channel; the rest is ``Rejected``. Each says what was ``told``;
        ``channel.redact`` keeps secrets out of it."""
        told = self.told(redact)
        if 200 <= self.status < 300:
            return Delivered(told)
        if self.status in PASSING or self.status >= 500:
            return Retry(told, self.retry_after, throttled=self.status in OF_ALL)
        return Rejected(told)


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """The seconds that a destination asks for, at most a day; ``None`` if it does not, or nothing
    that can be understood. A date is compared with its own clock, where it tells the time."""
    asked = headers.get("Retry-After", "").strip()
    if asked.isascii() and asked.isdecimal():
        return min(float(asked), LONGEST_WAIT_SECONDS)
    until = _date(asked)
    if until is None:
        return None
    seconds = (
        until - (_date(headers.get("Date", "")) or now or datetime.now(UTC))
    ).total_seconds()
    return min(max(seconds, 0.0), LONGEST_WAIT_SECONDS)


def _date(text: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(text)
        return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
