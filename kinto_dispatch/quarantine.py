"""Where deliveries run alone that a dead worker held: in a child process, one at a time.

Whether a delivery kills the process that runs it cannot be told from how often it was delivered:
one that does brings down all that were in flight with it. So what a dead worker held runs next
in a child process of its own, and only a death there is a strike against it. Two strikes make a
dead letter of kind ``poison``; the innocent ones are simply delivered.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import signal
from collections.abc import Mapping
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from kinto_dispatch.attempt import Attempter
from kinto_dispatch.plugins import configure
from kinto_dispatch.queue.protocol import Claim, Settlement


logger = logging.getLogger(__name__)

CHILDREN = 2
START_SECONDS = 30.0
"""Allowance for a child to start and load the plugins, on top of the channel's deadline."""


class Died(Exception):
    """Raised when the child process died while it ran a delivery alone."""

    def __init__(self, claim: Claim, exitcode: int | None) -> None:
        self.exitcode = exitcode
        super().__init__(f"the process that ran {claim.key} alone died (exit code {exitcode})")


class Quarantine:
    """Runs suspects, at most ``CHILDREN`` at a time, each alone in its process."""

    def __init__(self, source: Mapping[str, Any]) -> None:
        self._source = source
        self._places = asyncio.Semaphore(CHILDREN)
        self._idle: list[Child] = []

    async def attempt(self, claim: Claim, timeout_seconds: float) -> Settlement:
        """As ``Attempter.attempt``. Raises ``Died`` if the child died, ``TimeoutError`` if it did
        not answer even after its own deadline had passed; it is killed then."""
        async with self._places:
            child = self._idle.pop() if self._idle else Child(self._source)
            try:
                settlement = await child.attempt(claim, timeout_seconds + START_SECONDS)
            except BaseException:
                child.kill()
                raise
            self._idle.append(child)
            return settlement

    def close(self) -> None:
        """End the children that are idle; those at work end with their attempt."""
        while self._idle:
            self._idle.pop().kill()


class Child:
    """One child process, started fresh: it shares nothing with the worker but a pipe."""

    def __init__(self, source: Mapping[str, Any]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, far_end = context.Pipe()
        self._process: BaseProcess = context.Process(
            target=serve, args=(far_end, dict(source)), daemon=True, name="dispatch-quarantine"
        )
        self._process.start()
        far_end.close()

    async def attempt(self, claim: Claim, timeout_seconds: float) -> Settlement:
        self._pipe.send(claim)
        async with asyncio.timeout(timeout_seconds):
            await self._readable()
        try:
            settlement: Settlement = self._pipe.recv()
        except (EOFError, OSError):
            await asyncio.to_thread(self._process.join, 5.0)
            raise Died(claim, self._process.exitcode) from None
        return settlement

    async def _readable(self) -> None:
        """Wait until the child answered or its end of the pipe is closed."""
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_reader(self._pipe.fileno(), ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_reader(self._pipe.fileno())

    def kill(self) -> None:
        with contextlib.suppress(Exception):
            self._process.kill()
            self._process.join(5.0)
            self._pipe.close()


def serve(pipe: Connection, source: Mapping[str, Any]) -> None:
    """The child: attempt what comes through the pipe until the worker closes it or is gone."""
    # Ctrl-C and systemd signal the whole group; dying of that would be a strike. The worker ends
    # its children by closing the pipe.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    channels = {channel.name: channel for channel in configure(source).channels}
    attempters: dict[str, Attempter] = {}
    with asyncio.Runner() as runner, contextlib.suppress(EOFError):
        while True:
            claim: Claim = pipe.recv()
            if claim.lane not in attempters:
                attempters[claim.lane] = Attempter(channels[claim.lane])
            pipe.send(runner.run(attempters[claim.lane].attempt(claim)))
