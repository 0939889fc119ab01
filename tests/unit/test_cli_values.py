"""Times as people type them, and text as terminals get it."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinto_dispatch.cli.channels import summary
from kinto_dispatch.cli.explain import object_uri
from kinto_dispatch.cli.pages import event_id_of
from kinto_dispatch.cli.printing import print_table, printable
from kinto_dispatch.cli.times import duration, iso, parse_time
from kinto_dispatch.delivery import delivery_key
from kinto_dispatch.settings import RouteSettings


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0s", 0),
        ("90s", 90),
        ("15m", 900),
        ("2h", 7200),
        ("1.5h", 5400),
        ("3d", 3 * 86400),
        ("1w", 7 * 86400),
        ("1d12h", 36 * 3600),
    ],
)
def test_ages(text: str, seconds: float) -> None:
    """How long ago is counted from now."""
    assert parse_time(text) == pytest.approx(time.time() - seconds, abs=5)


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-22T14:00:00",
        "2026-11-22T14:00Z",
        "2026-11-22T15:00+01:00",
        "2026-11-22 14:00",
        "20261122T140000Z",
    ],
)
def test_iso_times(text: str) -> None:
    """A time without an offset is in UTC, as everything that is printed."""
    assert parse_time(text) == datetime(2026, 11, 22, 14, tzinfo=UTC).timestamp()


@pytest.mark.parametrize("text", ["", "2", "h", "-2h", "2 h", "2y", "2h x", "yesterday", "14:00"])
def test_what_is_no_time(text: str) -> None:
    """Anything else is refused rather than guessed."""
    with pytest.raises(ValueError, match="write how long ago"):
        parse_time(text)


@given(
    st.datetimes(
        min_value=datetime(1971, 1, 1),
        max_value=datetime(2200, 1, 1),
        timezones=st.integers(-12, 14).map(lambda hours: timezone(timedelta(hours=hours))),
    )
)
def test_what_is_printed_can_be_typed(moment: datetime) -> None:
    """A time from any listing can be given to any option, to the millisecond."""
    assert parse_time(iso(moment.timestamp())) == pytest.approx(moment.timestamp(), abs=0.001)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0, "0ms"),
        (0.0123, "12ms"),
        (1, "1s"),
        (59.6, "1m"),
        (61, "1m1s"),
        (7200, "2h"),
        (90061, "1d1h"),
    ],
)
def test_durations_for_people(seconds: float | None, text: str) -> None:
    """The two greatest units are enough."""
    assert duration(seconds) == text


@given(st.text())
def test_nothing_printed_can_command_a_terminal(text: str) -> None:
    """Whatever somebody sent, it is one line of printable characters (B24)."""
    assert printable(text).isprintable()


def test_text_of_all_alphabets_is_left_alone() -> None:
    """Only what cannot be printed is escaped."""
    assert printable("Grüße 日本 \U0001f4a5\n\tnext") == "Grüße 日本 \U0001f4a5 next"
    assert printable("\x1b[31m\u202e") == "\\x1b[31m\\u202e"
    assert printable(None) == ""


def test_a_piped_table_is_one_line_per_row(capsys: pytest.CaptureFixture[str]) -> None:
    """However long: what is piped is searched and cut, not looked at."""
    print_table(("a", "bb"), [("x" * 300, "1\n2"), ("y", None)])
    assert capsys.readouterr().out.splitlines() == [
        "a" + " " * 301 + "bb",
        "x" * 300 + "  1 2",
        "y",
    ]


def test_a_key_begins_with_its_event() -> None:
    """The event of a delivery is known without decoding it."""
    assert event_id_of(delivery_key("id", "ops")) == "id"
    assert event_id_of(delivery_key("id", "ops", 3)) == "id"


@pytest.mark.parametrize(
    "target",
    [
        "/buckets/a/collections/b",
        "/v1/buckets/a/collections/b",
        "http://localhost:8888/v1/buckets/a/collections/b",
        "https://example.com/buckets/a/collections/b",
    ],
)
def test_uris_of_all_spellings(target: str) -> None:
    """A URL from a browser and a uri from a log mean the same object."""
    assert object_uri(target) == "/buckets/a/collections/b"


def test_routes_on_one_line() -> None:
    """As the ini spells them; a channel without a route gets everything."""
    assert summary(RouteSettings()) == "everything"
    route = RouteSettings(actions=("create", "update"), when="new.x", alias_resources=("record",))
    assert summary(route) == "alias resources = record; actions = create update; when = new.x"
