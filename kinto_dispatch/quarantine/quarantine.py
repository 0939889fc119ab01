"""The worker's side of the quarantine: what it hands to the keeper, and what comes back."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from multiprocessing import Pipe
from typing import Any

from kinto_dispatch.quarantine.messages import Attempt, Ended, Failed, Ready, Settled, Start, Stop
from kinto_dispatch.queue.values import Claim, Settlement


logger = logging.getLogger(__name__)

AT_ONCE = 16
"""How many suspects of a lane run at a time. Enough for those of a worker with slow deliveries to
be through soon; each is a process that shares its memory until it writes to it."""

START_SECONDS = 30.0
"""How long the keeper may take to start and load the plugins."""

GRACE_SECONDS = 3.0
"""How much longer than its deadline an attempt may take before its process is killed."""

ANSWER_SECONDS = 30.0
"""How much longer than that the keeper may take to say so. It says nothing where it cannot get rid
of a process: one that hangs in the kernel cannot even be killed."""

IDLE_SECONDS = 30.0


class Died(Exception):
    """Raised when the process died that ran a delivery alone."""

    def __init__(self, claim: Claim, how: str) -> None:
        self.how = how
        super().__init__(f"the process that ran {claim.key} alone died ({how})")


class Unfinished(Exception):
    """Raised when an attempt alone came to no outcome, and nothing speaks for a death."""

    def __init__(self, reason: str, took_seconds: float = 0.0) -> None:
        self.took_seconds = took_seconds
        super().__init__(reason)


class Postponed(Exception):
    """Raised when an attempt alone has not begun."""


class Quarantine:
    """Runs suspects, at most ``AT_ONCE`` of a lane at a time, each alone in its process.

    ``source`` is what the configuration was made from. The keeper is started with the first
    suspect and ends when there were none for ``IDLE_SECONDS``.
    """

    def __init__(self, source: Mapping[str, Any], grace_seconds: float = GRACE_SECONDS) -> None:
        self._source = source
        self._grace_seconds = grace_seconds
        # For each lane its own: one whose suspects hang holds up no other's.
        self._places: dict[str, asyncio.Semaphore] = defaultdict(_places)
        self._starting = asyncio.Lock()
        self._keeper: KeeperProcess | None = None
        self._under_way = 0
        self._idle: asyncio.TimerHandle | None = None

    async def attempt(
        self, claim: Claim, timeout_seconds: float, may_begin: Callable[[], bool] = lambda: True
    ) -> Settlement:
        """As ``Attempter.attempt``. Raises ``Died`` if the process died, ``Unfinished`` if it had
        to be killed after its deadline or could not be started, and ``Postponed`` if it may not
        begin by the time that there is a place for it."""
        async with self._places[claim.lane]:
            self._under_way += 1
            self._stay()
            started = time.monotonic()
            try:
                keeper = await self._running_keeper()
                if not may_begin():
                    raise Postponed
                started = time.monotonic()
                end = await keeper.attempt(claim, timeout_seconds + self._grace_seconds)
            except KeeperGone as gone:
                reason = f"it could not be run alone: {gone}"
                raise Unfinished(reason, time.monotonic() - started) from gone
            finally:
                self._under_way -= 1
                self._close_when_idle()
        if isinstance(end, Settled):
            return Settlement(claim, end.fate, end.record)
        if isinstance(end, Failed):
            raise Unfinished(f"it could not be run alone: {end.reason}")
        if end.was_killed:
            late = f"no answer within {timeout_seconds:g} s (timeout_seconds)"
            reason = f"{late}, and its process had to be killed"
            raise Unfinished(reason, time.monotonic() - started)
        raise Died(claim, str(end))

    def close(self) -> None:
        """End the keeper and everything that it still runs."""
        self._stay()
        if self._keeper is not None:
            self._keeper.close()
            self._keeper = None

    async def _running_keeper(self) -> KeeperProcess:
        async with self._starting:
            if self._keeper is None or self._keeper.is_gone:
                self.close()
                try:
                    self._keeper = KeeperProcess()
                except OSError as error:
                    # No process, no file descriptor, no memory: that may pass.
                    raise KeeperGone(f"its process could not start: {error}") from error
                await self._keeper.start(self._source)
            return self._keeper

    def _stay(self) -> None:
        if self._idle is not None:
            self._idle.cancel()

    def _close_when_idle(self) -> None:
        if not self._under_way:
            self._idle = asyncio.get_running_loop().call_later(IDLE_SECONDS, self.close)


def _places() -> asyncio.Semaphore:
    return asyncio.Semaphore(AT_ONCE)


def _keep(descriptor: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "kinto_dispatch.quarantine.keeper", str(descriptor)],
        stdin=subprocess.DEVNULL,
        pass_fds=[descriptor],
        # What a terminal or a shell sends to the whole group is for the worker.
        start_new_session=True,
    )


class KeeperGone(Exception):
    """Raised when the keeper did not start, or ended on its own."""


class KeeperProcess:
    """The process that loads the plugins once and forks for each suspect. See ``keeper.py``."""

    def __init__(self) -> None:
        self.is_gone = False
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._loop = asyncio.get_running_loop()
        self._pipe, far_end = Pipe()
        try:
            with far_end:
                self._process = _keep(far_end.fileno())
        except OSError:
            self._pipe.close()
            raise
        self._loop.add_reader(self._pipe.fileno(), self._on_message)

    async def start(self, source: Mapping[str, Any]) -> None:
        """Return when it is ready. Raises ``KeeperGone``."""
        ready = self._expect(next(self._numbers))
        self._send(Start(sys.path, logging.getLogger().getEffectiveLevel(), dict(source)))
        try:
            async with asyncio.timeout(START_SECONDS):
                await ready
        except TimeoutError:
            self.close()
            raise KeeperGone(f"its process was not ready within {START_SECONDS:g} s") from None

    async def attempt(self, claim: Claim, seconds: float) -> Settled | Ended | Failed:
        """How it ended. Raises ``KeeperGone``."""
        if self.is_gone:
            raise KeeperGone("its process ended")
        number = next(self._numbers)
        end = self._expect(number)
        self._send(Attempt(number, claim, seconds))
        try:
            async with asyncio.timeout(seconds + ANSWER_SECONDS):
                answer: Settled | Ended | Failed = await end
        except TimeoutError:
            self.close()
            raise KeeperGone("it cannot get rid of a process, and was ended itself") from None
        except asyncio.CancelledError:
            self._send(Stop(number))
            raise
        finally:
            self._waiting.pop(number, None)
        return answer

    def close(self) -> None:
        """Hang up, which ends it; whoever still waits gets ``KeeperGone``."""
        if self.is_gone:
            return
        self.is_gone = True
        self._loop.remove_reader(self._pipe.fileno())
        self._pipe.close()
        try:
            self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            # It hangs where it loads a plugin, or waits for what cannot be killed.
            self._process.kill()
            self._process.wait()
        for end in self._waiting.values():
            if not end.done():
                end.set_exception(KeeperGone(f"its process ended ({self._process.returncode})"))

    def _expect(self, number: int) -> asyncio.Future[Any]:
        return self._waiting.setdefault(number, self._loop.create_future())

    def _send(self, message: object) -> None:
        # Blocks for no longer than the copying takes: the keeper always listens.
        with contextlib.suppress(OSError):
            self._pipe.send(message)

    def _on_message(self) -> None:
        try:
            message = self._pipe.recv()
        except (EOFError, OSError):
            logger.warning("The process that runs suspects alone ended by itself")
            self.close()
            return
        number = 0 if isinstance(message, Ready) else message.number
        end = self._waiting.get(number)
        if end is not None and not end.done():
            end.set_result(message)
