"""What the lanes hold, in numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
import redis


if TYPE_CHECKING:
    from tests.integration.commands.conftest import Site

BASE = "kinto.event_listeners.dispatch."


def test_lanes_are_a_table(site: Site) -> None:
    """A line for each async channel; sync ones have no lane."""
    site.publish()
    text = site.run("status").stdout
    names = [line.split()[0] for line in text.splitlines()]
    assert names == ["channel", "ops", "news", "outbox:", "queue:", "worker:"]
    assert "worker: none is running; start one: kinto-dispatch worker" in text
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


@pytest.fixture
def server(site: Site) -> Iterator[redis.Redis]:
    """The queue's server, as it was set up afterwards."""
    with redis.Redis.from_url(site.settings[f"{BASE}queue_url"]) as client:
        yield client
        client.config_set("maxmemory", 0)
        client.config_set("maxmemory-policy", "noeviction")


def test_the_memory_of_the_queue_is_told(site: Site, server: redis.Redis) -> None:
    """How much of how much, and null where nothing bounds it."""
    found = site.json("status")["queue"]
    assert found.pop("used_memory_bytes") > 0
    assert found.pop("server") in ("valkey", "redis")
    assert found.pop("version")
    assert found == {"max_memory_bytes": None, "may_evict": False, "warnings": []}
    assert " MB used, no maxmemory" in site.run("status").stdout


def test_a_queue_that_is_full_or_may_drop_what_it_holds_says_so(
    site: Site, server: redis.Redis
) -> None:
    """For people under its line, for programs as sentences and as a flag."""
    server.config_set("maxmemory", 1_000)
    server.config_set("maxmemory-policy", "allkeys-lru")
    found = site.json("status")["queue"]
    assert (found["max_memory_bytes"], found["may_evict"]) == (1_000, True)
    evicts, full = found["warnings"]
    assert "maxmemory-policy is allkeys-lru" in evicts
    assert "The server is full" in full
    text = site.run("status").stdout
    assert evicts in text
    assert "of 0.0 MB maxmemory" in text


def test_a_server_that_forbids_info_still_has_a_status(site: Site, server: redis.Redis) -> None:
    """Only its memory is not known."""
    run = server.execute_command
    run("ACL", "SETUSER", "blind", "on", ">pw", "~*", "+@all", "-info", "-config")
    try:
        url = site.settings[f"{BASE}queue_url"]
        scheme, _, rest = url.partition("://")
        site.set_all({f"{BASE}queue_url": f"{scheme}://blind:pw@{rest}"})
        assert site.json("status")["queue"] is None
        assert "it forbids INFO" in site.run("status").stdout
        site.set_all({f"{BASE}queue_url": url})
    finally:
        run("ACL", "DELUSER", "blind")
