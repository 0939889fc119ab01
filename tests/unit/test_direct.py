"""What the log does not take is given up in time, within bounds, and never in silence."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from kinto_dispatch.capture import Captured
from kinto_dispatch.errors import QueueUnavailable
from kinto_dispatch.listener import direct
from kinto_dispatch.listener.direct import DirectAppender
from kinto_dispatch.queue import open_log
from kinto_dispatch.queue.protocol import Log
from kinto_dispatch.settings import DispatchSettings
from kinto_dispatch.testing.waiting import eventually


def log_of(url: str) -> Log:
    settings = DispatchSettings(channels=(), queue_url=SecretStr(url), queue_dir=Path("unused"))
    return open_log(settings, ("ops",))


def appender(url: str) -> DirectAppender:
    return DirectAppender(log_of(url))


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


class Faulty:
    """A log that refuses what it is told to, and may keep an append waiting before that."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.taken: list[str] = []
        self.refused: dict[str, Exception] = {}
        self.tried: list[str] = []
        self.gates: dict[str, threading.Event] = {}

    def append(self, events: Sequence[tuple[str, bytes]]) -> None:
        """As ``Log.append``."""
        names = [name for name, _ in events]
        self.tried += names
        for name in names:
            if name in self.gates:
                self.gates[name].wait(30)
            if name in self.refused:
                raise self.refused[name]
        self._log.append(events)
        self.taken += names

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)


@pytest.fixture
def faulty(queue_url: str) -> Faulty:
    """On a real queue."""
    return Faulty(log_of(queue_url))


def test_what_failed_keeps_its_place(faulty: Faulty) -> None:
    """Events that came while an append was tried come after those of that append, although it
    failed at first."""
    ordered = DirectAppender(faulty)
    ordered.append([event("warm")])
    faulty.gates["first"] = threading.Event()
    faulty.refused["first"] = QueueUnavailable("unix://", "a moment's pause")
    first = threading.Thread(target=ordered.append, args=([event("first")],))
    first.start()
    eventually(lambda: "first" in faulty.tried, "the first to be tried")
    ordered.append([event("second")])
    faulty.gates["first"].set()
    eventually(lambda: faulty.tried.count("first") > 1, "the first to be tried again")
    faulty.refused.clear()
    first.join(30)
    eventually(lambda: ordered.appended == 3, "all to arrive")
    assert faulty.taken == ["warm", "first", "second"]


def test_only_what_is_too_old_is_given_up(
    away: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where it stands behind what is younger, as threads may come in any order."""
    lost = appender(away)
    monkeypatch.setattr(direct, "KEEP_SECONDS", 60)
    lost.append([event("younger")])
    monkeypatch.setattr(direct, "KEEP_SECONDS", 0.2)
    lost.append([event("older")])
    eventually(lambda: lost.dropped == 1, "one to be given up")
    lost.drop_all()
    ids = [line.event_ids for line in caplog.records if line.levelno == logging.ERROR]
    assert ids == [["older"], ["younger"]]


def test_an_event_that_breaks_the_append_harms_no_other(
    faulty: Faulty, caplog: pytest.LogCaptureFixture
) -> None:
    """It is lost alone, nobody waits for it or calls the queue absent, and the account is even
    again with the next event."""
    broken = DirectAppender(faulty)
    broken.append([event("warm")])
    faulty.refused["bad"] = ValueError("no bytes")
    broken.append([event("bad")])
    assert (broken.appended, broken.dropped) == (1, 1)
    assert broken.is_losing
    broken.append([event("good")])
    assert not broken.is_losing
    assert "The queue does not take events" not in caplog.text


def test_what_waits_with_a_bad_event_is_not_lost_with_it(faulty: Faulty) -> None:
    """Many go in one append; if that breaks, each has one of its own."""
    busy = DirectAppender(faulty)
    faulty.gates["warm"] = threading.Event()
    faulty.refused["bad"] = ValueError("no bytes")
    names = ("warm", "one", "bad", "two")
    requests = [threading.Thread(target=busy.append, args=([event(name)],)) for name in names]
    for number, request in enumerate(requests):
        request.start()
        eventually(partial(_has_waiting, busy, number + 1), "the event to wait")
    faulty.gates["warm"].set()
    for request in requests:
        request.join(30)
    eventually(lambda: busy.appended == 3, "the good ones to arrive")
    assert faulty.taken == ["warm", "one", "two"]
    assert busy.dropped == 1


def _has_waiting(busy: DirectAppender, count: int) -> bool:
    return len(busy._waiting) == count


FORKS = """
import os, sys, threading
sys.path.insert(0, sys.argv[2])
from test_direct import Faulty, event, log_of
from kinto_dispatch.listener.direct import DirectAppender
from kinto_dispatch.testing.waiting import eventually
log = Faulty(log_of(sys.argv[1]))
parent, gate = DirectAppender(log), threading.Event()
parent.append([event("warm")])
log.gates["slow"] = gate
slow = threading.Thread(target=parent.append, args=([event("slow")],))
slow.start()
eventually(lambda: "slow" in log.tried, "the append to begin")
parent.append([event("behind")])
child = os.fork()
if child == 0:
    try:
        parent.append([event("of the fork")])
        parent.append([event("more")])
        told = log.taken[-2:] == ["of the fork", "more"] and "behind" not in log.taken
        os._exit(0 if told and (parent.appended, parent.dropped) == (2, 0) else 1)
    finally:
        os._exit(2)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
gate.set()
slow.join(30)
eventually(lambda: parent.appended == 3, "all of the parent to arrive")
raise SystemExit(status)
"""


def test_a_fork_keeps_its_own_account(queue_url: str) -> None:
    """What the parent holds is the parent's to announce, and no lock of it is left locked."""
    script = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKS, queue_url]
    done = subprocess.run([*script, str(Path(__file__).parent)], timeout=60, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


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
