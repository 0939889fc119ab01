"""Commands that go on until somebody stops them."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

import pytest

from kinto_dispatch.testing.waiting import eventually


if TYPE_CHECKING:
    from tests.integration.commands.conftest import Site


class Followed:
    """A command that runs, and its lines so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._arrived: SimpleQueue[str] = SimpleQueue()
        self.lines: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._arrived.put(line.rstrip("\n"))

    def has(self, part: str) -> bool:
        """Whether a line with this part has come."""
        try:
            while True:
                self.lines.append(self._arrived.get_nowait())
        except Empty:
            return any(part in line for line in self.lines)

    def interrupt(self) -> str:
        """Ctrl-C; what it said on stderr."""
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(10) == 128 + signal.SIGINT
        assert self.process.stderr is not None
        return self.process.stderr.read()


@contextmanager
def following(site: Site, *arguments: str) -> Iterator[Followed]:
    """Run a command that follows, and end it whatever comes."""
    with site.start(*arguments) as process:
        try:
            yield Followed(process)
        finally:
            process.kill()


def test_tail_shows_attempts_as_they_come(site: Site) -> None:
    """What was before is not shown; each attempt is a line; Ctrl-C ends it quietly with 130."""
    site.publish(id="before")
    site.work()
    with following(site, "tail", "--channel", "ops") as tail:
        numbers = iter(range(1000))

        def arrives() -> bool:
            site.publish(id=f"new-{next(numbers)}")
            site.work()
            return tail.has(":ops")

        eventually(arrives, "an attempt to be shown", 30)
        assert "ops delivered attempt=1" in tail.lines[0]
        assert "taken" in tail.lines[0]
        assert not tail.has("before")
        assert not tail.has(":news")
        assert tail.interrupt() == ""


def test_tail_begins_in_the_past_if_asked(site: Site) -> None:
    """With ``--json``, lines under the keys of ``attempts``."""
    site.publish(id="e")
    site.work()
    (row,) = site.json("attempts", "--channel", "ops")
    with following(site, "tail", "--channel", "ops", "--since", "1h", "--json") as tail:
        eventually(lambda: tail.has("e:ops"), "the attempt to be shown", 30)
        assert json.loads(tail.lines[0]) == row


def test_tail_shows_events(site: Site) -> None:
    """What Kinto captured, before any channel is asked."""
    site.publish(id="e")
    with following(site, "tail", "--events", "--since", "2000-01-01", "--json") as tail:
        eventually(lambda: tail.has('"e"'), "the event to be shown", 30)
        row = json.loads(tail.lines[0])
        assert set(row) == {
            "event_id",
            "name",
            "action",
            "resource_name",
            "uri",
            "user_id",
            "at",
            "changes",
        }


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["text", "json"])
def test_status_is_watched_until_ctrl_c(site: Site, options: list[str]) -> None:
    """It is shown again and again; with ``--json`` one object a line."""
    with following(site, "status", "--watch", *options) as status:
        eventually(lambda: status.has("ops"), "the status to be shown", 30)
        site.run("pause", "ops")
        changed = '"paused": true' if options else "paused"
        eventually(lambda: status.has(changed), "the next look", 30)
        if options:
            assert all(
                set(json.loads(line)) == {"lanes", "outbox", "queue", "workers"}
                for line in status.lines
            )
        assert status.interrupt() == ""


def test_whoever_stops_reading_is_not_complained_to(site: Site) -> None:
    """``tail | head -1`` ends without a word."""
    site.publish(id="one")
    site.publish(id="two")
    with site.start("tail", "--events", "--since", "2000-01-01") as tail:
        assert tail.stdout is not None
        assert tail.stderr is not None
        try:
            assert "one" in tail.stdout.readline()
            tail.stdout.close()
            site.publish(id="three")
            assert tail.stderr.read() == ""
            tail.wait(10)
        finally:
            tail.kill()
