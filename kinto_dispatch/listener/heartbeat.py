"""Whether notifications work, as Kinto's ``/__heartbeat__`` asks: one word, the reasons logged."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import wait
from typing import Any

from kinto_dispatch.errors import DispatchError, QueueUnavailable
from kinto_dispatch.listener.direct import DirectAppender
from kinto_dispatch.plugins import Channel
from kinto_dispatch.queue.protocol import Log
from kinto_dispatch.threads import PoolExhausted, ThreadPool


logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 2.0
"""How long a queue may be away before that counts: an embedded one may be just starting."""

DEADLINE_SECONDS = 4.0
"""Below Kinto's 10 seconds, so that it is we who say what hangs."""

RETRY_SECONDS = 0.1
THREADS = 2


class Heartbeat:
    """Called by Kinto with a request: true if everything that is configured can work.

    False when a channel has failed, when the queue of async channels cannot be used, is full, or
    drops what is queued when it is, when events wait for a worker and none was ever seen, and
    when events were lost and none was appended since. Blocks at most
    ``DEADLINE_SECONDS``. Reasons are logged when they change.
    """

    def __init__(
        self,
        channels: Sequence[Channel],
        log: Log | None,
        direct: DirectAppender | None,
        count_outbox: Callable[[], int] | None,
    ) -> None:
        """``log`` if there are async channels; ``count_outbox`` tells how many rows wait there,
        and raises ``OutboxUnavailable``."""
        self._channels = channels
        self._log = log
        self._direct = direct
        self._count_outbox = count_outbox
        self._threads = ThreadPool("heartbeat", THREADS)
        self._said: list[str] = []

    def __call__(self, request: Any) -> bool:
        problems = [*self._own_problems(), *self._bounded_queue_problems()]
        self._say(problems)
        return not problems

    def _own_problems(self) -> Iterator[str]:
        for channel in self._channels:
            if channel.status == "failed":
                yield f"channel {channel.name!r} has failed: {channel.reason}"
        if self._direct is not None and self._direct.is_losing:
            yield f"{self._direct.dropped} events were lost, and none was appended since"

    def _bounded_queue_problems(self) -> list[str]:
        if self._log is None:
            return []
        log = self._log
        hangs = [f"the queue does not answer within {DEADLINE_SECONDS:g} s"]
        try:
            call = self._threads.submit(lambda: list(self._queue_problems(log)))
        except PoolExhausted:
            return hangs
        wait([call], DEADLINE_SECONDS)
        return call.result() if call.done() else hangs

    def _queue_problems(self, log: Log) -> Iterator[str]:
        try:
            lanes, worker_was_seen = self._summary(log)
            yield from self._memory_problems(log)
            if worker_was_seen:
                return
            # Before a worker moves it to a lane, an event waits in the log, without being counted.
            waits = any(lane.waiting or lane.oldest_waiting_seconds is not None for lane in lanes)
            if waits or (self._count_outbox is not None and self._count_outbox()):
                yield "events wait, and no worker was ever seen: run kinto-dispatch worker"
        except DispatchError as error:  # unavailable, or a queue that rejects what we ask
            yield str(error)

    def _memory_problems(self, log: Log) -> Iterator[str]:
        # A server may forbid INFO, and then this is not known.
        with contextlib.suppress(DispatchError):
            health = log.health()
            if health.is_full:
                yield (
                    f"the queue server is full ({health.max_memory_bytes:,} bytes of maxmemory), "
                    "so events wait or are lost: raise maxmemory"
                )
            if health.may_evict:
                yield (
                    "the queue server drops what is queued when its memory is full, without a "
                    "word: set maxmemory-policy noeviction"
                )

    def _summary(self, log: Log) -> Any:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return log.summary()
            except QueueUnavailable:
                if time.monotonic() > deadline:
                    raise
            time.sleep(RETRY_SECONDS)

    def _say(self, problems: list[str]) -> None:
        if problems == self._said:
            return
        self._said = problems
        if problems:
            logger.warning("The heartbeat is red: %s", "; ".join(problems))
        else:
            logger.info("The heartbeat is green again")
