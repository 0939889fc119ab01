"""Events of the past are delivered again, to those channels that want them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from kinto_dispatch.testing.builders import make_change


if TYPE_CHECKING:
    from tests.integration.commands.conftest import Site

OLD = 1_000_000_000_000
NEW = 1_600_000_000_000


@pytest.fixture
def past(site: Site) -> Site:
    """Two events that all channels have had: an old one and a newer one, which ``news`` splits."""
    site.publish(id="old", timestamp=OLD)
    changes = (make_change(object_id="a"), make_change(object_id="b"))
    site.publish(id="new", timestamp=NEW, changes=changes)
    site.work()
    return site


def replays(site: Site) -> set[str]:
    """The keys of attempts that were replays."""
    site.work()
    result = site.run("attempts", "--json")
    return {row["key"] for row in json.loads(result.stdout) if row["replay"]}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--channel", "ops"], {"old:ops", "new:ops"}),
        (["--event", "new"], {"new:ops", "new:news:0", "new:news:1"}),
        (["--event", "new", "--channel", "news"], {"new:news:0", "new:news:1"}),
        (["--all"], {"old:ops", "new:ops", "old:news:0", "new:news:0", "new:news:1"}),
        (["--channel", "ops", "--since", "2010-01-01"], {"new:ops"}),
        (["--channel", "ops", "--until", "2010-01-01T00:00:00Z"], {"old:ops"}),
        (["--event", "other"], set()),
        (["--channel", "ops", "--since", "1h"], set()),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_meant_is_delivered_again(
    past: Site, options: list[str], expected: set[str]
) -> None:
    """By channel, event and the time of the change; keys stay the same, and it is marked."""
    result = past.json("replay", *options, "--yes", code=0 if expected else 3)
    count = len(expected)
    assert result == {"matched": count, "replayed": count, "dry_run": False}
    assert replays(past) == expected


def test_a_channel_that_was_added_later_can_catch_up(past: Site) -> None:
    """The log has what happened before the channel was there; nothing is delivered twice."""
    past.settings["kinto.event_listeners.dispatch.channels"] += " late"
    past.set("late", plugin="commands_channel:Channel")
    assert past.json("replay", "--channel", "late", "--yes")["replayed"] == 2
    past.work()
    keys = [row["key"] for row in past.json("attempts", "--channel", "late")]
    assert sorted(keys) == ["new:late", "old:late"]


def test_what_is_still_on_its_way_is_not_sent_twice(past: Site) -> None:
    """An event that the router has not seen yet comes anyway."""
    past.publish(id="under-way")
    assert past.json("replay", "--event", "under-way", "--yes", code=3)["matched"] == 0
    past.work()
    rows = past.json("attempts", "--event", "under-way")
    assert [row["replay"] for row in rows] == [False, False]


def test_a_route_that_cannot_be_judged_leaves_the_event_out(past: Site) -> None:
    """That is said on stderr, and the others are delivered."""
    past.set("news", when="length(new.title) > `3`")
    past.publish(id="odd", changes=(make_change(new={"id": "first", "title": 5}),))
    past.work()
    result = past.run("replay", "--event", "odd", "--yes")
    assert "Left out event odd for channel 'news'" in result.stderr
    assert replays(past) == {"odd:ops"}


@pytest.mark.parametrize(("answer", "code"), [("n\n", 1), ("y\n", 0)])
def test_it_asks_before(past: Site, answer: str, code: int) -> None:
    """With the number of deliveries for each channel."""
    result = past.run("replay", "--all", given=answer)
    assert result.exit_code == code
    assert "Deliver 5 again, to ops (2), news (3)?" in result.stderr
    assert bool(replays(past)) == (code == 0)


def test_a_dry_run_does_nothing(past: Site) -> None:
    """It counts, without a question."""
    result = past.json("replay", "--all", "--dry-run")
    assert result == {"matched": 5, "replayed": 0, "dry_run": True}
    assert replays(past) == set()
