"""From the outbox to the log: every committed event reaches the log, whatever breaks between.

A batch of rows is locked in PostgreSQL, appended to the log together with its mark, marked as
relayed and let go of, in that order. The append is bound to the mark of the batch before: where
the log has lost its memory (a flush, a restored backup, a replica that lagged) its mark is gone or
older, the append does nothing, and what is behind the mark is fed again first.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import ParamSpec, TypeVar

from kinto_dispatch.errors import OutboxUnavailable
from kinto_dispatch.outbox.protocol import Batch, OutboxReader, is_behind
from kinto_dispatch.patience import Patience
from kinto_dispatch.queue.protocol import Queue
from kinto_dispatch.settings import DispatchSettings
from kinto_dispatch.threads import PoolExhausted, ThreadPool


logger = logging.getLogger(__name__)

BATCH_EVENTS = 500
HOT_SECONDS = 0.02
COLD_SECONDS = 1.0
MARK_CHECK_SECONDS = 5.0
PRUNE_SECONDS = 60.0
# While there is more to forget.
PRUNE_AGAIN_SECONDS = 1.0
# Longer than the server allows a statement to run; after it the connection is given up.
CALL_SECONDS = 20.0
# One at work, and some that may still wait for a connection that was given up.
THREADS = 4

P = ParamSpec("P")
T = TypeVar("T")


def open_relay(
    settings: DispatchSettings, queue: Queue, lanes: Sequence[str] = ()
) -> Relay | None:
    """The relay of Kinto's outbox; ``None`` where Kinto's storage has no transaction to join."""
    if not settings.has_transactional_outbox or settings.storage_url is None:
        return None
    from kinto_dispatch.outbox.reader import PostgresOutboxReader

    reader = PostgresOutboxReader(settings.storage_url.get_secret_value())
    return Relay(reader, queue, settings, lanes)


class Relay:
    """Feeds the log from one outbox. Any number may run, in any number of processes: one polls
    every 20 ms, the others each second, and one batch is under way at a time.

    ``lanes`` are registered with the queue before anything is fed again, since a new lane begins
    at the end of the log. So are those that Kinto has announced, before what it wrote since is
    appended: its ini may be newer than this worker's.
    """

    def __init__(
        self,
        reader: OutboxReader,
        queue: Queue,
        settings: DispatchSettings,
        lanes: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.relayed = 0
        """Rows relayed by this relay since it was made."""
        self.fed_again = 0
        """Rows that the log had lost and that were made to wait again."""
        self._reader = reader
        self._queue = queue
        self._keep_seconds = settings.outbox_keep_seconds
        self._lanes = tuple(lanes)
        self._clock = clock
        self._threads = ThreadPool("outbox", THREADS)
        self._turn = asyncio.Lock()
        self._log_mark: str | None = None
        self._leads = False
        self._other: str | None = None
        self._check_due = self._prune_due = clock()

    async def run(self, stopping: asyncio.Event) -> None:
        """Relay until ``stopping`` is set, through any absence of the outbox or the queue."""
        patience = Patience(stopping)
        try:
            while not stopping.is_set():
                started = self._clock()
                relayed = await patience.attempt(self._step, "the relay")
                if relayed is None:
                    self._check_due = self._clock()
                elif relayed == 0:
                    await patience.pause(self._pause_seconds(self._clock() - started))
        finally:
            self.close()

    def close(self) -> None:
        """Give back the connection, and with it the rows of a batch under way. ``run`` does it
        at its end."""
        self._reader.close()

    async def relay_once(self) -> int:
        """Relay one batch; how many rows. Zero when nothing waits, when another relay has a
        batch under way, and when the log turned out to have forgotten, which is seen to."""
        async with self._turn:
            return await self._relay_batch()

    async def check_mark(self) -> int:
        """Compare the log's mark with the outbox, and feed again what the log has lost; how many
        rows."""
        async with self._turn:
            return await self._compare_marks()

    async def waiting(self) -> int:
        """How many committed rows are not yet relayed."""
        async with self._turn:
            return (await self._call(self._reader.status)).waiting

    async def _step(self) -> int:
        async with self._turn:
            if self._clock() >= self._check_due:
                await self._look_for_others()
                await self._compare_marks()
                self._check_due = self._clock() + MARK_CHECK_SECONDS
            relayed = await self._relay_batch()
            if self._clock() >= self._prune_due:
                await self._prune()
            if not relayed:
                self._leads = await self._call(self._reader.lead)
            return relayed

    def _pause_seconds(self, took_seconds: float) -> float:
        """At most a fifth of the time goes into polling: as long as an old snapshot (a pg_dump)
        is open, PostgreSQL passes all rows relayed since on its way to the waiting ones."""
        wanted = HOT_SECONDS if self._leads else COLD_SECONDS
        return max(wanted, min(COLD_SECONDS, 4 * took_seconds))

    async def _relay_batch(self) -> int:
        batch = await self._call(self._reader.take, BATCH_EVENTS)
        if not batch.events:
            return 0
        try:
            appended = await self._append(batch)
        except Exception:
            await self._give_back()
            raise
        if not appended:
            await self._give_back()
            await self._compare_marks()
            return 0
        await self._call(self._reader.relayed)
        self.relayed += len(batch.events)
        return len(batch.events)

    async def _append(self, batch: Batch) -> bool:
        """Append to a log that has all batches before this one. False if it may not."""
        if is_behind(self._log_mark, batch.last):
            # Another relay was at work meanwhile; or the log has forgotten.
            _, self._log_mark = await self._queue.mark()
            if is_behind(self._log_mark, batch.last):
                return False
        await self._register(batch.lanes)
        if not await self._queue.append(batch.events, batch.mark, after=self._log_mark):
            return False
        self._log_mark = batch.mark
        return True

    async def _register(self, lanes: Sequence[str]) -> None:
        """Once for each; the queue remembers them, and appends to no log without them."""
        if new := [lane for lane in lanes if lane not in self._lanes]:
            await self._queue.register(new)
            self._lanes = (*self._lanes, *new)

    async def _look_for_others(self) -> None:
        """Of two outboxes that feed one log each hides from the other what the log has lost."""
        own = await self._call(self._reader.name)
        if own is None:
            return
        before = await self._queue.note_source(own)
        if before is not None and before not in (own, self._other):
            self._other = before
            logger.error(
                "relay.shared_log: the outbox %s feeds the same log as ours, %s. Where that is "
                "another Kinto, give each its own queue_prefix: they get each other's events, and "
                "what the queue forgets may be lost. After a move to another database it is said "
                "once and of no account.",
                *(before, own),
            )

    async def _compare_marks(self) -> int:
        # Before asking the log: what was relayed by now has to be in it.
        last = await self._call(self._reader.last_mark)
        _, mark = await self._queue.mark()
        # A log without memory has forgotten its lanes too, and they begin where it ends now.
        await self._queue.register(self._lanes)
        self._log_mark = mark
        if last is None or not is_behind(mark, last):
            return 0
        fed_again = 0
        while count := await self._call(self._reader.feed_again, mark, last):
            fed_again += count
            self.fed_again += count
        if fed_again:
            logger.warning("relay.fed_again rows=%d log_mark=%s last=%s", fed_again, mark, last)
        return fed_again

    async def _prune(self) -> None:
        pruned = await self._call(self._reader.prune, self._keep_seconds)
        self._prune_due = self._clock() + (PRUNE_AGAIN_SECONDS if pruned else PRUNE_SECONDS)

    async def _give_back(self) -> None:
        # When the outbox is away as well, its server has let go of the rows.
        with contextlib.suppress(OutboxUnavailable):
            await self._call(self._reader.give_back)

    async def _call(self, method: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a method of the reader in a thread. Whoever stops waiting for it, by time-out or
        because the worker ends, cuts its connection: the thread goes free, the rows too."""
        try:
            call = asyncio.wrap_future(self._threads.submit(partial(method, *args, **kwargs)))
            return await asyncio.wait_for(call, CALL_SECONDS)
        except (TimeoutError, PoolExhausted) as error:
            self._reader.close()
            reason = f"PostgreSQL did not answer within {CALL_SECONDS:g} s"
            raise OutboxUnavailable(f"The outbox cannot be used: {reason}.") from error
        except asyncio.CancelledError:
            self._reader.close()
            raise
