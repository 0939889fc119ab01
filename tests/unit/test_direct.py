"""What the log does not take is given up in time, within bounds, and never in silence."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from pydantic import SecretStr

from kinto_dispatch.capture import Captured
from kinto_dispatch.listener import direct
from kinto_dispatch.listener.direct import DirectAppender
from kinto_dispatch.queue import open_log
from kinto_dispatch.settings import DispatchSettings
from kinto_dispatch.testing.waiting import eventually


def appender(url: str) -> DirectAppender:
    settings = DispatchSettings(channels=(), queue_url=SecretStr(url), queue_dir=Path("unused"))
    return DirectAppender(open_log(settings, ("ops",)))


def event(name: str, size: int = 2) -> Captured:
    return Captured(name, b"x" * size)


@pytest.fixture
def away(tmp_path: Path) -> str:
    """The URL of a queue that is not there."""
    return f"unix://{tmp_path}/nobody.sock"


def test_events_are_given_up_one_by_one_at_their_time(
    away: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each has the same time, from its own commit on."""
    monkeypatch.setattr(direct, "KEEP_SECONDS", 0.5)
    lost = appender(away)
    lost.append([event("first")])
    eventually(lambda: lost.dropped == 1, "the first to be given up")
    lost.append([event("second"), event("third")])
    eventually(lambda: lost.dropped == 3, "the others to be given up")
    assert lost.is_losing
    ids = [line.event_ids for line in caplog.records if line.levelno == logging.ERROR]
    assert ids == [["first"], ["second", "third"]]


def test_memory_is_bounded(
    away: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Beyond a bound, what comes is given up at once; a single event always has its chance."""
    monkeypatch.setattr(direct, "KEEP_BYTES", 1000)
    full = appender(away)
    full.append([event("large", 5000)])
    full.append([event("next")])
    assert full.dropped == 1
    assert "5,000 bytes wait for the queue already" in caplog.text
    full.drop_all()
    assert full.dropped == 2


def test_events_of_many_threads_all_arrive_once(queue_url: str) -> None:
    """Requests of a busy process share one connection, and each waits for its own events."""
    busy = appender(queue_url)
    threads = [
        threading.Thread(target=busy.append, args=([event(f"{number}")],)) for number in range(50)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (busy.appended, busy.dropped) == (50, 0)


def test_its_thread_ends_when_idle_and_comes_back(
    queue_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is kept running for a process that has nothing to say."""
    monkeypatch.setattr(direct, "IDLE_SECONDS", 0.05)
    idle = appender(queue_url)
    for count in (1, 2):
        idle.append([event(f"{count}")])
        assert idle.appended == count
        eventually(lambda: idle._thread is None, "the thread to end")


ENDS = """
import logging, sys
from kinto_dispatch.capture import Captured
logging.basicConfig()
sys.path.insert(0, sys.argv[2])
from test_direct import appender, event
appender(sys.argv[1]).append([event("an-event")])
"""


def test_a_process_that_ends_says_what_it_takes_along(away: str) -> None:
    """It ends at once, and the log has the ids of what it never could append."""
    script = [sys.executable, "-W", "ignore", "-c", ENDS, away, str(Path(__file__).parent)]
    started = time.monotonic()
    done = subprocess.run(script, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started < 10
    assert "Lost 1 events" in done.stderr
    assert "the process ends" in done.stderr
    assert "an-event" in done.stderr
