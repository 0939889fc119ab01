"""A process whose event loop stands still ends, and says where it stood."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest


SCRIPT = """
import asyncio, os, re, sys, time
from kinto_dispatch.watchdog import Watchdog

def spin_here():
    while True:
        pass

def sleep_here():
    time.sleep(60)

def match_here():
    re.match("(a+)+$", "a" * 64 + "b")

def go_on_here():
    pass

def sleep_unread():
    os.set_blocking(2, False)
    for size in (65536, 1):
        try:
            while True:
                os.write(2, b"x" * size)
        except BlockingIOError:
            pass
    os.set_blocking(2, True)
    time.sleep(60)

async def main():
    Watchdog(0.6, interval_seconds=0.1).start()
    await asyncio.sleep(0.05)
    print("watched", flush=True)
    globals()[sys.argv[1]]()
    for _ in range(int(sys.argv[2])):
        await asyncio.sleep(0.1)

asyncio.run(main())
"""


@pytest.fixture
def watched(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """A process that is watched; what it does is the parameter."""
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *request.param],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "watched\n"
        yield process
        process.kill()


@pytest.mark.parametrize("watched", [("spin_here", "0"), ("sleep_here", "0")], indirect=True)
def test_a_blocked_loop_ends_the_process(watched: subprocess.Popen[str]) -> None:
    """With code 70, and the place where it stands on standard error."""
    started = time.monotonic()
    _, said = watched.communicate(timeout=30)
    assert watched.returncode == 70
    assert time.monotonic() - started < 10
    assert "worker.blocked: the event loop has stood still for 0.6 s" in said
    assert "_here" in said


@pytest.mark.parametrize("watched", [("sleep_unread", "0")], indirect=True)
def test_where_nobody_reads_what_is_said_the_process_ends_all_the_same(
    watched: subprocess.Popen[str],
) -> None:
    """Standard error is a pipe that is full."""
    assert watched.wait(timeout=30) == -signal.SIGALRM


@pytest.mark.parametrize("watched", [("match_here", "0")], indirect=True)
def test_a_blocked_interpreter_ends_as_well(watched: subprocess.Popen[str]) -> None:
    """The thread that looks cannot run then; the kernel counts what is used of the processor."""
    _, said = watched.communicate(timeout=60)
    assert watched.returncode == -signal.SIGPROF
    assert "match_here" in said


@pytest.mark.parametrize("watched", [("go_on_here", "15")], indirect=True)
def test_a_loop_that_turns_is_left_alone(watched: subprocess.Popen[str]) -> None:
    """For as long as it likes."""
    _, said = watched.communicate(timeout=30)
    assert (watched.returncode, said) == (0, "")


@pytest.mark.parametrize("watched", [("go_on_here", "12")], indirect=True)
def test_a_process_that_was_stopped_is_not_blocked(watched: subprocess.Popen[str]) -> None:
    """However long it stood still, it goes on where it was."""
    watched.send_signal(signal.SIGSTOP)
    time.sleep(1.5)  # what is shown is that this time does not count
    watched.send_signal(signal.SIGCONT)
    _, said = watched.communicate(timeout=30)
    assert (watched.returncode, said) == (0, "")
