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

from kinto_dispatch.forks import in_forks


IDLE_SECONDS = 30.0


class PoolExhausted(RuntimeError):
    """Raised when no thread is free and no more may be, or can be, started. ``threads`` is how
    many there are."""

    def __init__(self, name: str, threads: int) -> None:
        self.threads = threads
        busy = f"all {threads} threads of channel {name!r} are still busy"
        super().__init__(busy if threads else f"the system has no thread for channel {name!r}")


class ThreadPool:
    """Runs calls in at most ``bound`` threads. A call waits for a thread only where asked to.

    A call that hangs keeps its thread, and counts against the bound, until it returns. A fork
    begins without threads and calls: those of its parent are not in it.
    """

    def __init__(self, name: str, bound: int) -> None:
        self.name = name
        self.bound = bound
        self._begin()
        in_forks(self, ThreadPool._begin)

    def _begin(self) -> None:
        self._work: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._busy = 0
        self._running = 0
        self._given_up: set[Future[Any]] = set()

    @property
    def busy(self) -> int:
        """How many calls are running, about to, or in line."""
        return self._busy

    @property
    def under_way(self) -> tuple[int, int]:
        """How many calls are running, and how many of these were given up."""
        running = self._running
        return running, min(running, len(self._given_up))

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
        calls. Raises ``PoolExhausted`` where no thread can be hoped for: the system has none, or
        each is held by a call that was given up."""
        with self._lock:
            if self._threads <= self._busy:
                self._grow()
            self._busy += 1
        return self._put(call)

    def _grow(self) -> None:
        """Start one more thread, unless there are some to wait for."""
        hopeless = self._threads <= len(self._given_up)
        if self._threads >= self.bound:
            if hopeless:
                raise PoolExhausted(self.name, self._threads)
            return
        try:
            self._start_thread()
        except PoolExhausted:
            if hopeless:
                raise
        else:
            self._threads += 1

    def give_up(self, call: Future[Any]) -> bool:
        """Nobody waits for this call any more. Whether it had begun; if not, it never runs."""
        if call.cancel():
            return False
        self._given_up.add(call)
        # At once, if it came to its end meanwhile.
        call.add_done_callback(self._given_up.discard)
        return True

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
            with self._lock:
                self._running += 1
            result, error = _outcome(call) if is_wanted else (None, None)
            with self._lock:
                self._running -= 1
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
