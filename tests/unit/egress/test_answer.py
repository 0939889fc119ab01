"""What a status means, what is shown of an answer, and how long it asks us to wait."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinto_dispatch import Delivered, HttpAnswer, Rejected, Retry
from kinto_dispatch.egress.answer import LONGEST_WAIT_SECONDS, retry_after


NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((status, Delivered) for status in (200, 204, 299)),
        *((status, Retry) for status in (408, 425, 429, 500, 503, 599)),
        *((status, Rejected) for status in (199, 300, 304, 400, 404, 410, 451)),
    ],
)
def test_the_usual_outcome(status: int, kind: type) -> None:
    """Nothing but 2xx is success, and only what passes is tried again."""
    assert isinstance(HttpAnswer(status, {}, "").outcome(str), kind)


def test_what_passes_is_tried_again_when_the_destination_says() -> None:
    """Retry-After is part of the outcome."""
    answer = HttpAnswer(429, {"Retry-After": "7"}, "slow\r\n\x1b[31m down")
    assert answer.outcome(str) == Retry("429 slow [31m down", 7.0, throttled=True)


def test_a_text_that_did_not_come_is_no_text() -> None:
    """The status is told alone."""
    assert HttpAnswer(200, {}, None).outcome(str) == Delivered("200")


def test_secrets_are_taken_out_before_the_text_is_cut() -> None:
    """Half a secret would not be recognised any more (B20)."""
    answer = HttpAnswer(500, {}, "x" * 195 + "hunter2")
    told = answer.told(lambda text: text.replace("hunter2", "***"))
    assert told == f"500 {'x' * 195}***"


@given(st.integers(100, 599), st.text())
def test_whatever_is_answered_is_told_on_one_short_line(status: int, text: str) -> None:
    """No answer can forge a line of the log (B24)."""
    told = HttpAnswer(status, {}, text).told(str)
    assert len(told) <= 204
    assert len(told.splitlines()) == 1


@given(st.integers(0, 10**30))
def test_retry_after_in_seconds(seconds: int) -> None:
    """As asked, at most a day."""
    expected = min(float(seconds), LONGEST_WAIT_SECONDS)
    assert retry_after({"Retry-After": str(seconds)}, NOW) == expected


@given(st.integers(-(10**6), 10**6), st.integers(-(10**6), 10**6))
def test_retry_after_as_a_date(seconds: int, skew: int) -> None:
    """By the clock of the receiver, if it tells the time, else by ours."""
    theirs = NOW + timedelta(seconds=skew)
    expected = min(max(float(seconds), 0.0), LONGEST_WAIT_SECONDS)
    headers = {
        "Retry-After": format_datetime(theirs + timedelta(seconds=seconds), usegmt=True),
        "Date": format_datetime(theirs, usegmt=True),
    }
    assert retry_after(headers, NOW) == expected
    until = format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)
    assert retry_after({"Retry-After": until}, NOW) == expected


@given(st.text(), st.text())
def test_retry_after_of_any_text(asked: str, date: str) -> None:
    """Never raises, and never asks for more than a day."""
    found = retry_after({"Retry-After": asked, "Date": date}, NOW)
    assert found is None or 0.0 <= found <= LONGEST_WAIT_SECONDS
