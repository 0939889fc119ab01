"""Attempts under way, and their ends, whatever their hooks do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from kinto_dispatch.attempt.verdict import Broken


GIVE_UP_SECONDS = 1.0
"""How long a hook that was cancelled at its deadline may take to end before it is left behind."""

CANCELLED = Broken("the hook was cancelled from within")


class Run:
    """A hook that runs, and who waits for what it returns.

    ``tell`` is called once, with the result and the seconds it took: by the first ``end``. It is
    not called any more once the run was cancelled.
    """

    __slots__ = ("_is_late", "_loop", "_seconds", "_tell", "deadline", "task")

    def __init__(self, seconds: float, tell: Callable[[Any, float], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._seconds = seconds
        self._tell: Callable[[Any, float], None] | None = tell
        self._is_late = False
        self.deadline = self._loop.time() + seconds
        self.task: asyncio.Task[None] | None = None
        """Runs the hook, if it is a coroutine."""

    def end(self, result: Any) -> None:
        """The hook has ended, with this result."""
        if self._tell is None:
            return
        # A hook that ends because it was cancelled may well end with None.
        if self._is_late and (result is None or result is CANCELLED):
            result = self._late()
        tell, self._tell = self._tell, None
        tell(result, self._loop.time() - self.deadline + self._seconds)

    def expire(self) -> None:
        """The deadline has passed: cancel the hook, and if it does not end, leave it behind."""
        self._is_late = True
        if self.task is None:
            self.end(self._late())
        else:
            self.task.cancel()
            and_so = self._late(", and the hook did not end when it was cancelled")
            self._loop.call_later(GIVE_UP_SECONDS, self.end, and_so)

    def cancel(self) -> None:
        """Cancel the hook and tell nobody. Does nothing if the attempt is over."""
        if self._tell is not None:
            self._tell = None
            if self.task is not None:
                self.task.cancel()

    def _late(self, more: str = "") -> Broken:
        return Broken(f"no answer within {self._seconds:g} s (timeout_seconds){more}")


class UnderWay:
    """The runs of one channel. All have as long a time, so whatever began first is late first, and
    one timer does for all of them."""

    def __init__(self) -> None:
        self._runs: dict[Run, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, run: Run) -> None:
        """Let it expire at its deadline, unless it is discarded before."""
        self._runs[run] = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_at(run.deadline, self._sweep)

    def discard(self, run: Run) -> None:
        """It has ended."""
        self._runs.pop(run, None)

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        try:
            # What expires may make room for the next one, which comes in here through ``add``.
            while (run := next(iter(self._runs), None)) and run.deadline <= now:
                del self._runs[run]
                run.expire()
        finally:
            first = next(iter(self._runs), None)
            self._timer = loop.call_at(first.deadline, self._sweep) if first else None
