"""What the lanes hold, in numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from tests.integration.commands.conftest import Site


def test_lanes_are_a_table(site: Site) -> None:
    """A line for each async channel; sync ones have no lane."""
    site.publish()
    text = site.run("status").stdout
    names = [line.split()[0] for line in text.splitlines()]
    assert names == ["channel", "ops", "news", "outbox:", "worker:"]
    assert "worker: none is running" in text
    site.run("pause", "ops")
    assert "paused" in site.run("status").stdout


def test_where_all_channels_are_sync_that_is_said(site: Site) -> None:
    """Rather than a table with nothing in it."""
    for channel in ("ops", "news"):
        site.set(channel, mode="sync")
    text = site.run("status").stdout
    assert "No channel is async: all are called in the request, so there are no lanes." in text
    assert "oldest" not in text
    assert "worker: none is needed" in text
    assert site.json("status")["lanes"] == []
