"""The worker as a command: it drains, however it is started and however it is stopped."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from kinto_dispatch.testing.waiting import eventually


if TYPE_CHECKING:
    from tests.integration.commands.conftest import Site


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_burst_ends_when_all_is_settled(site: Site, processes: str) -> None:
    """With what was delivered and exit code 0, in one process or in several."""
    site.publish(id="e")
    with site.start("worker", "--burst", "--processes", processes) as worker:
        _, said = worker.communicate(timeout=60)
    assert worker.returncode == 0, said
    assert {row["key"] for row in site.json("attempts")} == {"e:ops", "e:news:0"}


@pytest.mark.parametrize("processes", ["1", "2"])
def test_ctrl_c_lets_what_is_in_flight_finish(site: Site, processes: str) -> None:
    """A terminal sends the signal to every process of the group, and it still counts as one."""
    site.set("ops", answer="slow")
    site.publish(id="e")
    with site.start("worker", "--processes", processes, process_group=0) as worker:
        try:

            def in_flight() -> int:
                return int(site.json("status")["lanes"][0]["in_flight"])

            eventually(in_flight, "the delivery to be in flight", 30)
            os.killpg(worker.pid, signal.SIGINT)
            _, said = worker.communicate(timeout=30)
        finally:
            worker.kill()
    assert worker.returncode == 0, said
    rows = site.json("attempts", "--channel", "ops")
    assert [(row["outcome"], row["reason"]) for row in rows] == [("delivered", "after a while")]


def test_unknown_channels_are_told(site: Site) -> None:
    """Before anything is started."""
    result = site.run("worker", "--channels", "ops,nwes")
    assert result.exit_code == 2
    assert "There is no channel 'nwes'. Configured: ops, news, admins." in result.stderr
    assert "Did you mean 'news'?" in result.stderr


def test_a_bad_configuration_stops_the_start(site: Site) -> None:
    """With its code and everything that is wrong."""
    site.set("ops", max_atempts="3")
    site.set("news", when="=")
    result = site.run("worker")
    assert result.exit_code == 78
    assert "max_atempts" in result.stderr
    assert "news.when" in result.stderr
