"""Ends the process when its event loop stands still, since nothing else in it can go on then.

A hook that is ``async def`` and blocks (a busy loop, a blocking call) stops every channel of its
worker. There is no way to interrupt it; whoever supervises the process starts it again, and what
it held is run alone. Time during which the whole process stood still (SIGSTOP, a sleeping machine)
does not count.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
import threading


EXIT_CODE = 70
"""``EX_SOFTWARE`` of sysexits.h."""

STDERR = 2
SAY_SECONDS = 5


class Watchdog:
    """Looks, from a thread, whether the running event loop still turns.

    If it does not for ``limit_seconds``, the stacks of all threads go to standard error and the
    process ends with ``EXIT_CODE``. Code that blocks the interpreter as well (a regular expression
    without end) is ended by the kernel with SIGPROF, once it used twice as many seconds of CPU.
    """

    def __init__(self, limit_seconds: float, interval_seconds: float = 1.0) -> None:
        self._limit_seconds = limit_seconds
        self._interval_seconds = interval_seconds
        self._turns = 0
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Watch the running loop from now on, until the process ends."""
        self._loop = asyncio.get_running_loop()
        faulthandler.register(signal.SIGPROF, file=STDERR, all_threads=True, chain=True)
        self._turn()
        threading.Thread(target=self._watch, name="dispatch-watchdog", daemon=True).start()

    def _turn(self) -> None:
        assert self._loop is not None
        self._turns += 1
        signal.setitimer(signal.ITIMER_PROF, 2 * self._limit_seconds)
        self._loop.call_later(self._interval_seconds, self._turn)

    def _watch(self) -> None:
        seen, looks = 0, 0
        pause = threading.Event()
        # Looks are counted, not seconds: they stand still together with the process.
        while looks * self._interval_seconds < self._limit_seconds:
            pause.wait(self._interval_seconds)
            looks = looks + 1 if self._turns == seen else 0
            seen = self._turns
        # Where nobody reads standard error any more, writing there waits for ever, some of it with
        # the lock of the interpreter; the kernel does not wait for that.
        signal.alarm(SAY_SECONDS)
        # Not through logging, whose lock the blocked thread may hold.
        line = (
            f"worker.blocked: the event loop has stood still for {self._limit_seconds:g} s; a hook"
            f" that is async def blocks. The worker ends with exit code {EXIT_CODE}.\n"
        )
        os.write(STDERR, line.encode())
        faulthandler.dump_traceback(STDERR, all_threads=True)
        os._exit(EXIT_CODE)
