"""One delivery, run once: resolve, call, judge, measure, report."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from functools import partial
from typing import Any

import msgspec

from kinto_dispatch.attempt.record import AttemptRecord, log_attempt
from kinto_dispatch.attempt.run import CANCELLED, Run, UnderWay
from kinto_dispatch.attempt.verdict import Broken, Poison, broken, judge
from kinto_dispatch.delivery import Delivery
from kinto_dispatch.digest import read_event
from kinto_dispatch.errors import UndecodableEvent
from kinto_dispatch.event import Event
from kinto_dispatch.plugins import Channel
from kinto_dispatch.queue.values import Claim, Fate, Settlement
from kinto_dispatch.threads import PoolExhausted, ThreadPool


SPARE_THREADS = 8
MANY = 1_000_000
NOT_BEGUN = object()

_encode = msgspec.json.Encoder().encode


class Attempter:
    """Runs deliveries of one channel, on one event loop.

    Hooks that are coroutines may run in any number. Those that are plain functions need a thread
    each, which one that hangs keeps after its deadline. ``concurrency``, the channel's if left
    out, tells how many are wanted at a time; there are as many spare ones.
    """

    def __init__(
        self,
        channel: Channel,
        concurrency: int | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        concurrency = concurrency or channel.config.concurrency
        self._channel = channel
        self._seconds = channel.config.timeout_seconds
        self._clock = clock
        self._is_coroutine = channel.is_coroutine
        self._threads = ThreadPool(channel.name, concurrency + max(concurrency, SPARE_THREADS))
        self._under_way = UnderWay()
        self._context = copy_context()

    @property
    def room(self) -> int:
        """How many attempts can be begun now, as far as threads are concerned."""
        return MANY if self._is_coroutine else self._threads.bound - self._threads.busy

    async def attempt(self, claim: Claim) -> Settlement:
        """Run the delivery of this claim once. Never raises: whatever happens has a fate."""
        settled: asyncio.Future[Settlement] = asyncio.get_running_loop().create_future()
        run = self.start(claim, settled.set_result)
        try:
            return await settled
        finally:
            run.cancel()

    def start(
        self,
        claim: Claim,
        settle: Callable[[Settlement], None],
        may_begin: Callable[[], bool] = lambda: True,
        postpone: Callable[[], None] = lambda: None,
    ) -> Run:
        """Begin to run the delivery of this claim, and return. Never raises.

        ``may_begin`` is asked right before the hook is called, since this process may have stood
        still meanwhile, also from a thread. Where it says no, ``postpone`` is called instead of
        ``settle``.

        ``settle`` is called once, from the event loop, at the latest a second after the deadline,
        whatever the hook does; not any more once the run was cancelled.
        """
        at = self._clock()

        def tell(result: Any, took_seconds: float) -> None:
            self._under_way.discard(run)
            if result is NOT_BEGUN:
                postpone()
            else:
                settle(self._report(claim, result, at, took_seconds))

        run = Run(self._seconds, tell)
        self._under_way.add(run)
        self._call(claim, run, may_begin)
        return run

    def give_up(self, claim: Claim, reason: str, took_seconds: float = 0.0) -> Settlement:
        """The settlement of an attempt that was run elsewhere and brought no outcome."""
        return self._report(claim, Broken(reason), self._clock() - took_seconds, took_seconds)

    def condemn(self, claim: Claim, reason: str) -> Settlement:
        """The settlement of a delivery that kills the process that runs it."""
        return self._report(claim, Poison(reason), self._clock(), 0.0)

    # --- call ----------------------------------------------------------------------------

    def _call(self, claim: Claim, run: Run, may_begin: Callable[[], bool]) -> None:
        """Call the hook; ``run`` ends with what it returns, or with ``Broken``, but not before
        this returns."""
        loop = asyncio.get_running_loop()
        try:
            event = read_event(claim.body, claim.skipped)
            delivery = Delivery(claim.key, claim.attempt, claim.replay, self._seconds)
            if self._is_coroutine:
                hook = self._await_hook(event, delivery, run, may_begin)
                run.task = loop.create_task(hook, context=self._context.copy())
            else:
                call = self._threads.submit(partial(self._call_hook, event, delivery, may_begin))
                call.add_done_callback(partial(_end_from_thread, run, loop))
        except UndecodableEvent as error:
            loop.call_soon(run.end, Broken(str(error), final=True))
        except PoolExhausted as error:
            loop.call_soon(run.end, Broken(f"{error}; earlier attempts hang"))

    async def _await_hook(
        self, event: Event, delivery: Delivery, run: Run, may_begin: Callable[[], bool]
    ) -> None:
        if not may_begin():
            run.end(NOT_BEGUN)
            return
        try:
            result = await self._channel.call_async(event, delivery)
        except asyncio.CancelledError:
            result = CANCELLED
        except BaseException as error:  # SystemExit would end the event loop
            result = broken(error)
        run.end(result)

    def _call_hook(self, event: Event, delivery: Delivery, may_begin: Callable[[], bool]) -> Any:
        if not may_begin():
            return NOT_BEGUN
        try:
            return self._channel.call_async(event, delivery)
        except BaseException as error:
            return broken(error)

    # --- report --------------------------------------------------------------------------

    def _report(self, claim: Claim, result: Any, at: float, took_seconds: float) -> Settlement:
        fate, outcome, reason = self._judge(result, claim)
        record = AttemptRecord(
            # Without decoding the event, which may be what is wrong: keys begin with its id.
            event_id=claim.key.partition(":")[0],
            key=claim.key,
            channel=claim.lane,
            attempt=claim.attempt,
            outcome=outcome,
            at=at,
            duration_seconds=round(took_seconds, 6),
            reason=reason,
            replay=claim.replay,
        )
        log_attempt(record, fate)
        return Settlement(claim, fate, _encode(record))

    def _judge(self, result: Any, claim: Claim) -> tuple[Fate, str, str | None]:
        try:
            return judge(result, claim, self._channel)
        except Exception as error:  # of a plugin's own class of outcomes
            what = f"its outcome cannot be read: {type(error).__name__}"
            return judge(Broken(what), claim, self._channel)


def _end_from_thread(run: Run, loop: asyncio.AbstractEventLoop, call: Future[Any]) -> None:
    with contextlib.suppress(RuntimeError):  # The loop was closed meanwhile.
        loop.call_soon_threadsafe(run.end, call.result())
