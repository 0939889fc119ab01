"""Several worker processes under one: started, started again when one dies, stopped together."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

import msgspec

from kinto_dispatch.cli.health import HealthServer
from kinto_dispatch.vitals import Pulse, Vitals


logger = logging.getLogger(__name__)

POLL_SECONDS = 0.2
RESTART_SECONDS = 1.0
LONGEST_RESTART_SECONDS = 30.0
"""The least time between two starts of one process, doubled up to the second one each time that it
died young, so that one that cannot start never spins."""

OLD_SECONDS = 60.0
"""Who lived that long has started well."""

Spawn = Callable[..., subprocess.Popen[bytes]]
"""As ``subprocess.Popen``: raises ``OSError`` where there is no process or no memory."""

AT_ONCE = signal.SIGUSR1
"""What a process below us gets in place of a second signal. Others send the usual ones to us and
to it: systemd to all of a service, a shell to all of a job. Two of these do not mean at once."""

_ENDING = (signal.SIGTERM, signal.SIGINT, AT_ONCE)
ENDED_BY_SIGNAL = (*(-number for number in _ENDING), *(128 + number for number in _ENDING))


class Ear:
    """Hears through a pipe what one process says of itself."""

    def __init__(self) -> None:
        self.pulse = Pulse(time.monotonic())
        self._reader = -1
        self._rest = b""

    @contextlib.contextmanager
    def mouth(self) -> Iterator[int]:
        """The end of the pipe for the process, which has it from then on alone."""
        self._reader, mouth = os.pipe()
        os.set_blocking(self._reader, False)
        try:
            yield mouth
        finally:
            os.close(mouth)

    def listen(self) -> None:
        """Take in what was said since the last time; only the last of it counts."""
        with contextlib.suppress(BlockingIOError):
            while self._reader >= 0 and (said := os.read(self._reader, 65_536)):
                *lines, self._rest = (self._rest + said).split(b"\n")
                # Where there was no room for a whole line, half of it stands before the next.
                with contextlib.suppress(msgspec.DecodeError, IndexError):
                    self.pulse.hear(Vitals.decode(lines[-1]), time.monotonic())

    def close(self) -> None:
        """Give the pipe back."""
        if self._reader >= 0:
            os.close(self._reader)
            self._reader = -1


class Supervised:
    """One child process that is started again whenever it dies by itself, and tried again where it
    cannot be started: that may pass, and the others go on."""

    def __init__(self, arguments: Sequence[str], spawn: Spawn = subprocess.Popen) -> None:
        self._command = [sys.executable, "-m", "kinto_dispatch", *arguments]
        self._spawn = spawn
        self._died_young = 0
        self._started_at = time.monotonic()
        self._stuck_looks = 0
        self._was_stuck = False
        self._ear = Ear()
        self.process: subprocess.Popen[bytes] | None = None
        self.was_asked_to_stop = False
        self._start()

    @property
    def runs(self) -> bool:
        """Whether there is a process."""
        return self.process is not None and self.process.poll() is None

    @property
    def code(self) -> int:
        """With what it ended; 1 if it could not be started, or stood still."""
        code = self.process.poll() if self.process is not None else 1
        return code or int(self._was_stuck)

    def vitals(self) -> Vitals:
        """How it is, from any thread."""
        process = self.process
        if process is None:
            return Vitals(("could not be started; it is tried again",))
        code = process.poll()
        if code is None:
            return self._ear.pulse.look(time.monotonic())
        if code == 0:
            return Vitals(unready=("has ended",))
        return Vitals((f"died with exit code {code}; it is started again",))

    def listen(self) -> None:
        """Take in what it said of itself since the last time."""
        self._ear.listen()

    def pass_on(self, number: int) -> None:
        """Send it a signal, if it runs.

        The first comes with the end of its standard input: a process that is just being started
        may swallow a signal, where Python raises it in a place that ignores exceptions.
        """
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)
            self.was_asked_to_stop = True
            if self.process.stdin is not None:
                self.process.stdin.close()

    def end_if_stuck(self, ask_seconds: float, kill_seconds: float) -> None:
        """To be called at every look. One that stands still for ``ask_seconds`` is asked to stop,
        and killed if it still does for another ``kill_seconds``; then it is started again.

        The looks are counted, not the time: while the whole machine sleeps, nobody is stuck.
        """
        stuck = self.vitals().stuck if self.process is not None and self.runs else ()
        self._stuck_looks = self._stuck_looks + 1 if stuck else 0
        asks, kills = (
            self._stuck_looks == round(seconds / POLL_SECONDS)
            for seconds in (ask_seconds, ask_seconds + kill_seconds)
        )
        if self.process is not None and (asks or kills):
            what = "asking it to stop" if asks else "killing it"
            logger.error("worker.stuck pid=%d %s; %s", self.process.pid, "; ".join(stuck), what)
            self._was_stuck = True
            self.process.send_signal(signal.SIGTERM if asks else signal.SIGKILL)

    def _start(self) -> bool:
        self._stuck_looks, self._was_stuck = 0, False
        try:
            self.process = self._open()
        except OSError as error:
            self.process = None
            logger.error(
                "worker.not_started %s; the next try is in %g s. It wants a process, files or "
                "memory: free some, or raise the limit (ulimit, TasksMax=, --pids-limit)",
                error,
                restart_seconds(self._died_young),
            )
        return self.process is not None

    def _open(self) -> subprocess.Popen[bytes]:
        # The pipe is never written to: it closes when this process dies, however it dies, and
        # the child then stops by itself. It has a session of its own, since a terminal sends
        # Ctrl-C to a whole group: the child would get it twice, and twice means at once.
        self._ear.close()
        self._ear = Ear()
        with self._ear.mouth() as mouth:
            return self._spawn(
                [*self._command, "--vitals-to", str(mouth)],
                stdin=subprocess.PIPE,
                pass_fds=[mouth],
                start_new_session=True,
            )

    def revive(self) -> bool:
        """Start it again if it does not run, after a while if it died young; whether it was
        started."""
        lived = time.monotonic() - self._started_at
        if self.runs or lived < restart_seconds(self._died_young):
            return False
        if self.process is not None:
            pid, code = self.process.pid, self.process.returncode
            logger.error("worker.died pid=%d code=%d; starting it again", pid, code)
        self._died_young = 0 if lived > OLD_SECONDS else self._died_young + 1
        self._started_at = time.monotonic()
        return self._start()


def restart_seconds(died_young: int) -> float:
    """The least time between two starts of a process that died young so often in a row."""
    return min(LONGEST_RESTART_SECONDS, RESTART_SECONDS * 2.0 ** min(died_young, 10))


def supervise(
    arguments: Sequence[str],
    processes: int,
    burst: bool,
    supervised: bool = False,
    health: HealthServer | None = None,
    ask_seconds: float = 60.0,
    kill_seconds: float = 60.0,
    spawn: Spawn = subprocess.Popen,
) -> int:
    """Run ``kinto-dispatch`` with these arguments in several processes until a signal comes, or
    with ``burst`` until all have ended. Returns the worst exit code. Signals are passed on, a
    second one as ``AT_ONCE``. With ``supervised`` the end of standard input counts as a signal.
    ``health`` answers for all of them until the last has ended. For ``ask_seconds`` and
    ``kill_seconds`` see ``Supervised.end_if_stuck``.

    One that cannot be started is tried again; with ``burst`` it is not, and counts as failed."""
    asked_to_stop: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        asked_to_stop.append(number)
        for child in children:
            child.pass_on(number if len(asked_to_stop) == 1 else AT_ONCE)

    children = [Supervised(arguments, spawn) for _ in range(processes)]
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    if supervised:
        threading.Thread(target=_stop_with_standard_input, daemon=True).start()
    if health is not None:
        health.start(lambda: [child.vitals() for child in children])
    while any(child.runs for child in children) or not (asked_to_stop or burst):
        time.sleep(POLL_SECONDS)
        for child in children:
            child.listen()
            child.end_if_stuck(ask_seconds, kill_seconds)
        if not asked_to_stop and not burst:
            for child in children:
                if child.revive() and asked_to_stop:  # the signal came while it was being started
                    child.pass_on(signal.SIGTERM)
    if health is not None:
        health.stop()
    # Of one that had died before it could be asked the log has told.
    counted = [child for child in children if child.was_asked_to_stop or not asked_to_stop]
    codes = [child.code for child in counted]
    # One that was stopped while it still started had nothing to finish.
    harmless = ENDED_BY_SIGNAL if asked_to_stop else ()
    return max((0 if code in harmless else abs(code) for code in codes), default=0)


def _stop_with_standard_input() -> None:
    # Not through sys.stdin: Python aborts at its end where a thread holds the lock of that.
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
