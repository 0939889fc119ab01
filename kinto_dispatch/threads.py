"""A bounded pool of daemon threads for hooks that are plain functions.

``concurrent.futures`` joins its threads when the interpreter exits, so one hook that never
returns would keep the process alive for ever; daemon threads are left behind instead.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


IDLE_SECONDS = 30.0


class PoolExhausted(RuntimeError):
    """Raised when every thread is busy: none is free and no more may be started."""

    def __init__(self, name: str, bound: int) -> None:
        super().__init__(f"all {bound} threads of channel {name!r} are still busy")


class ThreadPool:
    """Runs calls in at most ``bound`` threads. A call waits for a thread only where asked to.

    A call that hangs keeps its thread, and counts against the bound, until it returns.
    """

    def __init__(self, name: str, bound: int) -> None:
        self.name = name
        self.bound = bound
        self._work: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._busy = 0

    @property
    def busy(self) -> int:
        """How many calls are running, about to, or in line."""
        return self._busy

    def submit(self, call: Callable[[], Any]) -> Future[Any]:
        """Start ``call`` in a thread. Raises ``PoolExhausted`` instead of queueing it."""
        with self._lock:
            if self._busy >= self.bound:
                raise PoolExhausted(self.name, self.bound)
            if self._threads <= self._busy:
                # Before anything is counted, since it may fail.
                self._start_thread()
                self._threads += 1
            self._busy += 1
        return self._put(call)

    def enqueue(self, call: Callable[[], Any]) -> Future[Any]:
        """Start ``call`` in a thread, or in the next one that comes free, in the order of the
        calls; one that has not begun can be cancelled. Raises ``PoolExhausted`` where the system
        has no thread at all."""
        with self._lock:
            if self._threads <= self._busy and self._threads < self.bound:
                try:
                    self._start_thread()
                    self._threads += 1
                except PoolExhausted:
                    if self._threads == 0:
                        raise
            self._busy += 1
        return self._put(call)

    def _put(self, call: Callable[[], Any]) -> Future[Any]:
        future: Future[Any] = Future()
        self._work.put((future, call))
        return future

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._run, name=f"dispatch-{self.name}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # the system has none left
            raise PoolExhausted(self.name, self._threads) from error

    def _run(self) -> None:
        while (item := self._next()) is not None:
            future, call = item
            is_wanted = future.set_running_or_notify_cancel()
            result, error = _outcome(call) if is_wanted else (None, None)
            with self._lock:
                self._busy -= 1
            # After that, since whoever waits for it may have the next call ready.
            if error is not None:
                future.set_exception(error)
            elif is_wanted:
                future.set_result(result)

    def _next(self) -> tuple[Future[Any], Callable[[], Any]] | None:
        with contextlib.suppress(queue.Empty):
            return self._work.get(timeout=IDLE_SECONDS)
        with self._lock:
            # Work may have come between the time-out and the lock; then this thread is needed.
            if self._threads <= self._busy:
                return self._work.get()
            self._threads -= 1
        return None


def _outcome(call: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    try:
        return call(), None
    except StopIteration as error:
        # No future of asyncio takes one: whoever waits would wait for ever.
        return None, RuntimeError(f"StopIteration: {error}")
    except BaseException as error:  # SystemExit in a hook must not end the thread silently
        return None, error
