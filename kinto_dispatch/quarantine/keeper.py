"""The process that keeps the suspects: ``python -m kinto_dispatch.quarantine.keeper FD``.

Loads the plugins once, and forks a process for each suspect, which takes milliseconds. Itself it
runs nothing of a plugin but its loading, so nothing that a suspect does can block it. Ends when
the worker is gone, and takes along what it keeps.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from typing import NoReturn

from kinto_dispatch.attempt import Attempter
from kinto_dispatch.plugins import Channel, configure
from kinto_dispatch.quarantine.messages import Attempt, Ended, Failed, Ready, Settled, Start, Stop
from kinto_dispatch.queue.values import Claim


CLOSE_SECONDS = 1.0
PR_SET_PDEATHSIG = 1
LOG_FORMAT = "%(asctime)s %(levelname)-7s %(name)s %(message)s"


@dataclass(eq=False, slots=True)
class Suspect:
    """A process that runs one attempt, and the pipe on which it says what came of it. Once it
    ``is_settled`` it only closes its channel, and how that ends is of no account."""

    number: int
    pid: int
    pipe: Connection
    deadline: float
    is_settled: bool = False

    def end(self) -> int:
        """Kill it if it still runs; its exit code. Once only: the id may be another's then."""
        self.pipe.close()
        os.kill(self.pid, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


class Keeper:
    """Runs what comes through the pipe, each in its process, until the pipe closes."""

    def __init__(self, pipe: Connection, channels: Mapping[str, Channel]) -> None:
        self._pipe = pipe
        self._channels = channels
        self._suspects: dict[int, Suspect] = {}

    def serve(self) -> None:
        """Return when the worker is gone; nothing that was kept lives on."""
        try:
            with contextlib.suppress(EOFError, OSError):
                while True:
                    self._attend()
        finally:
            for suspect in self._suspects.values():
                suspect.end()

    def _attend(self) -> None:
        pipes = {suspect.pipe: suspect for suspect in self._suspects.values()}
        deadline = min((one.deadline for one in pipes.values()), default=None)
        seconds = None if deadline is None else max(0.0, deadline - time.monotonic())
        ready = wait([self._pipe, *pipes], seconds)
        for suspect in (suspect for pipe, suspect in pipes.items() if pipe in ready):
            self._collect(suspect)
        for suspect in [*self._suspects.values()]:
            if suspect.deadline <= time.monotonic():
                self._end(suspect, was_killed=True)
        if self._pipe in ready:
            self._obey(self._pipe.recv())

    def _obey(self, order: object) -> None:
        match order:
            case Attempt(number, claim, seconds):
                try:
                    self._suspects[number] = self._fork(number, claim, seconds)
                except OSError as error:
                    # No process, no file descriptor, no memory: those that run go on.
                    self._pipe.send(Failed(number, f"no process for it: {error}"))
            case Stop(number) if number in self._suspects:
                self._suspects.pop(number).end()

    def _fork(self, number: int, claim: Claim, seconds: float) -> Suspect:
        ours, theirs = Pipe(duplex=False)
        keeper = os.getpid()
        try:
            pid = os.fork()
        except OSError:
            ours.close()
            theirs.close()
            raise
        if pid == 0:
            self._pipe.close()
            _end_with(keeper)
            attempt_and_exit(number, self._channels[claim.lane], claim, theirs)
        theirs.close()
        return Suspect(number, pid, ours, time.monotonic() + seconds)

    def _collect(self, suspect: Suspect) -> None:
        """What the process said, or that it ended without a word."""
        try:
            said = suspect.pipe.recv()
        except (EOFError, OSError):
            self._end(suspect)
            return
        self._pipe.send(said)
        suspect.is_settled = True
        suspect.deadline = time.monotonic() + CLOSE_SECONDS

    def _end(self, suspect: Suspect, *, was_killed: bool = False) -> None:
        del self._suspects[suspect.number]
        exit_code = suspect.end()
        if not suspect.is_settled:
            self._pipe.send(Ended(suspect.number, exit_code, was_killed))


def attempt_and_exit(number: int, channel: Channel, claim: Claim, pipe: Connection) -> NoReturn:
    """In the forked process: run the attempt, say its fate, end without a trace of the keeper."""
    try:
        _offer_to_the_kernel()
        runner = asyncio.Runner()
        try:
            runner.get_loop()
        except OSError as error:
            # Nothing of the plugin has run: this must not look like a death of its.
            pipe.send(Failed(number, f"no event loop for it: {error}"))
        else:
            runner.run(_attempt(number, channel, claim, pipe))
    finally:
        os._exit(1)


async def _attempt(number: int, channel: Channel, claim: Claim, pipe: Connection) -> None:
    settlement = await Attempter(channel, concurrency=1).attempt(claim)
    # Before anything else of the plugin runs, which may end this process, or hold it up.
    pipe.send(Settled(number, settlement.fate, settlement.record))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_SECONDS):
            await channel.close()


def _end_with(keeper: int) -> None:
    """Be killed when the keeper is, where the system knows that; the keeper itself cannot do it
    then."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != keeper:  # it died in between
        os._exit(1)


def _offer_to_the_kernel() -> None:
    """What eats all memory shall be killed before its worker is."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def main(descriptor: int) -> None:
    """Load, say so, and keep."""
    # Ctrl-C and systemd signal the whole group; dying of that would be a strike. The worker ends
    # this process by closing the pipe.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    pipe = Connection(descriptor)
    start = pipe.recv()
    assert isinstance(start, Start)
    sys.path[:] = start.import_path
    logging.basicConfig(level=start.log_level, stream=sys.stderr, format=LOG_FORMAT)
    channels = {channel.name: channel for channel in configure(start.source).channels}
    pipe.send(Ready())
    Keeper(pipe, channels).serve()


if __name__ == "__main__":
    main(int(sys.argv[1]))
